"""Elements read back to the same bits, from the shortest text that does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject, SearchStrategy

from planish.ir.elements import format_elements, parse_elements
from planish.ir.types import DType, TensorType


@given(st.data())
def test_any_array_reads_back_to_the_bit(arrays: SearchStrategy[np.ndarray], data: DataObject) -> None:
    array = data.draw(arrays)
    again = parse_elements(format_elements(array), TensorType.of(array))
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    if array.dtype == object:
        assert again.tolist() == array.tolist()
    else:
        assert again.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype.bits <= 16 and dtype is not DType.bool], ids=str)
def test_every_small_number_reads_back_to_the_bit(dtype: DType) -> None:
    step = 11 if dtype.bits == 16 else 1
    bits = np.arange(0, 2**dtype.bits, step, dtype=f"uint{8 * dtype.numpy.itemsize}")
    again = parse_elements(format_elements(bits.view(dtype.numpy)), TensorType(dtype, bits.shape))
    assert np.array_equal(again.view(bits.dtype), bits)


@pytest.mark.parametrize("dtype", [DType.float64, DType.float32, DType.float16, DType.bfloat16], ids=str)
def test_floats_take_the_fewest_digits_of_their_own_type(dtype: DType) -> None:
    array = np.array([0.1, 1.0, 1e-05, -0.0, np.inf, np.nan]).astype(dtype.numpy)
    assert format_elements(array) == ["0.1", "1.0", "1e-05", "-0.0", "inf", "nan"]


def test_an_unusual_nan_shows_its_bits() -> None:
    array = np.array([0xFFC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert format_elements(array) == ["0xffc00000", "0x7fc00001"]


@pytest.mark.parametrize(
    ("texts", "type", "message"),
    [
        (["256"], TensorType(DType.uint8, (1,)), "256 is no uint8"),
        (["-9"], TensorType(DType.int4, (1,)), "-9 is no int4"),
        (["2"], TensorType(DType.int2, (1,)), "2 is no int2"),
        (["1.5"], TensorType(DType.int64, (1,)), "1.5"),
        (["1"], TensorType(DType.bool, (1,)), "neither true nor false"),
        (["true"], TensorType(DType.string, (1,)), "true is not a string"),
        (["0x1ffff"], TensorType(DType.float16, (1,)), "no float16"),
        (["0x40"], TensorType(DType.float6_e2m3fn, (1,)), "no float6_e2m3fn"),
        (["1.0", "2.0"], TensorType(DType.float32, (3,)), "2 elements don't make a float32"),
        (["1.0", "2.0", "3.0"], TensorType(DType.complex64, (1,)), "3 elements don't make a complex64"),
        (["1.0"], TensorType(DType.float32, ("batch",)), "symbolic"),
    ],
)
def test_elements_that_do_not_belong_are_refused(texts: list[str], type: TensorType, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_elements(texts, type)
