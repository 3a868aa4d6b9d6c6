"""Between numpy arrays and torch tensors, and between their element types and ours.

A 4-bit integer is held in a byte of its own, sign-extended, under torch's `int4` or `uint4`: torch can carry such
tensors about and view them as bytes, which is all that operators on them need.
"""

import warnings

import numpy as np
import torch
from torch import Tensor

from ..types import DType

_TORCH: dict[DType, torch.dtype] = {dtype: getattr(torch, dtype.name) for dtype in DType if dtype is not DType.string}
_DTYPES: dict[torch.dtype, DType] = {there: dtype for dtype, there in _TORCH.items()}
_CARRIERS: dict[DType, tuple[type[np.generic], torch.dtype]] = {
    DType.bfloat16: (np.int16, torch.int16),
    DType.float8_e4m3fn: (np.uint8, torch.uint8),
    DType.float8_e5m2: (np.uint8, torch.uint8),
}
"""Types that numpy lacks cross over as integers of their width."""
INT4, UINT4 = _TORCH[DType.int4], _TORCH[DType.uint4]
_NIBBLES: dict[DType, tuple[type[np.generic], torch.dtype]] = {
    DType.int4: (np.int8, torch.int8),
    DType.uint4: (np.uint8, torch.uint8),
}


def torch_dtype(dtype: DType) -> torch.dtype:
    """Torch's element type for ours.

    Raises:
        TypeError: it is `string`, which torch has no tensors of.
    """
    if dtype not in _TORCH:
        raise TypeError(f"torch has no tensors of {dtype}")
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
    """A tensor that shares the array's memory; 4-bit integers are copied into their form in torch.

    The array may be read-only, as a memory-mapped weight is: then nobody may write into the tensor either.
    """
    dtype = DType.of(array.dtype)
    if any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch has no negative strides
    if dtype in _NIBBLES:
        carrier, _ = _NIBBLES[dtype]
        return torch.from_numpy(array.astype(carrier)).view(torch_dtype(dtype))
    if dtype in _CARRIERS:
        carrier, _ = _CARRIERS[dtype]
        return _share(array.view(carrier)).view(torch_dtype(dtype))
    return _share(array)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """An array that shares the memory of a tensor on the CPU, cut off from any gradient; 4-bit integers are copied."""
    dtype = dtype_of(tensor.dtype)
    tensor = tensor.detach().cpu()
    if dtype in _NIBBLES:
        _, carrier = _NIBBLES[dtype]
        return tensor.view(carrier).numpy().astype(dtype.numpy)
    if dtype in _CARRIERS:
        _, carrier = _CARRIERS[dtype]
        return tensor.view(carrier).numpy().view(dtype.numpy)
    return tensor.resolve_conj().resolve_neg().numpy()


def _share(array: np.ndarray) -> Tensor:
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
