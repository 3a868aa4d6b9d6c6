"""Carriers: how TVM holds elements of at most 8 bits for which it has no kernels, in whole bytes."""

import numpy as np

from ....ir.types import DType


def is_carried(dtype: DType) -> bool:
    """Whether elements are held as another type: floats of up to 8 bits, and integers of fewer."""
    return dtype.bits < 8 + dtype.is_float


def carrier(dtype: DType) -> DType:
    """Return the element type that TVM holds a type in: small floats as codes, small integers as values."""
    if not is_carried(dtype):
        return dtype
    return DType.uint8 if dtype.is_float or dtype.is_unsigned else DType.int8


def carried(array: np.ndarray) -> np.ndarray:
    """Convert an array to its carrier, to give it to TVM."""
    dtype = DType.of(array.dtype)
    if not is_carried(dtype):
        return array
    to = carrier(dtype).numpy
    return array.view(to) if dtype.is_float else array.astype(to)


def restored(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Convert an array that TVM returned back to its own element type."""
    if not is_carried(dtype):
        return array
    return array.view(dtype.numpy) if dtype.is_float else array.astype(dtype.numpy)
