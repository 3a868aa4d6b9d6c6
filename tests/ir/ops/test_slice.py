from itertools import product

import numpy as np
import pytest
import torch

from planish.ir.ops import operators

BOUNDS = (-(2**63), -7, -5, -4, -1, 0, 1, 4, 5, 6, 2**31 - 1, 2**63 - 1)


@pytest.mark.parametrize("step", [-6, -2, -1, 1, 3])
def test_every_slice_is_numpys(step: int) -> None:
    array = np.arange(5)
    for start, end in product(BOUNDS, BOUNDS):
        got = operators()["Slice"].function(torch.arange(5), [start], [end], [-1], [step])
        assert got.tolist() == array[start:end:step].tolist(), (start, end)


def test_split_gives_the_last_part_what_is_left() -> None:
    parts = operators()["Split"].function(torch.arange(7), num_outputs=3, outputs=3)
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_padding_may_be_longer_than_the_tensor(mode: str, size: int) -> None:
    array = np.arange(2 * size).reshape(2, size)
    got = operators()["Pad"].function(torch.from_numpy(array), [7, 4], None, [-1], mode=mode)
    assert got.tolist() == np.pad(array, [(0, 0), (7, 4)], mode).tolist()
