"""Conversions between arrays and ONNX Runtime's values.

Its Python binding takes and gives numpy's element types alone. Those of ml_dtypes go in and out by their bytes, packed
where an element has fewer than 8 bits: one element after the other, from the low bits of a byte to the high ones.
"""

import ctypes
from typing import Any

import numpy as np

from ...ir.types import DType


def from_array(array: np.ndarray) -> Any:
    """Return an array as an `OrtValue`, which may share its memory."""
    from onnxruntime import OrtValue

    array = np.asarray(array, order="C")
    dtype = DType.of(array.dtype)
    if not dtype.is_foreign:
        return OrtValue.ortvalue_from_numpy(array)
    held = array.view(f"uint{8 * array.itemsize}")
    if dtype.bits < 8:  # the runtime takes the shape from the array and reads as many bytes as it needs
        bits = np.unpackbits(held.reshape(-1, 1), 1, dtype.bits, "little")
        packed = np.packbits(bits, bitorder="little")
        held = np.resize(packed, held.shape)
    return OrtValue.ortvalue_from_numpy_with_onnx_type(held, dtype.value)


def to_array(value: Any, dtype: DType) -> np.ndarray:
    """Return an `OrtValue` as an array."""
    if not dtype.is_foreign:
        return value.numpy()
    shape = value.shape()
    count = int(np.prod(shape, dtype=int))
    held = np.frombuffer(bytearray(ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())), np.uint8)
    if dtype.bits < 8:
        bits = np.unpackbits(held, count=count * dtype.bits, bitorder="little")
        held = np.packbits(bits.reshape(count, dtype.bits), 1, "little")
    return held.view(dtype.numpy).reshape(shape)
