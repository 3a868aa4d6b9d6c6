"""Integers at the ends of their range, unsigned ones from 2**63 on included: as numpy has them, or refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir.ops import operators
from planish.ir.ops.dtypes import to_numpy, to_torch

DTYPES = st.sampled_from([np.uint16, np.uint32, np.uint64])
Numpy = Callable[..., Any]
WRAPPING: dict[str, Numpy] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseXor": np.bitwise_xor,
    "Equal": np.equal,
}
ORDERED: dict[str, Numpy] = {
    "Max": np.maximum,
    "Min": np.minimum,
    "Less": np.less,
    "GreaterOrEqual": np.greater_equal,
}
OVER_AXES: dict[str, Numpy] = {"ReduceMax": np.max, "ReduceMin": np.min, "ReduceSum": np.sum, "ReduceProd": np.prod}


@st.composite
def rows(draw: st.DrawFn) -> list[np.ndarray]:
    dtype = draw(DTYPES)
    limit = int(np.iinfo(dtype).max)
    numbers = st.integers(0, limit) | st.sampled_from([0, 1, limit // 2, limit // 2 + 1, limit])
    return [np.array(draw(st.lists(numbers, min_size=4, max_size=4)), dtype) for _ in range(2)]


def run(name: str, *arrays: Any, **attributes: Any) -> Any:
    held = [to_torch(array) if isinstance(array, np.ndarray) else array for array in arrays]
    return to_numpy(operators()[name].function(*held, **attributes))


@pytest.mark.parametrize("name", [*WRAPPING, *ORDERED])
@settings(deadline=None)
@given(pair=rows())
def test_pairs_are_as_in_numpy(name: str, pair: list[np.ndarray]) -> None:
    with np.errstate(over="ignore"):
        expected = (WRAPPING | ORDERED)[name](*pair)
    np.testing.assert_array_equal(run(name, *pair), expected, strict=True)


@pytest.mark.parametrize("name", OVER_AXES)
@settings(deadline=None)
@given(pair=rows())
def test_reductions_are_as_in_numpy(name: str, pair: list[np.ndarray]) -> None:
    keywords = {"dtype": pair[0].dtype} if name in ("ReduceSum", "ReduceProd") else {}
    expected = np.asarray(OVER_AXES[name](pair[0], **keywords))
    np.testing.assert_array_equal(run(name, pair[0], keepdims=0), expected, strict=True)
    np.testing.assert_array_equal(run("ArgMax", pair[0], keepdims=0), np.argmax(pair[0]))


@settings(deadline=None)
@given(pair=rows(), shift=st.integers(0, 15))
def test_bits_and_places_are_as_in_numpy(pair: list[np.ndarray], shift: int) -> None:
    x, y = pair
    by = np.full_like(x, shift)
    np.testing.assert_array_equal(run("BitShift", x, by, direction="RIGHT"), x >> by, strict=True)
    np.testing.assert_array_equal(run("BitShift", x, by, direction="LEFT"), x << by, strict=True)
    np.testing.assert_array_equal(run("NonZero", x), np.stack(np.nonzero(x)))
    np.testing.assert_array_equal(run("Clip", x, x[:1], x[:1]), np.full_like(x, x[0]), strict=True)
    at = np.array([2, 0, 1, 3])
    np.testing.assert_array_equal(run("GatherElements", x, at), x[at], strict=True)
    for reduction, expected in (("none", y[np.argsort(at)]), ("max", np.maximum(x, y[np.argsort(at)]))):
        np.testing.assert_array_equal(run("ScatterElements", x, at, y, reduction=reduction), expected, strict=True)


@settings(deadline=None)
@given(pair=rows())
def test_a_quotient_is_right_or_refused(pair: list[np.ndarray]) -> None:
    x, y = pair[0], np.maximum(pair[1], 1)
    if x.dtype == np.uint64 and max(x.max(), y.max()) >= 2**63:
        with pytest.raises(ValueError, match=r"uint64 numbers from 2\*\*63 on"):
            run("Div", x, y)
        return
    np.testing.assert_array_equal(run("Div", x, y), x // y, strict=True)
    np.testing.assert_array_equal(run("Mod", x, y), x % y, strict=True)


def test_the_greatest_unsigned_integer_is_not_minus_one() -> None:
    found = run("Div", np.array([255, 7], np.uint8), np.array([255, 255], np.uint8))
    np.testing.assert_array_equal(found, np.array([1, 0], np.uint8), strict=True)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_the_least_integer_divided_by_minus_one_wraps(dtype: type) -> None:
    """It has no opposite, and the processor would stop the process."""
    least = np.iinfo(dtype).min
    found = run("Div", np.array([least, least, 7], dtype), np.array([-1, 2, -2], dtype))
    np.testing.assert_array_equal(found, np.array([least, least // 2, -3], dtype), strict=True)
