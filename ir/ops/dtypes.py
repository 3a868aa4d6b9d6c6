"""Conversions between numpy arrays and torch tensors, and between their element types and ours.

An element of fewer than 8 bits has a byte of its own, with its code in the low bits, under an element type that torch
can carry about but not compute with; `narrow` says what the bytes mean.
"""

import warnings

import numpy as np
import torch
from torch import Tensor

from ..types import DType
from .texts import STRING, to_array, to_tensor

_STAND_INS = {
    DType.string: STRING,
    DType.float4_e2m1fn: torch.bits4x2,
    DType.float6_e2m3fn: torch.bits8,
    DType.float6_e3m2fn: torch.bits1x8,
}
"""Stand-ins for types that torch lacks (its own float4 is a pair in a byte): opaque bytes with no other use here."""
_TORCH: dict[DType, torch.dtype] = {dtype: _STAND_INS.get(dtype) or getattr(torch, dtype.name) for dtype in DType}
_DTYPES: dict[torch.dtype, DType] = {there: dtype for dtype, there in _TORCH.items()}


def torch_dtype(dtype: DType) -> torch.dtype:
    """Torch's element type for ours."""
    return _TORCH[dtype]


def dtype_of(dtype: torch.dtype) -> DType:
    """Our element type for torch's.

    Raises:
        TypeError: ONNX has no such element type.
    """
    if dtype not in _DTYPES:
        raise TypeError(f"no tensor element type corresponds to {dtype}")
    return _DTYPES[dtype]


def to_torch(array: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory.

    The array may be read-only, as a memory-mapped weight is: then nobody may write into the tensor either.
    """
    dtype = DType.of(array.dtype)
    if dtype is DType.string:
        return to_tensor(array)
    if any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch has no negative strides
    if dtype.is_foreign:
        return _share(array.view(_carrier(dtype))).view(torch_dtype(dtype))
    return _share(array)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """An array that shares the memory of a tensor on the CPU, cut off from any gradient."""
    dtype = dtype_of(tensor.dtype)
    tensor = tensor.detach().cpu()
    if dtype is DType.string:
        return to_array(tensor)
    if dtype.is_foreign:
        return tensor.view(torch_dtype(DType.of(_carrier(dtype)))).numpy().view(dtype.numpy)
    return tensor.resolve_conj().resolve_neg().numpy()


def _carrier(dtype: DType) -> np.dtype:
    """The integers of the same width, as which a type that numpy lacks crosses over."""
    return np.dtype(f"uint{8 * dtype.numpy.itemsize}")


def _share(array: np.ndarray) -> Tensor:
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
