"""Conversions between element types.

Every conversion of floats rounds once, to the nearest, of two to the even one; only float8_e8m0fnu is another matter.
"""

import math

import torch
from torch import Tensor

from ..traits import Trait
from ..types import DType
from .dtypes import dtype_of, to_numpy, torch_dtype
from .narrow import is_narrow, narrow, plain
from .registry import operator
from .texts import STRING, from_texts, to_texts

_POWERS = torch.float8_e8m0fnu
_NEXT = {"down": 1.0, "nearest": 0.75, "up": math.nextafter(0.5, 1.0)}
"""The least number between 0.5 and 1 that becomes 1, for each way of rounding to powers of two."""


@operator(
    "Cast",
    types=lambda x, to, **attributes: torch.empty_like(x, dtype=torch_dtype(DType(to))),
    traits=Trait.ELEMENTWISE,
)
def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return convert(x, torch_dtype(DType(to)), saturate=bool(saturate), round_mode=round_mode)


@operator(
    "CastLike",
    types=lambda x, target, **attributes: torch.empty_like(x, dtype=target.dtype),
    traits=Trait.ELEMENTWISE,
)
def cast_like(x: Tensor, target: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return convert(x, target.dtype, saturate=bool(saturate), round_mode=round_mode)


@operator("BitCast", traits=Trait.ELEMENTWISE)
def bit_cast(x: Tensor, *, to: int) -> Tensor:
    """The same bits, read as another type of the same width."""
    if DType(to).bits != dtype_of(x.dtype).bits:
        raise ValueError(f"{dtype_of(x.dtype)} and {DType(to)} differ in width")
    return x.view(torch_dtype(DType(to)))


def convert(x: Tensor, to: torch.dtype, *, saturate: bool, round_mode: str = "up") -> Tensor:
    """The tensor in another element type.

    Numbers become strings as numpy prints them: the shortest decimals that read back to the same bits.

    Args:
        x: the tensor, of any type.
        to: the element type to convert to.
        saturate: whether what a float8 can't hold becomes its largest number, and otherwise infinity or NaN.
        round_mode: the rounding to float8_e8m0fnu, which has powers of two alone: "up", "down" or "nearest".
    """
    if x.dtype is to:
        return x
    if to is STRING:
        return from_texts(map(str, to_numpy(x).reshape(-1)), x.shape)
    x = _numbers(x, dtype_of(to)) if x.dtype is STRING else plain(x)
    if is_narrow(to):
        return narrow(x, to)
    if to is _POWERS:
        return _power(x, saturate, round_mode)
    if to.is_floating_point and to.itemsize < 4:
        x = _single(x)
    if not to.is_floating_point or to.itemsize > 1:
        return x.to(to)
    largest = torch.finfo(to).max
    if saturate:
        return x.clamp(-largest, largest).to(to)
    if to is torch.float8_e4m3fn:  # what rounds to more than the largest number, where torch would saturate
        return torch.where(x.abs() > 464, torch.full_like(x, torch.nan).copysign(x), x).to(to)
    return x.to(to)


def _numbers(x: Tensor, to: DType) -> Tensor:
    """The numbers that strings say, in a type that is wide enough for them."""
    if to.is_integer:
        return torch.tensor([_whole(text) for text in to_texts(x)], dtype=torch.int64).reshape(x.shape)
    return torch.tensor([float(text) for text in to_texts(x)], dtype=torch.float64).reshape(x.shape)


def _whole(text: str) -> int:
    return int(text) if text.strip().lstrip("+-").isdecimal() else int(float(text))


def _single(x: Tensor) -> Tensor:
    """The tensor in float32, inexact numbers with an odd last bit, so that rounding it further rounds the original."""
    y = x.float()
    if x.dtype is not torch.float64:
        return y
    bits = y.view(torch.int32)
    odd = (torch.where(y.double().abs() > x.abs(), bits - 1, bits) | 1).view(torch.float32)
    is_exact = (y.double() == x) | ~y.isfinite()
    return torch.where(is_exact, y, y + (odd - y).detach())


def _power(x: Tensor, saturate: bool, round_mode: str) -> Tensor:
    """Powers of two from 2**-127 to 2**127; anything beyond these, negative or 0 becomes the nearer end, or NaN.

    What is not float32 is converted to that first, as in the standard's reference and in ONNX Runtime.
    """
    x = x.float().double()  # whose exponent reaches all of these
    fraction, exponent = torch.frexp(x)
    codes = exponent + 126 + (fraction >= _NEXT[round_mode])
    codes = torch.where(x < 2.0**-127, 0 if saturate else 255, codes)
    codes = torch.where(x > 2.0**127, 254 if saturate else 255, codes)
    return torch.where(x.isnan(), 255, codes).to(torch.uint8).view(_POWERS)
