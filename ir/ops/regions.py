"""Pooling over regions of images. A region is `[x1, y1, x2, y2]` in the units of another image, scaled to this one."""

import math

import torch
from torch import Tensor

from .registry import operator


def _aligned_type(
    x: Tensor, rois: Tensor, batch: Tensor, *, output_height: int = 1, output_width: int = 1, **attributes: object
) -> Tensor:
    return x.new_empty((rois.shape[0], x.shape[1], output_height, output_width))


@operator("RoiAlign", types=_aligned_type)
def roi_align(
    x: Tensor,
    rois: Tensor,
    batch: Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Each cell of a region's grid is the mean of samples in it, or the greatest of the weighted pixels around them."""
    half = coordinate_transformation_mode == "half_pixel"
    corners = rois.to(torch.promote_types(rois.dtype, torch.float32)) * spatial_scale - (0.5 if half else 0)
    regions: list[Tensor] = []
    for corner, index in zip(corners, batch.tolist(), strict=True):
        rows = _taps(corner[1], corner[3], x.shape[2], output_height, sampling_ratio, half=half)
        columns = _taps(corner[0], corner[2], x.shape[3], output_width, sampling_ratio, half=half)
        taps = x[index].index_select(1, rows[0].reshape(-1)).index_select(2, columns[0].reshape(-1))
        taps = taps * rows[1].reshape(-1, 1).to(x.dtype) * columns[1].reshape(-1).to(x.dtype)
        counts = (output_height, rows[0].shape[1], output_width, columns[0].shape[1])
        cells = taps.reshape(x.shape[1], *counts)
        regions.append(_pooled(cells, mode))
    return torch.stack(regions) if regions else x.new_zeros((0, x.shape[1], output_height, output_width))


def _pooled(cells: Tensor, mode: str) -> Tensor:
    """Cells `[channel, row, taps, column, taps]`, of which four taps make a sample."""
    if not cells.numel():
        return cells.sum((2, 4))
    return cells.sum((2, 4)) / (cells.shape[2] * cells.shape[4] / 4) if mode == "avg" else cells.amax((2, 4))


def _taps(first: Tensor, last: Tensor, size: int, cells: int, ratio: int, *, half: bool) -> tuple[Tensor, Tensor]:
    """The pixels along an axis that a region's samples read, and their weights: `[cell, 2 * samples]` each."""
    extent = last - first if half else (last - first).clamp(min=1)
    count = ratio or max(0, math.ceil(extent / cells))
    at = (torch.arange(cells * count, device=first.device) + 0.5) * (extent / cells / max(count, 1)) + first
    inside = (at >= -1) & (at <= size)
    at = at.clamp(0, size - 1)
    low = at.floor()
    share = at - low
    pixels = torch.stack([low, (low + 1).clamp(max=size - 1)], -1).long()
    weights = torch.stack([1 - share, share], -1) * inside.unsqueeze(-1)
    return pixels.reshape(cells, 2 * count), weights.reshape(cells, 2 * count)


def _maximum_type(x: Tensor, rois: Tensor, *, pooled_shape: tuple[int, ...], spatial_scale: float = 1.0) -> Tensor:
    return x.new_empty((rois.shape[0], x.shape[1], *pooled_shape))


@operator("MaxRoiPool", types=_maximum_type)
def max_roi_pool(x: Tensor, rois: Tensor, *, pooled_shape: tuple[int, ...], spatial_scale: float = 1.0) -> Tensor:
    """The greatest pixel in each cell of a region's grid, 0 in an empty one; a region's first number is its image."""
    regions: list[Tensor] = []
    for roi in rois.tolist():
        image, corner = int(roi[0]), [_rounded(edge * spatial_scale) for edge in roi[1:]]
        rows = _cells(corner[1], corner[3], x.shape[2], pooled_shape[0])
        columns = _cells(corner[0], corner[2], x.shape[3], pooled_shape[1])
        cells = [_greatest(x[image][:, row, column]) for row in rows for column in columns]
        regions.append(torch.stack(cells, 1).reshape(x.shape[1], *pooled_shape))
    return torch.stack(regions) if regions else x.new_zeros((0, x.shape[1], *pooled_shape))


def _rounded(edge: float) -> int:
    return math.floor(abs(edge) + 0.5) * (1 if edge >= 0 else -1)


def _cells(first: int, last: int, size: int, count: int) -> list[slice]:
    width = max(last - first + 1, 1) / count
    edges = [(math.floor(cell * width) + first, math.ceil((cell + 1) * width) + first) for cell in range(count)]
    return [slice(min(max(low, 0), size), min(max(high, 0), size)) for low, high in edges]


def _greatest(pixels: Tensor) -> Tensor:
    return pixels.amax((1, 2)) if pixels.numel() else pixels.new_zeros(pixels.shape[0])
