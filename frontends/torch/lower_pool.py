"""Lowerings of pooling."""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from ...ir.dims import Dim
from ...ir.graph import Value
from .keep import keep
from .lower_shape import permute
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
    attributes = _window_of_maxima(kernel, stride, padding, dilation, ceil_mode, spatial)
    return op.batched(x, spatial, lambda batch: op.MaxPool(batch, **attributes))


@lowers("aten.max_pool2d_with_indices.default", "aten.max_pool3d_with_indices.default")
def max_pool_with_indices(
    op: Lowering,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[Value, Value | None]:
    """The maxima and their places, which ONNX counts through the whole batch and torch through one plane."""
    if not op.is_read(1):
        return max_pool(op, x, kernel, stride, padding, dilation, ceil_mode), None
    spatial = _spatial(op)
    attributes = _window_of_maxima(kernel, stride, padding, dilation, ceil_mode, spatial)
    is_single = x.type.rank == spatial + 1
    batch = op.Unsqueeze(x, [0]) if is_single else x
    results = op.MaxPool(batch, outputs=2, **attributes)
    y, places = (op.Squeeze(value, [0]) for value in results) if is_single else results
    return y, op.Mod(places, reduce(op.Mul, (op.size(dim) for dim in x.shape[-spatial:])))


def _window(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], spatial: int) -> dict[str, Any]:
    return {
        "kernel_shape": spread(kernel, spatial),
        "strides": spread(stride or kernel, spatial),
        "pads": spread(padding, spatial) * 2,
    }


def _window_of_maxima(
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    spatial: int,
) -> dict[str, Any]:
    return _window(kernel, stride, padding, spatial) | {
        "dilations": spread(dilation, spatial),
        "ceil_mode": int(ceil_mode),
    }


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
    spatial = _spatial(op)
    attributes = _window(kernel, stride, padding, spatial) | {
        "ceil_mode": int(ceil_mode),
        "count_include_pad": int(count_include_pad or divisor_override is not None),
    }
    if divisor_override is None:
        return op.batched(x, spatial, lambda batch: op.AveragePool(batch, **attributes))
    if ceil_mode:
        return keep(op, x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
    factor = math.prod(spread(kernel, spatial)) / divisor_override
    return op.batched(x, spatial, lambda batch: op.Mul(op.AveragePool(batch, **attributes), factor))


@lowers(
    "aten.adaptive_avg_pool2d.default",
    "aten._adaptive_avg_pool2d.default",
    "aten.adaptive_avg_pool1d.default",
    "aten.adaptive_avg_pool3d.default",
    "aten._adaptive_avg_pool3d.default",
)
def adaptive_average_pool(op: Lowering, x: Value, size: Sequence[Dim]) -> Value:
    return _adaptive_pool(op, x, size, "Average", _average_along)


def _adaptive_pool(
    op: Lowering, x: Value, size: Sequence[Dim], kind: str, along: Callable[[Lowering, Value, int, Any], Value]
) -> Value:
    """Pool with one of ONNX's operators where all windows are alike, otherwise along one axis after the other."""

    def pool(batch: Value) -> Value:
        if all(wanted == 1 for wanted in size):
            return op(f"Global{kind}Pool", batch)
        kernel = _uniform_kernel(batch, size)
        if kernel is not None:
            return op(f"{kind}Pool", batch, kernel_shape=kernel, strides=kernel)
        return reduce(lambda y, axis: along(op, y, -1 - axis, size[-1 - axis]), range(len(size)), batch)

    return op.batched(x, len(size), pool)


def _average_along(op: Lowering, x: Value, axis: int, wanted: Dim) -> Value:
    """Adaptive average pooling along one axis, as a product with a matrix of weights, since the windows differ."""
    have = x.shape[axis]
    if have == wanted:
        return x
    if wanted == 1:
        return op.ReduceMean(x, [axis], keepdims=1)
    weights = _weights(op, have, wanted, x)  # [wanted, have]
    if axis == -2:
        return op.MatMul(weights, x)
    order = list(range(x.type.rank))
    order[axis], order[-1] = order[-1], order[axis]
    return permute(op, op.MatMul(permute(op, x, order), op.Transpose(weights, perm=(1, 0))), order)


def _weights(op: Lowering, have: Dim, wanted: Dim, x: Value) -> Value:
    """The weight of each element in the mean of each window."""
    if isinstance(have, int) and isinstance(wanted, int):
        rows = np.zeros((wanted, have), x.dtype.numpy)
        for place, (begin, end) in enumerate(_bounds(have, wanted)):
            rows[place, begin:end] = 1 / (end - begin)
        return op.constant(rows)
    size, count = op.size(have), op.size(wanted)
    window = op.Unsqueeze(op.places(wanted), [1])
    begin = op.Div(op.Mul(window, size), count)
    end = op.Div(op.Sub(op.Add(op.Mul(op.Add(window, 1), size), count), 1), count)
    place = op.Unsqueeze(op.places(have), [0])
    is_inside = op.And(op.GreaterOrEqual(place, begin), op.Less(place, end))
    return op.Div(op.cast(is_inside, x.dtype), op.cast(op.Sub(end, begin), x.dtype))


def _bounds(have: int, wanted: int) -> list[tuple[int, int]]:
    """Where each window of an adaptive pool begins and ends."""
    return [(place * have // wanted, -(-(place + 1) * have // wanted)) for place in range(wanted)]


@lowers("aten.adaptive_max_pool1d.default", "aten.adaptive_max_pool2d.default", "aten.adaptive_max_pool3d.default")
def adaptive_max_pool(op: Lowering, x: Value, size: Sequence[int]) -> tuple[Value, Value | None]:
    if op.is_read(1):
        return _adaptive_maxima_with_places(op, x, size)
    return _adaptive_pool(op, x, size, "Max", _maxima_along), None


def _maxima_along(op: Lowering, x: Value, axis: int, wanted: int) -> Value:
    """Windows of one length, the shorter ones with their last element again."""
    axis %= x.type.rank
    return op.ReduceMax(op.Gather(x, _members(op, x.shape[axis], wanted), axis=axis), [axis + 1], keepdims=0)


def _members(op: Lowering, have: Dim, wanted: int) -> np.ndarray:
    """The places `[window, element]` that each window of an adaptive pool looks at."""
    if not isinstance(have, int):
        op.refuse(f"the size {have} of what it pools is symbolic")
    bounds = _bounds(have, wanted)
    longest = max((end - begin for begin, end in bounds), default=0)
    return np.asarray([np.minimum(np.arange(begin, begin + longest), end - 1) for begin, end in bounds])


def _adaptive_maxima_with_places(op: Lowering, x: Value, size: Sequence[int]) -> tuple[Value, Value]:
    spatial = len(size)
    first = x.type.rank - spatial
    plane = x.type.shape[first:]
    windows = [_members(op, have, wanted) for have, wanted in zip(plane, size, strict=True)]
    for axis, members in enumerate(windows):
        x = op.Gather(x, members, axis=first + 2 * axis)
    order = [*range(first), *range(first, x.type.rank, 2), *range(first + 1, x.type.rank, 2)]
    flat = op.reshape(permute(op, x, order), [*x.shape[:first], *size, math.prod(part.shape[1] for part in windows)])
    places = np.zeros((1,) * spatial * 2, np.int64)  # [*window, *element]
    for axis, (have, members) in enumerate(zip(plane, windows, strict=True)):
        assert isinstance(have, int)  # or it would have no such windows
        shape = [1] * 2 * spatial
        shape[axis], shape[spatial + axis] = members.shape
        places = places * have + members.reshape(shape)
    best = op.ArgMax(flat, axis=-1, keepdims=1)
    table = op.expand(op.constant(places.reshape(*size, -1)), flat.shape)
    at = op.Squeeze(op.GatherElements(table, best, axis=-1), [-1])
    return op.ReduceMax(flat, [-1], keepdims=0), at


def _uniform_kernel(x: Value, size: Sequence[Dim]) -> tuple[int, ...] | None:
    """The window of an adaptive pool whose windows are all alike."""
    kernel: list[int] = []
    for have, wanted in zip(x.shape[2:], size, strict=True):
        if isinstance(have, str) or isinstance(wanted, str) or have % wanted:
            return None
        kernel.append(have // wanted)
    return tuple(kernel)


def _spatial(op: Lowering) -> int:
    """The number of spatial axes, as the operator's name says."""
    return int(str(op.node.target).partition("_pool")[2][0])
