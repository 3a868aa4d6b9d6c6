"""Pools: one window at a time, or the whole plane.

Sums and maxima over a window are separable, so that one axis after the other serves any rank, padding and dilation.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import operator
from .sizes import smaller
from .window import Window, pad_last, window


def _ceiling_end(over: Window, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The padding behind that makes the last, partial windows whole, as long as they start before that padding."""
    ends: list[int] = []
    for axis, (size, stride, extent) in enumerate(zip(sizes, over.strides, over.extents, strict=True)):
        begin, end = over.begin[axis], over.end[axis]
        partial = (size + begin + end - extent + stride - 1) // stride + 1
        count = smaller(partial, (size + begin + stride - 1) // stride)
        ends.append((count - 1) * stride + extent - size - begin)
    return tuple(ends)


def _slide(x: Tensor, over: Window, combine: Callable[[Tensor], Tensor]) -> Tensor:
    """Combine each window's taps, one spatial axis after the other."""
    first = x.ndim - len(over.kernel)
    for axis, (stride, gap, extent) in enumerate(zip(over.strides, over.dilations, over.extents, strict=True), first):
        x = combine(x.unfold(axis, extent, stride)[..., ::gap])
    return x


def _sum(taps: Tensor) -> Tensor:
    return taps.sum(-1)


@operator("AveragePool")
def average_pool(
    x: Tensor,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    sizes = tuple(x.shape[2:])
    over = window(sizes, kernel_shape, strides, dilations, pads, auto_pad)
    end = _ceiling_end(over, sizes) if ceil_mode else over.end
    total = _slide(pad_last(x, over.begin, end), over, _sum)
    counted = x.new_ones((1, 1, *sizes))
    if count_include_pad:
        counted = pad_last(counted, over.begin, over.end, 1)
        beyond = [reach - pad for reach, pad in zip(end, over.end, strict=True)]
        counted = pad_last(counted, (0,) * len(sizes), beyond)
    else:
        counted = pad_last(counted, over.begin, end)
    return total / _slide(counted, over, _sum)


@operator("LpPool")
def lp_pool(
    x: Tensor,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None,
    p: int = 2,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    sizes = tuple(x.shape[2:])
    over = window(sizes, kernel_shape, strides, dilations, pads, auto_pad)
    end = _ceiling_end(over, sizes) if ceil_mode else over.end
    return _slide(pad_last(x.abs() ** p, over.begin, end), over, _sum) ** (1 / p)


@operator("MaxPool")
def max_pool(
    x: Tensor,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    storage_order: int = 0,
    strides: tuple[int, ...] | None = None,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, Tensor]:
    sizes = tuple(x.shape[2:])
    over = window(sizes, kernel_shape, strides, dilations, pads, auto_pad)
    end = _ceiling_end(over, sizes) if ceil_mode else over.end
    lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    padded = pad_last(x, over.begin, end, lowest)
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(sizes) - 1]
    if outputs == 1:
        if len(sizes) == 2:  # torch is twice as fast over channels that lie side by side
            padded = padded.contiguous(memory_format=torch.channels_last)
        return pool(padded, over.kernel, over.strides, dilation=over.dilations)
    y, at = pool(padded, over.kernel, over.strides, dilation=over.dilations, return_indices=True)
    return y, _positions(at, padded.shape[2:], x, over.begin, bool(storage_order))


def _positions(at: Tensor, padded: torch.Size, x: Tensor, begin: tuple[int, ...], column_major: bool) -> Tensor:
    """Positions in the whole flat input, from positions in a padded plane."""
    sizes = x.shape[2:]
    coordinates: list[Tensor] = []
    for size, skipped in zip(reversed(padded), reversed(begin), strict=True):
        coordinates.insert(0, at % size - skipped)
        at = at // size
    order = range(len(sizes)) if not column_major else reversed(range(len(sizes)))
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device)
    flat = planes.reshape(x.shape[0], x.shape[1], *(1,) * len(sizes))
    for axis in order:
        flat = flat * sizes[axis] + coordinates[axis]
    return flat


def _plane(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


@operator("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(_plane(x), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(_plane(x), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    return torch.linalg.vector_norm(x, p, _plane(x), keepdim=True)
