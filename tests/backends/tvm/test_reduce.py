import numpy as np
import pytest

X = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
NAMES = ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd")


def test_reductions_of_nothing_and_of_what_is_not_finite(agree) -> None:
    """The largest of no elements is minus infinity; NaN and infinity stay."""

    def build(op, x):
        shaped = [op(name, x, [0], keepdims=keeps) for name in NAMES for keeps in (0, 1)]
        return [*shaped, op.ReduceLogSumExp(x, [-1], keepdims=0), op.ReduceLogSumExp(x, [0, 2], keepdims=0)]

    odd = X.copy()
    odd[0, 0, 0], odd[0, 0, 1], odd[1, :, 1], odd[:, 1, 2] = np.nan, np.inf, -np.inf, 1000
    agree(build, odd, dims=[("n", "rows", 5)])
    agree(lambda op, x: build(op, x)[:8], odd[:0], dims=[("n", 4, 5)])


@pytest.mark.wide
@pytest.mark.parametrize(("keeps", "stays"), [(0, 0), (1, 1)])
def test_axes_that_only_data_tells(agree, keeps: int, stays: int) -> None:
    def build(op, x, axes):
        return [op(name, x, axes, keepdims=keeps, noop_with_empty_axes=stays) for name in ("ReduceMax", "ReduceMean")]

    agree(build, X, np.array([0, -1]), dims=[("n", 4, "columns"), (2,)], again=[[X[:2], np.array([1, 2])]])
