"""Which calibration data judge what was fitted to others."""

from planish.passes.judge import split


def test_batches_that_judge_are_not_fitted_to() -> None:
    assert split(8, 4) == ([0, 1, 2, 3], [4, 5, 6, 7])
    assert split(8, 8) == ([0, 1, 2, 4, 5, 6], [3, 7])
    assert split(2, 2) == ([0], [1])
    assert split(1, 1) == ([0], [0])
    assert split(0, 0) == ([], [])
