"""Quantization to integers and back, and arithmetic on quantized tensors.

Integer products are summed in float64, which holds every sum of 8-bit products exactly and has fast kernels.
"""

import torch
from torch import Tensor

from ..traits import Trait
from ..types import DType
from .cast import convert
from .conv import conv
from .dtypes import dtype_of, torch_dtype
from .narrow import plain
from .registry import operator


def _spread(parameter: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """A scale or zero point so that it broadcasts against the tensor: one for all, by channel, or by block."""
    if block_size:
        return parameter.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    if parameter.ndim == 0 or x.ndim == 0:
        return parameter.reshape(())
    return parameter.reshape(-1, *(1,) * (x.ndim - 1 - axis % x.ndim))


def _quantized_type(zero_point: Tensor | None, output_dtype: int) -> torch.dtype:
    if zero_point is not None:
        return zero_point.dtype
    return torch_dtype(DType(output_dtype)) if output_dtype else torch.uint8


def _precision(scale: Tensor) -> torch.dtype:
    """The type in which a tensor is scaled: the scale's own, where torch can compute in it."""
    if not scale.is_floating_point():
        return torch.float64
    return scale.dtype if scale.dtype.itemsize > 1 else torch.float32


def _ratio(x: Tensor, scale: Tensor, axis: int, block_size: int, precision: int) -> Tensor:
    working = torch_dtype(DType(precision)) if precision else _precision(scale)
    return x.to(working) / _spread(scale, x, axis, block_size).to(working)


def _plus(y: Tensor, zero_point: Tensor | None, axis: int, block_size: int) -> Tensor:
    """The sum in at least float32: half precision doesn't hold every integer of 16 bits."""
    y = y.to(torch.promote_types(y.dtype, torch.float32))
    return y if zero_point is None else y + _spread(plain(zero_point), y, axis, block_size).to(y.dtype)


def _quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    """Floats on the grid of the quantized type, with a gradient that passes rounding straight through.

    It stops beyond the ends of an integer type.
    """
    to = _quantized_type(zero_point, output_dtype)
    ratio = _ratio(x, scale, axis, block_size, precision)
    if dtype_of(to).is_float:
        y = _plus(ratio, zero_point, axis, block_size)
        return y + (plain(convert(y, to, saturate=bool(saturate))).to(y.dtype) - y).detach()
    rounded = ratio + (torch.round(ratio) - ratio).detach()
    return _plus(rounded, zero_point, axis, block_size).clamp(*dtype_of(to).limits)


@operator("QuantizeLinear", trainable=_quantize, traits=Trait.QUANTIZING)
def quantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    to = _quantized_type(zero_point, output_dtype)
    y = _ratio(x, scale, axis, block_size, precision)
    if dtype_of(to).is_float:
        return convert(_plus(y, zero_point, axis, block_size), to, saturate=bool(saturate))
    low, high = dtype_of(to).limits
    y = _plus(y.round_(), zero_point, axis, block_size).clamp_(low, high).nan_to_num_(low)  # as runtimes make of NaN
    return convert(y, to, saturate=True)


@operator("DequantizeLinear")
def dequantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    working = torch.promote_types(_precision(scale), torch.float32)
    y = plain(x).to(working, copy=True)  # floats, where what is rounded is trained
    if zero_point is not None:
        y -= _spread(plain(zero_point), x, axis, block_size).to(working)
    y = y * _spread(scale, x, axis, block_size).to(working)
    return y.to(torch_dtype(DType(output_dtype)) if output_dtype else scale.dtype)


@operator("DynamicQuantizeLinear", traits=Trait.QUANTIZING | Trait.WITHOUT_GRADIENT)
def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _on_grid(x, x.amin(), x.amax())


@operator("planish::DynamicQuantizeRows", traits=Trait.QUANTIZING | Trait.WITHOUT_GRADIENT)
def dynamic_quantize_rows(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """DynamicQuantizeLinear with a grid for each row: scales and zero points are `[..., 1]` for an input `[..., n]`."""
    return _on_grid(x, x.amin(-1, keepdim=True), x.amax(-1, keepdim=True))


def _on_grid(x: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A tensor on the grid of uint8 that spans a range, widened to hold 0; the grid's scale and zero point."""
    low = low.clamp(max=0)
    scale = (high.clamp(min=0) - low) / 255
    scale = torch.where(scale == 0, 1, scale)
    zero_point = torch.round(-low / scale).clamp(0, 255).to(torch.uint8)
    integers = (torch.round(x / scale) + zero_point).clamp(0, 255).to(torch.uint8)
    return integers, scale, zero_point


def _shifted(x: Tensor, zero_point: Tensor | None) -> Tensor:
    return x.double() if zero_point is None else x.double() - zero_point.double()


def _rows(parameter: Tensor | None) -> Tensor | None:
    """A parameter of a left factor's rows, as a column."""
    return parameter if parameter is None or parameter.ndim != 1 else parameter.unsqueeze(-1)


def _filters(parameter: Tensor | None, w: Tensor) -> Tensor | None:
    """A parameter of a weight's output channels, so that it broadcasts against the weight."""
    return None if parameter is None else parameter.reshape(-1, *(1,) * (w.ndim - 1))


def requantize(total: Tensor, factor: Tensor, zero_point: Tensor) -> Tensor:
    """Sums of products as quantized numbers: scaled, rounded, shifted and cut to the zero point's type."""
    y = torch.round(total * factor) + zero_point.double()
    return y.clamp(*dtype_of(zero_point.dtype).limits).to(zero_point.dtype)


@operator("MatMulInteger", traits=Trait.WITHOUT_GRADIENT)
def matmul_integer(
    a: Tensor, b: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None
) -> Tensor:
    return (_shifted(a, _rows(a_zero_point)) @ _shifted(b, b_zero_point)).to(torch.int32)


@operator("ConvInteger", traits=Trait.WITHOUT_GRADIENT)
def conv_integer(
    x: Tensor,
    w: Tensor,
    x_zero_point: Tensor | None = None,
    w_zero_point: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    y = conv(
        _shifted(x, x_zero_point),
        _shifted(w, _filters(w_zero_point, w)),
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return y.to(torch.int32)


@operator("QLinearMatMul", traits=Trait.WITHOUT_GRADIENT)
def quantized_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    total = _shifted(a, _rows(a_zero_point)) @ _shifted(b, b_zero_point)
    left = _rows(a_scale)
    assert left is not None
    factor = left.float() * b_scale.float() / y_scale.float()  # half precision would round in between
    return requantize(total, factor, y_zero_point)


@operator("QLinearConv", traits=Trait.WITHOUT_GRADIENT)
def quantized_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    total = conv(
        _shifted(x, x_zero_point),
        _shifted(w, _filters(w_zero_point, w)),
        None if b is None else b.double(),
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    factor = x_scale * w_scale / y_scale
    return requantize(total, factor.reshape(-1, *(1,) * (x.ndim - 2)), y_zero_point)
