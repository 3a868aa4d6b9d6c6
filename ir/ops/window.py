"""Where sliding windows land: the padding rules that convolutions and pools share.

Nothing here branches on a size, since it may be symbolic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch.nn.functional as F
from torch import Tensor

from .sizes import larger

Pads = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """A window of `kernel` taps for each spatial axis, with what ONNX's attributes leave to defaults filled in.

    Attributes:
        begin: padding in front, by spatial axis; negative padding crops.
        end: padding behind.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: Pads
    end: Pads

    @property
    def extents(self) -> tuple[int, ...]:
        """How far a window reaches, by spatial axis: its taps and the gaps of its dilation."""
        return tuple((taps - 1) * gap + 1 for taps, gap in zip(self.kernel, self.dilations, strict=True))

    @property
    def symmetric_pads(self) -> Pads | None:
        """The padding, where it is concrete, the same on both sides and crops nothing."""
        concrete = all(isinstance(pad, int) for pad in chain(self.begin, self.end))
        return self.begin if concrete and self.begin == self.end and min(self.begin, default=0) >= 0 else None


def kernel_sizes(w: Tensor, named: tuple[int, ...] | None) -> Sequence[int]:
    """The spatial sizes of a convolution's weight, which an attribute may name as well.

    Raises:
        ValueError: it names others.
    """
    sizes = w.shape[2:]
    if named and all(isinstance(size, int) for size in sizes) and tuple(sizes) != named:
        raise ValueError(f"kernel_shape is {list(named)}, but the weight's is {list(sizes)}")
    return named or sizes


def window(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Pads | None,
    dilations: Pads | None,
    pads: Pads | None,
    auto_pad: str,
) -> Window:
    """The window over an input of spatial `sizes`, from the attributes that ONNX's sliding operators share."""
    rank = len(sizes)
    strides = strides or (1,) * rank
    dilations = dilations or (1,) * rank
    pads = pads if pads and auto_pad == "NOTSET" else (0,) * (2 * rank)
    free = Window(tuple(kernel), strides, dilations, pads[:rank], pads[rank:])
    if not auto_pad.startswith("SAME"):
        return free
    totals = [
        larger(0, ((size - 1) // stride) * stride + extent - size)
        for size, stride, extent in zip(sizes, strides, free.extents, strict=True)
    ]
    small = tuple(total // 2 for total in totals)
    large = tuple(total - half for total, half in zip(totals, small, strict=True))
    begin, end = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    return Window(free.kernel, strides, dilations, begin, end)


def pad_last(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0) -> Tensor:
    """The tensor with its last axes padded by a value, or cropped where the padding is negative."""
    kept = x.ndim - len(begin)
    padded = (size + pad + more for size, pad, more in zip(x.shape[kept:], begin, end, strict=True))
    sizes = (*x.shape[:kept], *padded)
    pads = list(chain.from_iterable(zip(reversed(begin), reversed(end), strict=True)))
    if not all(isinstance(size, int) for size in (*sizes, *pads)):
        return x.new_empty(sizes)  # without data; torch's kernel would fix symbolic sizes, a batch's too
    return F.pad(x, pads, value=value) if any(pads) else x
