"""What each output position of a convolution reads."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...ir.graph import Node

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor


def windows(x: "Tensor", node: Node) -> "Tensor":
    """What each output position of a convolution reads, a view: `[N, C, *positions, *kernel]`."""
    import torch

    spatial = x.ndim - 2
    kernel = node.operand(1).type.static_shape[2:]
    strides = node.attributes.get("strides") or (1,) * spatial
    dilations = node.attributes.get("dilations") or (1,) * spatial
    pads = _pads(x, node, kernel, strides, dilations)
    widths = [width for axis in reversed(range(spatial)) for width in (pads[axis], pads[axis + spatial])]
    x = torch.nn.functional.pad(x, widths)
    for axis, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        x = x.unfold(axis + 2, (size - 1) * dilation + 1, stride)[..., ::dilation]
    return x


def _pads(
    x: "Tensor", node: Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Sequence[int]:
    """Zeros before and behind each spatial axis."""
    mode = node.attributes.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        return node.attributes.get("pads") or (0,) * (2 * len(kernel))
    before, behind = list[int](), list[int]()
    for size, width, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        less, more = total // 2, total - total // 2
        before.append(less if mode == "SAME_UPPER" else more)
        behind.append(more if mode == "SAME_UPPER" else less)
    return (*before, *behind)
