"""Conversions between element types: the nearest there is, bit for bit, for all numbers that could differ."""

import numpy as np
import pytest
import torch
from onnx.numpy_helper import saturate_cast

from planish.ir.ops.cast import convert
from planish.ir.ops.dtypes import to_numpy, to_torch, torch_dtype
from planish.ir.types import DType

POWERS = DType.float8_e8m0fnu
SMALL = [dtype for dtype in DType if dtype.is_float and dtype.bits <= 16 and dtype is not POWERS]
NARROW_INTEGERS = [dtype for dtype in DType if dtype.is_integer and dtype.bits < 8]


def converted(array: np.ndarray, to: DType, *, saturate: bool = True, round_mode: str = "up") -> np.ndarray:
    return to_numpy(convert(to_torch(array), torch_dtype(to), saturate=saturate, round_mode=round_mode))


def every(dtype: DType) -> np.ndarray:
    return np.arange(2**dtype.bits, dtype=f"uint{8 * dtype.numpy.itemsize}").view(dtype.numpy)


def halfway(dtype: DType) -> np.ndarray:
    """The numbers between each two neighbours of a type, and between the largest and where the next would be."""
    with np.errstate(invalid="ignore"):
        numbers = np.unique(every(dtype).astype(np.float64))
    numbers = numbers[np.isfinite(numbers)]
    numbers = np.append(numbers, 2 * numbers[-1] - numbers[-2])
    return (numbers[1:] + numbers[:-1]) / 2


def awkward(source: DType, to: DType) -> np.ndarray:
    """Every number of a small type; of a large one those beside the places where rounding turns, and odd ones."""
    if source.bits == 16:
        return every(source)
    with np.errstate(over="ignore"):
        middle = halfway(to).astype(source.numpy)
        beside = [np.nextafter(middle, np.array(end, source.numpy)) for end in (-np.inf, np.inf)]
    odd = np.array([0, np.nan, np.inf, 1e-30, 1e30], source.numpy)
    numbers = np.concatenate([middle, *beside, odd])
    return np.concatenate([numbers, -numbers])


@pytest.mark.parametrize("to", SMALL, ids=str)
@pytest.mark.parametrize("source", [DType.float16, DType.bfloat16, DType.float32], ids=str)
@pytest.mark.parametrize("saturate", [True, False])
def test_floats_go_to_the_nearest_bit_for_bit(source: DType, to: DType, saturate: bool) -> None:
    array = awkward(source, to)
    with np.errstate(all="ignore"):
        saturated = saturate and to.bits == 8
        wanted = saturate_cast(array, to.numpy) if saturated else array.astype(to.numpy)
        nan = np.isnan(wanted)
        got = converted(array, to, saturate=saturate)
        assert got.dtype == wanted.dtype
        assert np.isnan(got[nan]).all()  # of these there are several
    assert got[~nan].tobytes() == wanted[~nan].tobytes()


@pytest.mark.parametrize("to", SMALL, ids=str)
def test_float64_is_not_rounded_by_way_of_float32(to: DType) -> None:
    middle = halfway(to)[:-1]
    middle = middle[(np.abs(middle) > 1e-37)]  # what float32 holds exactly
    below, above = (converted(np.nextafter(middle, end), to).astype(np.float64) for end in (-np.inf, np.inf))
    assert np.all(below < middle)
    assert np.all(above > middle)


def test_a_gradient_passes_through_conversions_that_torch_can_make() -> None:
    x = torch.tensor([0.1, -2.0, 1e300], dtype=torch.float64, requires_grad=True)
    convert(x, torch.float16, saturate=True)[:2].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 0]


@pytest.mark.parametrize("dtype", [*SMALL, POWERS, *NARROW_INTEGERS], ids=str)
def test_small_numbers_widen_exactly(dtype: DType) -> None:
    array = every(dtype)
    to = DType.float32 if dtype.is_float else DType.int16
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(converted(array, to), array.astype(to.numpy))


@pytest.mark.parametrize("to", NARROW_INTEGERS, ids=str)
@pytest.mark.parametrize("source", [DType.int8, DType.uint8, DType.int64, DType.float32, DType.int4], ids=str)
def test_integers_lose_their_higher_bits(source: DType, to: DType) -> None:
    low, high = source.limits if source.is_integer and source.bits <= 8 else (-300, 300)
    numbers = np.arange(low, high + 1)
    got = converted(numbers.astype(source.numpy), to)
    first = to.limits[0]
    assert got.astype(np.int64).tolist() == [(number - first) % 2**to.bits + first for number in numbers.tolist()]


@pytest.mark.parametrize(
    ("saturate", "round_mode", "codes"),
    [
        (True, "up", [0, 0, 0, 0, 1, 127, 128, 128, 128, 254, 254, 254, 255]),
        (True, "down", [0, 0, 0, 0, 0, 127, 127, 127, 127, 254, 254, 254, 255]),
        (True, "nearest", [0, 0, 0, 0, 1, 127, 127, 128, 128, 254, 254, 254, 255]),
        (False, "up", [255, 255, 255, 0, 1, 127, 128, 128, 128, 254, 255, 255, 255]),
        (False, "nearest", [255, 255, 255, 0, 1, 127, 127, 128, 128, 254, 255, 255, 255]),
    ],
)
@pytest.mark.parametrize("source", [DType.float32, DType.float64, DType.bfloat16], ids=str)
def test_powers_of_two_round_as_they_are_told(source: DType, saturate: bool, round_mode: str, codes: list[int]) -> None:
    """The standard's table is followed: 0 and what is negative count as too small, infinity as too large."""
    numbers = [-1, 0, 2**-128, 2**-127, 1.5 * 2**-127, 1, 1.25, 1.5, 1.75, 2.0**127, 1.5 * 2**127, np.inf, np.nan]
    array = np.array(numbers).astype(source.numpy)
    assert converted(array, POWERS, saturate=saturate, round_mode=round_mode).view(np.uint8).tolist() == codes


def test_powers_of_two_are_told_in_float32() -> None:
    assert converted(np.array([2**24 + 1, 2**25 + 2**20]), POWERS).astype(np.float32).tolist() == [2.0**24, 2.0**26]


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype.is_float or dtype.is_integer], ids=str)
def test_numbers_go_through_strings_unchanged(dtype: DType) -> None:
    array = np.array([1, 0.5, 2, np.nan] if dtype.is_float and dtype.bits > 6 else [1, 0, 1]).astype(dtype.numpy)
    texts = converted(array, DType.string)
    assert texts.dtype == object
    again = converted(texts, dtype)
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again.astype(np.float64), array.astype(np.float64))
