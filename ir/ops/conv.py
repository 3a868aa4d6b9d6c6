"""Convolutions."""

from typing import Any

import torch
from torch import Tensor

from ..traits import Trait
from .registry import operator
from .window import kernel_sizes, pad_last, window

_LARGE = 1024
"""The pixels of an image from which on channels last are worth turning it."""


def _trained_conv(x: Tensor, w: Tensor, b: Tensor | None = None, *, group: int = 1, **attributes: Any) -> Tensor:
    """Turn a large image that a depthwise convolution reads to channels last, and all behind it with it.

    The gradients of such a convolution take torch a third of the time then.
    """
    if w.shape[1] == 1 < group and x.ndim == 4 and x.shape[2] * x.shape[3] >= _LARGE:
        x = x.contiguous(memory_format=torch.channels_last)
    return conv(x, w, b, group=group, **attributes)


@operator("Conv", trainable=_trained_conv, traits=Trait.CONTRACTING)
def conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    over = window(x.shape[2:], kernel_sizes(w, kernel_shape), strides, dilations, pads, auto_pad)
    padding = over.symmetric_pads
    if padding is None:
        x, padding = pad_last(x, over.begin, over.end), (0,) * len(over.kernel)
    return torch.convolution(x, w, b, over.strides, padding, over.dilations, False, (0,) * len(over.kernel), group)


@operator("ConvTranspose", traits=Trait.CONTRACTING)
def conv_transpose(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    output_padding: tuple[int, ...] | None = None,
    output_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    sizes = x.shape[2:]
    rank = len(sizes)
    over = window(sizes, kernel_sizes(w, kernel_shape), strides, dilations, pads, "NOTSET")
    begin, end, extra = over.begin, over.end, output_padding or (0,) * rank
    if auto_pad.startswith("SAME") and output_shape is None:
        output_shape = tuple(size * stride for size, stride in zip(sizes, over.strides, strict=True))
    if output_shape is not None:
        full = zip(sizes, over.strides, over.extents, extra, output_shape[-rank:], strict=True)
        totals = [(size - 1) * stride + extent + more - wanted for size, stride, extent, more, wanted in full]
        small = tuple(total // 2 for total in totals)
        large = tuple(total - half for total, half in zip(totals, small, strict=True))
        begin, end = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    if begin == end == over.symmetric_pads:
        return torch.convolution(x, w, b, over.strides, begin, over.dilations, True, extra, group)
    y = torch.convolution(x, w, None, over.strides, (0,) * rank, over.dilations, True, extra, group)
    y = pad_last(y, [-pad for pad in begin], [-pad for pad in end])
    return y if b is None else y + b.reshape(-1, *(1,) * rank)
