"""Models that take one sample at a time, on several at once: the same outputs in fewer runs."""

import numpy as np
import pytest
import torch

from planish.passes.training.vectorized import Vectorized

SAMPLES = [(torch.full((size, 2), float(size)), torch.tensor(number)) for number, size in enumerate([1, 3, 1, 2, 3])]


def test_samples_of_one_shape_run_together() -> None:
    shapes: list[tuple[int, ...]] = []

    def scale(x: torch.Tensor, factor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shapes.append(tuple(x.shape))
        return x.reshape(-1) * factor, x.sum()

    found = Vectorized(scale)(SAMPLES)

    assert shapes == [(1, 2), (3, 2), (2, 2)]
    for (x, factor), (scaled, total) in zip(SAMPLES, found, strict=True):
        np.testing.assert_array_equal(scaled, x.reshape(-1) * factor)
        assert total == x.sum()


def test_a_choice_by_what_is_in_a_tensor_runs_samples_one_by_one() -> None:
    tried: list[torch.Tensor] = []

    def choose(x: torch.Tensor, number: torch.Tensor) -> tuple[torch.Tensor]:
        tried.append(number)
        return (x if number > 1 else -x,)

    run = Vectorized(choose)

    assert [float(outputs[0][0, 0]) for outputs in run(SAMPLES)] == [-1, -3, 1, 2, 3]
    assert [float(outputs[0][0, 0]) for outputs in run(SAMPLES)] == [-1, -3, 1, 2, 3]
    assert len(tried) == 1 + 2 * len(SAMPLES)


def test_samples_that_a_model_does_not_take_are_refused_as_one_would_be() -> None:
    with pytest.raises(IndexError, match="Dimension out of range"):
        Vectorized(lambda x, number: (x.sum(5), number))(SAMPLES)
