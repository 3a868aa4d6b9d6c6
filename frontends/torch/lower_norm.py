"""Lowerings of ATen normalizations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...ir.graph import Value
from ...ir.types import DType
from .lowering import Lowering, lowers


@lowers("aten.batch_norm.default")
def batch_norm(
    op: Lowering,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    *_ignored: Any,
) -> Value:
    if training or mean is None or variance is None:
        return _normalized_by_batch(op, x, weight, bias, eps)[0]
    return _batch_norm(op, x, weight, bias, mean, variance, eps)


@lowers("aten._native_batch_norm_legit_no_training.default")
def native_batch_norm(
    op: Lowering,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    momentum: float,
    eps: float,
) -> tuple[Value, Value, Value]:
    nothing = op.expand(op.cast(0.0, x.dtype), [0])
    return _batch_norm(op, x, weight, bias, mean, variance, eps), nothing, nothing


@lowers("aten._native_batch_norm_legit.no_stats")
def batch_norm_without_statistics(
    op: Lowering, x: Value, weight: Value | None, bias: Value | None, training: bool, momentum: float, eps: float
) -> tuple[Value, Value, Value]:
    return _normalized_by_batch(op, x, weight, bias, eps)


@lowers("aten._native_batch_norm_legit_functional.default")
def batch_norm_with_statistics(
    op: Lowering,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Value, ...]:
    """Batch normalization, followed by the running statistics as they are afterwards."""
    if not training:
        return *native_batch_norm(op, x, weight, bias, mean, variance, momentum, eps), mean, variance
    y, own_mean, inverse = _normalized_by_batch(op, x, weight, bias, eps)
    axes = [axis for axis in range(x.type.rank) if axis != 1]
    deviation = op.Sub(x, op.Unsqueeze(own_mean, axes))
    count = op.cast(1, x.dtype)
    for axis in axes:
        count = op.Mul(count, op.cast(x.shape[axis], x.dtype))
    own_variance = op.Div(op.ReduceSum(op.Mul(deviation, deviation), axes, keepdims=0), op.Sub(count, 1.0))
    running = [
        op.Add(op.Mul(old, 1.0 - momentum), op.Mul(new, float(momentum)))
        for old, new in ((mean, own_mean), (variance, own_variance))
    ]
    return y, own_mean, inverse, *running


def _batch_norm(
    op: Lowering, x: Value, weight: Value | None, bias: Value | None, mean: Value, variance: Value, eps: float
) -> Value:
    channels = mean.type.static_shape
    weight = _parameter(op, weight, 1, channels, mean.dtype)
    bias = _parameter(op, bias, 0, channels, mean.dtype)
    return op.BatchNormalization(x, weight, bias, mean, variance, epsilon=float(eps))


def _parameter(op: Lowering, given: Value | None, number: float, shape: Sequence[int] | int, dtype: DType) -> Value:
    """A weight or a bias; one number everywhere if the layer has none."""
    return op.constant(np.full(shape, number, dtype.numpy)) if given is None else given


def _normalized_by_batch(
    op: Lowering, x: Value, weight: Value | None, bias: Value | None, eps: float
) -> tuple[Value, Value, Value]:
    """A batch normalized by its own statistics; its mean and the inverse of its deviation, by channel."""
    axes = [axis for axis in range(x.type.rank) if axis != 1]
    mean, deviations, inverse = _statistics(op, x, axes, eps)
    y = _scaled(op, op.Mul(deviations, inverse), weight, bias)
    return y, op.Squeeze(mean, axes), op.Squeeze(inverse, axes)


def _statistics(op: Lowering, x: Value, axes: Sequence[int], eps: float) -> tuple[Value, Value, Value]:
    """The mean along axes, which stay as ones, the deviations from it, and the inverse of the standard deviation."""
    mean = op.ReduceMean(x, axes, keepdims=1)
    deviations = op.Sub(x, mean)
    variance = op.ReduceMean(op.Mul(deviations, deviations), axes, keepdims=1)
    return mean, deviations, op.Reciprocal(op.Sqrt(op.Add(variance, float(eps))))


def _scaled(op: Lowering, x: Value, weight: Value | None, bias: Value | None) -> Value:
    """Multiply each channel by its weight and add its bias, where these are given."""
    spatial = list(range(1, x.type.rank - 1))
    x = x if weight is None else op.Mul(x, op.Unsqueeze(weight, spatial) if spatial else weight)
    return x if bias is None else op.Add(x, op.Unsqueeze(bias, spatial) if spatial else bias)


@lowers("aten.instance_norm.default")
def instance_norm(
    op: Lowering,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    own_statistics: bool,
    momentum: float,
    eps: float,
    *_ignored: Any,
) -> Value:
    if not own_statistics and mean is not None and variance is not None:
        return _batch_norm(op, x, weight, bias, mean, variance, eps)
    channels = op.result.shape[1]
    weight = _parameter(op, weight, 1, channels, x.dtype)
    bias = _parameter(op, bias, 0, channels, x.dtype)
    return op.InstanceNormalization(x, weight, bias, epsilon=float(eps))


@lowers("aten.layer_norm.default")
def layer_norm(
    op: Lowering,
    x: Value,
    shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    *_ignored: Any,
) -> Value:
    weight = _parameter(op, weight, 1, shape, x.dtype)
    return op.LayerNormalization(x, weight, bias, axis=-len(shape), epsilon=float(eps))


@lowers("aten.native_layer_norm.default")
def native_layer_norm(
    op: Lowering, x: Value, shape: Sequence[int], weight: Value | None, bias: Value | None, eps: float
) -> tuple[Value, ...]:
    if not op.is_read(1) and not op.is_read(2):
        return (layer_norm(op, x, shape, weight, bias, eps), x, x)
    weight = _parameter(op, weight, 1, shape, x.dtype)
    y, *statistics = op.LayerNormalization(x, weight, bias, outputs=3, axis=-len(shape), epsilon=float(eps))
    return y, *(op.cast(value) for value in statistics)


@lowers("aten.rms_norm.default")
def rms_norm(
    op: Lowering, x: Value, shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Value:
    weight = _parameter(op, weight, 1, shape, x.dtype)
    epsilon = torch.finfo(op.result.dtype).eps if eps is None else float(eps)
    return op.RMSNormalization(x, weight, axis=-len(shape), epsilon=epsilon)


@lowers("aten.group_norm.default")
def group_norm(
    op: Lowering,
    x: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    *_ignored: Any,
) -> Value:
    channels = x.shape[1]
    assert isinstance(channels, int)  # torch divides it by the groups while it exports
    weight = _parameter(op, weight, 1, channels, x.dtype)
    bias = _parameter(op, bias, 0, channels, x.dtype)
    return op.GroupNormalization(x, weight, bias, num_groups=groups, epsilon=float(eps))


@lowers("aten.native_group_norm.default")
def native_group_norm(
    op: Lowering,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    batch: Any,
    channels: int,
    places: Any,
    groups: int,
    eps: float,
) -> tuple[Value, Value, Value]:
    """Group normalization, the mean of each group `[batch, group]`, and the inverse of its deviation."""
    y = group_norm(op, x, groups, weight, bias, eps)
    if not op.is_read(1) and not op.is_read(2):
        return y, x, x
    parts = op.Reshape(x, op.row([x.shape[0], groups, -1]))
    mean, _, inverse = _statistics(op, parts, [2], eps)
    return y, op.Squeeze(mean, [2]), op.Squeeze(inverse, [2])
