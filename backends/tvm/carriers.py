"""How TVM holds elements that it has no kernels for: those of at most 8 bits in whole bytes."""

import numpy as np

from ...ir.types import DType


def is_carried(dtype: DType) -> bool:
    """Whether elements are held as something else: floats of up to 8 bits, integers of less."""
    return dtype.bits < 8 + dtype.is_float and (dtype.is_float or dtype.is_integer)


def carrier(dtype: DType) -> DType:
    """The element type that TVM holds one in: small floats as their codes, small integers as their values."""
    if not is_carried(dtype):
        return dtype
    return DType.uint8 if dtype.is_float or dtype.name.startswith("u") else DType.int8


def carried(array: np.ndarray) -> np.ndarray:
    """An array as TVM is given it."""
    dtype = DType.of(array.dtype)
    if not is_carried(dtype):
        return array
    to = carrier(dtype).numpy
    return array.view(to) if dtype.is_float else array.astype(to)


def restored(array: np.ndarray, dtype: DType) -> np.ndarray:
    """An array that TVM gave, in its own element type."""
    if not is_carried(dtype):
        return array
    return array.view(dtype.numpy) if dtype.is_float else array.astype(dtype.numpy)
