"""Lowerings of what samples an image at other places: resizing, grids, regions of interest."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.dims import Dim
from ...ir.graph import Value
from ...ir.types import DType
from .keep import keep
from .lower_shape import select
from .lowering import END, Lowering, lowers

_SMOOTH = ("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d")
_ANTIALIASED = ("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")
_NEAREST = tuple(f"{name}{rank}d" for name in ("upsample_nearest", "_upsample_nearest_exact") for rank in (1, 2, 3))


@lowers(*(f"aten.{name}.{form}" for name in (*_SMOOTH, *_ANTIALIASED) for form in ("vec", "default")))
def upsample(op: Lowering, x: Value, size: Sequence[Dim] | None, align: bool, *factors: Any) -> Value:
    name = str(op.node.target)
    antialias = "_aa" in name
    if align and antialias:  # where torch's filter doesn't align the corners that it takes its scale from
        return keep(op, x, size, align, *factors)
    cubic = {"mode": "cubic", "cubic_coeff_a": -0.5 if antialias else -0.75}
    how = {
        "antialias": int(antialias) or None,
        "exclude_outside": int(antialias) or None,
        "coordinate_transformation_mode": "align_corners" if align else "half_pixel",
        **(cubic if "cubic" in name else {"mode": "linear"}),
    }
    if align:  # corners tell the scale by themselves
        return _resize(op, x, None, **how)
    scales = _scales(op, x, factors)
    return keep(op, x, size, align, *factors) if scales == () else _resize(op, x, scales, **how)


@lowers(*(f"aten.{name}.{form}" for name in _NEAREST for form in ("vec", "default")))
def upsample_nearest(op: Lowering, x: Value, size: Sequence[Dim] | None, *factors: Any) -> Value:
    exact = {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}
    floor = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    how = exact if "exact" in str(op.node.target) else floor
    scales = _scales(op, x, factors)
    return keep(op, x, size, *factors) if scales == () else _resize(op, x, scales, mode="nearest", **how)


def _scales(op: Lowering, x: Value, factors: Sequence[Any]) -> Sequence[float] | None:
    """The scales by axis, given as a list or one by one; none where a size is asked for that doesn't belong to them."""
    given = factors[0] if factors and isinstance(factors[0], list | tuple) else factors
    if not given or None in given:
        return None
    scales = [float(factor) for factor in given]
    pairs = zip(x.shape[2:], op.result_shape[2:], scales, strict=True)
    belongs = all(not isinstance(have, int) or have * scale // 1 == want for have, want, scale in pairs)
    return scales if belongs else ()


def _resize(op: Lowering, x: Value, scales: Sequence[float] | None, **how: Any) -> Value:
    if scales:
        return op.Resize(x, None, np.asarray([1, 1, *scales], np.float32), **how)
    return op.Resize(x, None, None, op.row(op.result_shape), **how)


_PADDING = ("zeros", "border", "reflection")


@lowers("aten.grid_sampler_2d.default", "aten.grid_sampler_3d.default", "aten.grid_sampler.default")
def grid_sample(op: Lowering, x: Value, grid: Value, mode: int, padding: int, align: bool) -> Value:
    return op.GridSample(
        x, grid, mode=("linear", "nearest", "cubic")[mode], padding_mode=_PADDING[padding], align_corners=int(align)
    )


@lowers("aten.affine_grid_generator.default")
def affine_grid(op: Lowering, theta: Value, size: Sequence[Dim], align: bool) -> Value:
    return op.AffineGrid(theta, op.row(size), align_corners=int(align))


@lowers("aten.im2col.default")
def image_to_columns(
    op: Lowering,
    x: Value,
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Value:
    """The windows' taps `[batch, channel * taps, window]`, gathered along one axis after the other."""
    if x.type.rank == 3:
        return op.Squeeze(image_to_columns(op, op.Unsqueeze(x, [0]), kernel, dilation, padding, stride), [0])
    if any(padding):
        x = op.Pad(x, [0, 0, *padding, 0, 0, *padding])
    shape = x.shape
    for axis in (0, 1):
        size = shape[2 + axis]
        reach = (kernel[axis] - 1) * dilation[axis]
        taps = np.arange(kernel[axis]).reshape(-1, 1) * dilation[axis]
        places: Value | np.ndarray
        if isinstance(size, int):
            places = taps + np.arange(0, size - reach, stride[axis])
        else:
            starts = op.Range(0, op.Squeeze(op.Sub(op.size(size), reach), [0]), stride[axis])
            places = op.Add(op.Unsqueeze(starts, [0]), taps)
        x = op.Gather(x, places, axis=2 + 2 * axis)
    columns = op.Transpose(x, perm=(0, 1, 2, 4, 3, 5))  # [batch, channel, row tap, column tap, row, column]
    return op.reshape(columns, op.result_shape) if op.result.ndim == 3 else op.reshape(columns, [1, *op.result_shape])


@lowers("aten.col2im.default")
def columns_to_image(
    op: Lowering,
    x: Value,
    size: Sequence[Dim],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Value:
    if x.type.rank == 2:
        return op.Squeeze(columns_to_image(op, op.Unsqueeze(x, [0]), size, kernel, dilation, padding, stride), [0])
    how = {"dilations": tuple(dilation), "pads": (*padding, *padding), "strides": tuple(stride)}
    return op.Col2Im(x, op.row(size), list(kernel), **how)


# -- torchvision's own


@lowers("torchvision.nms.default")
def non_max_suppression(op: Lowering, boxes: Value, scores: Value, threshold: float) -> Value:
    """The places of the boxes that are kept, the best first."""
    limit = op.constant([END])
    overlap = op.constant(np.asarray([threshold], np.float32))
    boxes, scores = op.cast(boxes, DType.float32), op.cast(scores, DType.float32)
    kept = op.NonMaxSuppression(op.Unsqueeze(boxes, [0]), op.Unsqueeze(scores, [0, 1]), limit, overlap)
    return select(op, kept, 1, 2)


def _regions(op: Lowering, regions: Value) -> tuple[Value, Value]:
    """The boxes `[n, 4]` and the image of each."""
    image = op.cast(select(op, regions, 1, 0), DType.int64)
    return op.Slice(regions, [1], [5], [1]), image


@lowers("torchvision.roi_align.default")
def roi_align(
    op: Lowering,
    x: Value,
    regions: Value,
    scale: float,
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Value:
    boxes, image = _regions(op, regions)
    return op.RoiAlign(
        x,
        boxes,
        image,
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        output_height=height,
        output_width=width,
        sampling_ratio=max(sampling_ratio, 0),
        spatial_scale=float(scale),
    )


@lowers("torchvision.roi_pool.default")
def roi_pool(op: Lowering, x: Value, regions: Value, scale: float, height: int, width: int) -> tuple[Value, None]:
    return op.MaxRoiPool(x, regions, pooled_shape=(height, width), spatial_scale=float(scale)), None


@lowers("torchvision.ps_roi_align.default")
def position_sensitive_roi_align(
    op: Lowering, x: Value, regions: Value, scale: float, height: int, width: int, sampling_ratio: int
) -> tuple[Value, None]:
    """Each bin of a region is taken from a channel of its own."""
    bins = height * width
    aligned = roi_align(op, x, regions, scale, height, width, sampling_ratio, True)
    parts = op.Reshape(aligned, [0, -1, bins, bins])  # [region, channel, position, bin]
    own = op.reshape(op.constant(np.eye(bins, dtype=x.dtype.numpy)), [1, 1, bins, bins])
    chosen = op.ReduceSum(op.Mul(parts, own), [2], keepdims=0)
    return op.Reshape(chosen, [0, 0, height, width]), None


@lowers("torchvision.deform_conv2d.default")
def deformable_convolution(
    op: Lowering,
    x: Value,
    weight: Value,
    offset: Value,
    mask: Value,
    bias: Value,
    stride_height: int,
    stride_width: int,
    pad_height: int,
    pad_width: int,
    dilation_height: int,
    dilation_width: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Value:
    return op.DeformConv(
        x,
        weight,
        offset,
        bias,
        mask if use_mask else None,
        strides=(stride_height, stride_width),
        pads=(pad_height, pad_width) * 2,
        dilations=(dilation_height, dilation_width),
        group=groups,
        offset_group=offset_groups,
        kernel_shape=weight.type.static_shape[2:],
    )
