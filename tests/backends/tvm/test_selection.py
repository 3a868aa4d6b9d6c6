import numpy as np
import pytest

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8, bool])
def test_places_of_what_is_not_zero(agree, dtype: type) -> None:
    x, other = (RNG.integers(0, 2, shape).astype(dtype) for shape in ((2, 3, 4), (5, 3, 2)))
    agree(lambda op, x: op.NonZero(x), x, dims=[("a", 3, "b")], again=[(other,), (np.zeros_like(x),), (x[:0],)])


def test_selected_rows(agree) -> None:
    x, which = RNG.standard_normal((4, 3)).astype(np.float32), np.array([True, False, True, True])
    agree(lambda op, x, which: op.Compress(x, which, axis=0), x, which, dims=[("n", 3), ("n",)])
    agree(lambda op, x, which: op.ReduceSum(op.Compress(x, which), [0]), x, which)


@pytest.mark.parametrize("is_last", [0, 1])
@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin"])
def test_places_of_extremes(agree, operator: str, is_last: int) -> None:
    x = RNG.integers(-2, 3, (3, 4, 5)).astype(np.float32)
    x[0, 1, 2], x[1, :, 0], x[2, 0, 1] = np.nan, np.inf, -np.inf

    def build(op, x):
        return [op(operator, x, axis=axis, keepdims=axis % 2, select_last_index=is_last) for axis in (0, 1, -1)]

    agree(build, x, dims=[("a", "b", 5)])
    agree(build, x.astype(np.float64))
    agree(build, np.nan_to_num(x, posinf=9, neginf=-9).astype(np.int32))


@pytest.mark.parametrize("largest", [0, 1])
def test_numbers_that_are_none_are_sorted_too(agree, largest: int) -> None:
    x = RNG.integers(-2, 3, (3, 9)).astype(np.float32)
    x[0, 3:5], x[1, 2], x[2, 1:3] = np.nan, -np.inf, (-0.0, np.inf)
    agree(lambda op, x: op.TopK(x, [4], largest=largest, outputs=2), x, dims=[("n", 9)])
    agree(lambda op, x: op.TopK(x, [9], axis=1, largest=largest, outputs=2), x.astype(np.float64))
    agree(lambda op, x, k: op.TopK(x, k, largest=largest, outputs=2), x, np.array([5]))
