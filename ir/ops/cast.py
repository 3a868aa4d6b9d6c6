"""Conversions between element types."""

import torch
from torch import Tensor

from ..types import DType
from .dtypes import INT4, UINT4, torch_dtype
from .registry import operator

_LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}


@operator("Cast")
def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return convert(x, torch_dtype(DType(to)), saturate=bool(saturate))


@operator("CastLike")
def cast_like(x: Tensor, target: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return convert(x, target.dtype, saturate=bool(saturate))


def convert(x: Tensor, to: torch.dtype, *, saturate: bool) -> Tensor:
    """The tensor in another element type; what float8 can't hold becomes its largest value if it saturates."""
    x = plain(x)
    if to is INT4:
        return (((x.to(torch.int8) + 8) & 15) - 8).view(to)
    if to is UINT4:
        return (x.to(torch.uint8) & 15).view(to)
    if to in _LARGEST:
        x = x.float()
        return x.clamp(-_LARGEST[to], _LARGEST[to]).to(to) if saturate else _unsaturated(x, to)
    return x.to(to)


def _unsaturated(x: Tensor, to: torch.dtype) -> Tensor:
    """float8 with infinity, or without one NaN, for what rounds to more than its largest value."""
    return torch.where(x.abs() > 464, torch.nan, x).to(to) if to is torch.float8_e4m3fn else x.to(to)


def plain(x: Tensor) -> Tensor:
    """4-bit integers as the bytes that hold them, which torch can compute with; others as they are."""
    if x.dtype is INT4:
        return x.view(torch.int8)
    return x.view(torch.uint8) if x.dtype is UINT4 else x
