"""Elements that torch can carry but not compute with: integers of 2 and 4 bits, floats of 4 and 6.

Each has a byte of its own, with its ONNX code in the low bits. The floats have no infinities and no NaN.
"""

from collections.abc import Callable
from functools import cache, wraps
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..types import DType
from .dtypes import dtype_of
from .texts import STRING


def is_narrow(dtype: torch.dtype) -> bool:
    return dtype_of(dtype).bits < 8


def plain(x: Tensor) -> Tensor:
    """Narrow integers as int8 or uint8, narrow floats as float32; other tensors as they are."""
    if not is_narrow(x.dtype):
        return x
    dtype = dtype_of(x.dtype)
    codes = x.view(torch.uint8) & _mask(dtype)
    if dtype.is_float:
        table = torch.tensor(_values(dtype), device=x.device)
        return table.index_select(0, codes.int().reshape(-1)).reshape(codes.shape)
    if not dtype.limits[0]:
        return codes
    unused = 8 - dtype.bits
    return (codes.view(torch.int8) << unused) >> unused  # brings the sign down


def narrow(x: Tensor, to: torch.dtype) -> Tensor:
    """Numbers as elements of a narrow type: integers lose their higher bits, floats go to the nearest there is."""
    dtype = dtype_of(to)
    if dtype.is_float:
        return _nearest(x, dtype).view(to)
    whole = x.to(torch.int32) if x.is_floating_point() else x
    return (whole.to(torch.uint8) & _mask(dtype)).view(to)


def _nearest(x: Tensor, dtype: DType) -> Tensor:
    """The codes of the nearest numbers, of two the even code; NaN becomes a zero of the other sign, as in ml_dtypes."""
    x = x if x.dtype is torch.float64 else x.float()
    numbers = _values(dtype)[: 1 << (dtype.bits - 1)]  # those that aren't negative, in ascending order
    between = [(low + high) / 2 for low, high in pairwise(numbers)]
    bounds = torch.tensor(between, dtype=x.dtype, device=x.device)
    size = x.abs().contiguous()
    below, up_to = (torch.bucketize(size, bounds, right=right) for right in (False, True))
    codes = torch.where(below % 2 == 1, up_to, below)  # they differ halfway between two numbers alone
    codes = torch.where(x.isnan(), 0, codes)
    negative = x.signbit() ^ x.isnan()
    return (codes + (negative.long() << (dtype.bits - 1))).to(torch.uint8)


def _mask(dtype: DType) -> int:
    return (1 << dtype.bits) - 1


@cache
def _values(dtype: DType) -> tuple[float, ...]:
    """The numbers of a narrow float type, by code."""
    return tuple(np.arange(1 << dtype.bits, dtype=np.uint8).view(dtype.numpy).astype(np.float32).tolist())


def bytewise(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that only moves or compares elements, extended to element types that torch can't handle.

    It gets their bytes instead, or the numbers of strings.
    """

    @wraps(function)
    def run(*inputs: Any, **attributes: Any) -> Tensor:
        opaque = next((x.dtype for x in inputs if isinstance(x, Tensor) and _is_opaque(x.dtype)), None)
        if opaque is None:
            return function(*inputs, **attributes)
        held = torch.int32 if opaque is STRING else torch.uint8
        y = function(
            *(x.view(held) if isinstance(x, Tensor) and x.dtype is opaque else x for x in inputs), **attributes
        )
        return y.contiguous().view(opaque) if y.dtype is held else y

    return run


def _is_opaque(dtype: torch.dtype) -> bool:
    return dtype in (torch.float8_e8m0fnu, STRING) or is_narrow(dtype)
