"""Sampling images at computed places."""

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from .from_data import FromData
from .registry import Ints, operator
from .window import kernel_sizes, window

_MODES = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}


@operator("GridSample")
def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    if not x.is_floating_point() and mode != "nearest":
        raise ValueError(f"what lies between elements of type {x.dtype} is undefined")
    working = torch.promote_types(x.dtype if x.is_floating_point() else torch.float64, grid.dtype)
    return F.grid_sample(x.to(working), grid.to(working), _MODES[mode], padding_mode, bool(align_corners)).to(x.dtype)


@operator(
    "AffineGrid",
    from_data={
        "size": FromData(
            lambda theta: range(1, theta.shape[1] + 1), lambda theta: [theta.shape[0], 1, 1, 1, 1][: theta.shape[1] + 2]
        )
    },
)
def affine_grid(theta: Tensor, size: Ints, *, align_corners: int = 0) -> Tensor:
    return F.affine_grid(theta, list(size), bool(align_corners))


@operator("DeformConv")
def deformable_conv(
    x: Tensor,
    w: Tensor,
    offset: Tensor,
    b: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    offset_group: int = 1,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """A convolution of images each tap of which is sampled at an offset, and weighted by a mask."""
    batch, channels, *sizes = x.shape
    over = window(sizes, kernel_sizes(w, kernel_shape), strides, dilations, pads, "NOTSET")
    taps, height, width = prod(over.kernel), offset.shape[2], offset.shape[3]
    # [batch * offset group, kernel row, kernel column, row or column, output row, output column]
    places = offset.reshape(-1, *over.kernel, 2, height, width).unbind(3)
    grid: list[Tensor] = []
    for axis, place in enumerate(places):
        tap = torch.arange(over.kernel[axis], device=x.device) * over.dilations[axis] - over.begin[axis]
        step = torch.arange(place.shape[3 + axis], device=x.device) * over.strides[axis]
        at = place + tap.reshape(-1, *(1,) * (3 - axis)) + step.reshape(-1, *(1,) * (1 - axis))
        grid.insert(0, (2 * at + 1) / sizes[axis] - 1)  # grid_sample takes x before y, from -1 to 1
    samples = F.grid_sample(
        x.reshape(batch * offset_group, -1, *sizes),
        torch.stack(grid, -1).reshape(batch * offset_group, taps * height, width, 2),
        align_corners=False,
    ).reshape(batch * offset_group, -1, taps, height, width)
    if mask is not None:
        samples = samples * mask.reshape(batch * offset_group, 1, taps, height, width)
    columns = samples.reshape(batch, group, channels // group * taps, height * width)
    y = (w.reshape(group, w.shape[0] // group, -1) @ columns).reshape(batch, w.shape[0], height, width)
    return y if b is None else y + b.reshape(-1, 1, 1)
