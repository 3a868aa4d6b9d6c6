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
