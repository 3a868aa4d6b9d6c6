"""Tensors made from sizes and numbers."""

import numpy as np
import torch
from torch import Tensor

from ..types import DType
from .dtypes import torch_dtype
from .from_data import FromData, places
from .registry import Ints, operator


@operator("ConstantOfShape", from_data={"shape": FromData(lambda row: [{i: i for i in places(row)}], is_size=True)})
def constant_of_shape(shape: Ints, *, value: np.ndarray | None = None) -> Tensor:
    if value is None:
        return torch.zeros(tuple(shape))
    dtype = DType.of(value.dtype)
    if dtype.is_foreign and dtype.bits <= 8:  # torch can't fill with most of them
        return torch.full(tuple(shape), value.view(np.uint8).item(), dtype=torch.uint8).view(torch_dtype(dtype))
    return torch.full(tuple(shape), value.item(), dtype=torch_dtype(dtype))


@operator("EyeLike")
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    columns = torch.arange(x.shape[1], device=x.device)
    return (columns - rows == k).to(x.dtype if dtype is None else torch_dtype(DType(dtype)))


@operator("OneHot", from_data={"depth": FromData(lambda axis: [{axis: 0}], 1, is_size=True)})
def one_hot(indices: Tensor, depth: Ints, values: Tensor, *, axis: int = -1) -> Tensor:
    indices = indices.long()
    count = int(depth[0]) if isinstance(depth[0], float) else depth[0]
    indices = torch.where(indices < 0, indices + count, indices)
    classes = torch.arange(count, device=indices.device)
    axis = axis % (indices.ndim + 1)
    hot = indices.unsqueeze(axis) == classes.reshape(-1, *(1,) * (indices.ndim - axis))
    return torch.where(hot, values[1], values[0])


@operator(
    "Range",
    from_data={name: FromData(lambda: [0], row) for name, row in {"start": 0, "limit": 1, "delta": 1}.items()},
)
def range_(start: Ints, limit: Ints, delta: Ints, *, stash_type: int = 1, input_dtype: torch.dtype) -> Tensor:
    """Count from a start up to a limit; torch adds up half precision in a wider type, as `stash_type` asks."""
    first, beyond, step = start[0], limit[0], delta[0]
    if isinstance(step, int | float) and step == 0:
        raise ValueError("it has steps of 0")
    if beyond <= first if step > 0 else beyond >= first:
        return torch.empty(0, dtype=input_dtype)
    return torch.arange(first, beyond, step, dtype=input_dtype)
