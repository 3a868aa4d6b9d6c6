"""What each output position of a convolution reads."""

from typing import TYPE_CHECKING

from ..ir.graph import Node

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor


def windows(x: "Tensor", node: Node) -> "Tensor":
    """What each output position of a convolution reads, as a view: `[N, C, *positions, *kernel]`."""
    from ..ir.ops.window import pad_last, window  # brings torch, which listing the passes must not

    strides, dilations, pads = (node.attributes.get(name) for name in ("strides", "dilations", "pads"))
    kernel, auto_pad = node.operand(1).type.static_shape[2:], node.attributes.get("auto_pad", "NOTSET")
    over = window(x.shape[2:], kernel, strides, dilations, pads, auto_pad)
    x = pad_last(x, over.begin, over.end)
    for axis, (extent, stride, dilation) in enumerate(zip(over.extents, over.strides, over.dilations, strict=True)):
        x = x.unfold(axis + 2, extent, stride)[..., ::dilation]
    return x


def window_rows(x: "Tensor", node: Node, places: "Tensor") -> "Tensor":
    """What a convolution reads at some output positions, `[N, places, C * kernel]`, as its weight lies.

    Args:
        x: what the convolution reads.
        node: the convolution.
        places: the output positions, counted through all spatial axes.
    """
    import torch

    seen = windows(x, node)
    over = x.ndim - 2
    index = torch.unravel_index(places, seen.shape[2 : 2 + over])
    return seen.movedim(1, 1 + over)[(slice(None), *index)].flatten(2)


def positions(x: "Tensor", node: Node) -> int:
    """How many output positions a convolution has for each sample."""
    return windows(x, node).shape[2 : x.ndim].numel()
