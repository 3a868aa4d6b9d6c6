"""Allocation: as much is saved as was wanted, and no layer could lose less and still save enough."""

import numpy as np
import pytest

from planish.passes.lowrank.allocation import Choices, allocate


@pytest.mark.parametrize("seed", range(20))
def test_no_other_choice_of_one_layer_loses_less_and_saves_enough(seed: int) -> None:
    random = np.random.default_rng(seed)
    layers: dict[int, Choices] = {}
    for layer in range(3):
        losses = np.sort(random.exponential(size=12))[::-1].copy()
        layers[layer] = Choices.of(losses, 12.0, 8.0, 100.0)
    wanted = float(random.uniform(50, 200))

    cuts = allocate(layers, wanted)

    chosen = {layer: layers[layer].cuts.index(cut) for layer, cut in cuts.items()}
    spare = sum(layers[layer].saved[place] for layer, place in chosen.items()) - wanted
    assert spare >= 0
    for layer, place in chosen.items():
        enough = layers[layer].saved >= layers[layer].saved[place] - spare
        assert layers[layer].losses[enough].min() == layers[layer].losses[place]


def test_ranks_of_many_channels_are_multiples_of_a_block() -> None:
    ranks = [cut.rank for cut in Choices.of(np.zeros(90), 90.0, 1.0, 100.0, block=4).cuts]
    assert ranks == [*range(1, 16), *range(16, 64, 4), 64, 72, 80, 88]
