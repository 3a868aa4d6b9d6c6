"""How TVM holds elements that it has no kernels for: those of less than 16 bits in whole bytes."""

import numpy as np

from ...ir.types import DType

_CARRIERS = {
    DType.float8_e4m3fn: DType.uint8,
    DType.float8_e5m2: DType.uint8,
    DType.int4: DType.int8,
    DType.uint4: DType.uint8,
}


def carrier(dtype: DType) -> DType:
    """The element type that TVM holds one in: floats of 8 bits as their codes, integers of 4 bits as their values."""
    return _CARRIERS.get(dtype, dtype)


def carried(array: np.ndarray) -> np.ndarray:
    """An array as TVM is given it."""
    dtype = DType.of(array.dtype)
    if dtype not in _CARRIERS:
        return array
    to = carrier(dtype).numpy
    return array.view(to) if dtype.is_float else array.astype(to)


def restored(array: np.ndarray, dtype: DType) -> np.ndarray:
    """An array that TVM gave, in its own element type."""
    if dtype not in _CARRIERS:
        return array
    return array.view(dtype.numpy) if dtype.is_float else array.astype(dtype.numpy)
