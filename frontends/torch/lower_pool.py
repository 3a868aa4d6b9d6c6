"""Lowerings of the ATen operators that change the size of an image: pooling and resampling."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.graph import Value
from .lowering import Lowering, lowers, spread


@lowers("aten.max_pool2d.default", "aten.max_pool1d.default", "aten.max_pool3d.default")
def max_pool(
    op: Lowering,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Value:
    spatial = _spatial(op)
    attributes = {
        "kernel_shape": spread(kernel, spatial),
        "strides": spread(stride or kernel, spatial),
        "pads": spread(padding, spatial) * 2,
        "dilations": spread(dilation, spatial),
        "ceil_mode": int(ceil_mode),
    }
    return op.batched(x, spatial, lambda batch: op.MaxPool(batch, **attributes))


@lowers("aten.max_pool2d_with_indices.default", "aten.max_pool3d_with_indices.default")
def max_pool_with_indices(op: Lowering, x: Value, *arguments: Any) -> tuple[Value, None]:
    return max_pool(op, x, *arguments), None


@lowers("aten.avg_pool2d.default", "aten.avg_pool1d.default", "aten.avg_pool3d.default")
def average_pool(
    op: Lowering,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    if divisor_override is not None:
        raise ModelError(f"{op.location}: average pooling with a divisor of its own has no counterpart")
    spatial = _spatial(op)
    attributes = {
        "kernel_shape": spread(kernel, spatial),
        "strides": spread(stride or kernel, spatial),
        "pads": spread(padding, spatial) * 2,
        "ceil_mode": int(ceil_mode),
        "count_include_pad": int(count_include_pad),
    }
    return op.batched(x, spatial, lambda batch: op.AveragePool(batch, **attributes))


@lowers(
    "aten.adaptive_avg_pool2d.default",
    "aten._adaptive_avg_pool2d.default",
    "aten.adaptive_avg_pool1d.default",
    "aten.adaptive_avg_pool3d.default",
    "aten._adaptive_avg_pool3d.default",
)
def adaptive_average_pool(op: Lowering, x: Value, size: Sequence[Dim]) -> Value:
    def pool(batch: Value) -> Value:
        if all(wanted == 1 for wanted in size):
            return op.GlobalAveragePool(batch)
        kernel = _uniform_kernel(batch, size)
        if kernel is not None:
            return op.AveragePool(batch, kernel_shape=kernel, strides=kernel)
        return reduce(lambda y, axis: _average_along(op, y, -1 - axis, size[-1 - axis]), range(len(size)), batch)

    return op.batched(x, len(size), pool)


def _average_along(op: Lowering, x: Value, axis: int, wanted: Dim) -> Value:
    """Adaptive average pooling along one axis: the windows differ, so it is a product with a matrix of their weights."""
    have = x.shape[axis]
    if have == wanted:
        return x
    if wanted == 1:
        return op.ReduceMean(x, [axis], keepdims=1)
    if isinstance(have, str) or isinstance(wanted, str) or axis < -2:
        raise ModelError(f"{op.location}: adaptive pooling from {have} to {wanted} has no counterpart")
    weights = np.zeros((have, wanted), x.dtype.numpy)
    for place in range(wanted):
        window = slice(place * have // wanted, -(-(place + 1) * have // wanted))
        weights[window, place] = 1 / (window.stop - window.start)
    return op.MatMul(x, weights) if axis == -1 else op.MatMul(weights.T.copy(), x)


@lowers("aten.adaptive_max_pool1d.default", "aten.adaptive_max_pool2d.default", "aten.adaptive_max_pool3d.default")
def adaptive_max_pool(op: Lowering, x: Value, size: Sequence[int]) -> tuple[Value, None]:
    def pool(batch: Value) -> Value:
        if all(wanted == 1 for wanted in size):
            return op.GlobalMaxPool(batch)
        kernel = _uniform_kernel(batch, size)
        if kernel is None:
            raise ModelError(f"{op.location}: adaptive max pooling of {x.type} to {list(size)} isn't uniform")
        return op.MaxPool(batch, kernel_shape=kernel, strides=kernel)

    return op.batched(x, len(size), pool), None


def _uniform_kernel(x: Value, size: Sequence[Dim]) -> tuple[int, ...] | None:
    """The window of an adaptive pool whose windows are all alike."""
    kernel: list[int] = []
    for have, wanted in zip(x.shape[2:], size, strict=True):
        if isinstance(have, str) or isinstance(wanted, str) or have % wanted:
            return None
        kernel.append(have // wanted)
    return tuple(kernel)


@lowers(
    *(f"aten.{name}.vec" for name in ("upsample_linear1d", "upsample_trilinear3d")),
    *(f"aten.{name}.vec" for name in ("upsample_bilinear2d", "upsample_bicubic2d")),
    *(f"aten._{name}_aa.vec" for name in ("upsample_bilinear2d", "upsample_bicubic2d")),
)
def upsample(op: Lowering, x: Value, size: Sequence[Dim] | None, align: bool, factors: Sequence[float] | None) -> Value:
    name = str(op.node.target)
    antialias = "_aa" in name
    cubic = {"mode": "cubic", "cubic_coeff_a": -0.5 if antialias else -0.75}
    return _resize(
        op,
        x,
        size,
        factors,
        antialias=int(antialias) or None,
        exclude_outside=int(antialias) or None,
        coordinate_transformation_mode="align_corners" if align else "half_pixel",
        **(cubic if "cubic" in name else {"mode": "linear"}),
    )


@lowers(
    *(f"aten.upsample_nearest{rank}d.vec" for rank in (1, 2, 3)),
    *(f"aten._upsample_nearest_exact{rank}d.vec" for rank in (1, 2, 3)),
)
def upsample_nearest(op: Lowering, x: Value, size: Sequence[Dim] | None, factors: Sequence[float] | None) -> Value:
    exact = {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}
    floor = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return _resize(op, x, size, factors, mode="nearest", **(exact if "exact" in str(op.node.target) else floor))


def _resize(op: Lowering, x: Value, size: Sequence[Dim] | None, factors: Sequence[float] | None, **how: Any) -> Value:
    if size is None and factors is not None:
        return op.Resize(x, None, np.asarray([1, 1, *factors], np.float32), **how)
    return op.Resize(x, None, None, op.row([*x.shape[:2], *(size or ())]), **how)


def _spatial(op: Lowering) -> int:
    """The number of spatial axes, as the operator's name says."""
    return int(str(op.node.target).partition("_pool")[2][0])
