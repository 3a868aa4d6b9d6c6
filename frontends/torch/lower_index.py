"""Lowerings of ATen operators that read or write elements at computed places."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir.builder import Operand
from ...ir.dims import Dim
from ...ir.graph import Value
from ...ir.types import DType
from .keep import keep
from .lower_shape import permute, select
from .lowering import END, Lowering, lowers


def _in_a_row(op: Lowering, function: Callable[..., Value], x: Value, *values: Operand) -> Value:
    """Apply a function that needs tensors with axes to tensors that may have none."""
    rows = [
        op.reshape(value, [1]) if isinstance(value, Value) and not value.type.rank else value for value in (x, *values)
    ]
    return op.reshape(function(*rows), op.result_shape)


# -- along one axis


@lowers("aten.gather.default")
def gather(op: Lowering, x: Value, axis: int, index: Value, **_keywords: Any) -> Value:
    if not x.type.rank or not index.type.rank:
        return _in_a_row(op, lambda x, index: op.GatherElements(x, index, axis=axis), x, index)
    return op.GatherElements(x, op.cast(index, DType.int64), axis=axis)


@lowers("aten.index_select.default")
def index_select(op: Lowering, x: Value, axis: int, index: Value) -> Value:
    if not x.type.rank or not index.type.rank:
        return _in_a_row(op, lambda x, index: op.Gather(x, index, axis=axis), x, index)
    return op.Gather(x, index, axis=axis)


@lowers("aten.take.default")
def take(op: Lowering, x: Value, index: Value) -> Value:
    return op.Gather(op.flat(x), index, axis=0)


@lowers("aten.scatter.src", "aten.scatter.value", "aten.scatter.reduce", "aten.scatter.value_reduce")
def scatter(op: Lowering, x: Value, axis: int, index: Value, source: Operand, *, reduce: str | None = None) -> Value:
    reduction = {None: None, "add": "add", "multiply": "mul"}[reduce]
    return _scatter(op, x, axis, index, source, reduction)


@lowers("aten.scatter_add.default")
def scatter_add(op: Lowering, x: Value, axis: int, index: Value, source: Value) -> Value:
    return _scatter(op, x, axis, index, source, "add")


def _scatter(op: Lowering, x: Value, axis: int, index: Value, source: Operand, reduction: str | None) -> Value:
    if not x.type.rank or not index.type.rank:
        return _in_a_row(op, lambda *rows: _scatter(op, rows[0], axis, rows[1], rows[2], reduction), x, index, source)
    if 0 in index.shape:
        return x
    updates = source if isinstance(source, Value) else op.expand(op.cast(source, x.dtype), index.shape)
    updates = _cut(op, updates, index.shape)
    return op.ScatterElements(x, op.cast(index, DType.int64), updates, axis=axis, reduction=reduction)


def _cut(op: Lowering, x: Value, shape: Sequence[Dim]) -> Value:
    """The first elements along every axis, as many as a shape says."""
    axes = [axis for axis, (have, want) in enumerate(zip(x.shape, shape, strict=True)) if have != want]
    if not axes:
        return x
    return op.Slice(x, [0] * len(axes), op.row([shape[axis] for axis in axes]), axes)


@lowers("aten.scatter_reduce.two")
def scatter_reduce(
    op: Lowering, x: Value, axis: int, index: Value, source: Value, reduce: str, *, include_self: bool = True
) -> Value:
    if not x.type.rank or not index.type.rank:
        function: Callable[..., Value] = lambda *rows: scatter_reduce(  # noqa: E731 -- a def would be no shorter
            op, rows[0], axis, rows[1], rows[2], reduce, include_self=include_self
        )
        return _in_a_row(op, function, x, index, source)
    if 0 in index.shape:
        return x
    onnx = {"sum": "add", "mean": "add", "prod": "mul", "amax": "max", "amin": "min"}[reduce]
    if not include_self:
        x = _scatter(op, x, axis, index, _neutral(onnx, x.dtype), None)
    total = _scatter(op, x, axis, index, source, onnx)
    if reduce != "mean":
        return total
    counts = op.expand(op.cast(1 if include_self else 0, x.dtype), x.shape)
    count = op.Max(_scatter(op, counts, axis, index, 1, "add"), 1)
    if x.dtype.is_float:
        return op.Div(total, count)
    return op.Div(op.Sub(total, op.Mod(total, count)), count)


def _neutral(reduction: str, dtype: DType) -> float:
    """What a reduction starts from."""
    if reduction in ("add", "mul"):
        return int(reduction == "mul")
    if dtype.is_float:
        return -np.inf if reduction == "max" else np.inf
    limits = np.iinfo(dtype.numpy)
    return int(limits.min if reduction == "max" else limits.max)


@lowers("aten.index_reduce.default")
def index_reduce(
    op: Lowering, x: Value, axis: int, index: Value, source: Value, reduce: str, *, include_self: bool = True
) -> Value:
    if not x.type.rank:
        function = lambda x, index, source: index_reduce(  # noqa: E731
            op, x, axis, index, source, reduce, include_self=include_self
        )
        return _in_a_row(op, function, x, index, source)
    column = [dim if place == axis % x.type.rank else 1 for place, dim in enumerate(source.shape)]
    spread = op.expand(op.reshape(index, column), source.shape)
    return scatter_reduce(op, x, axis, spread, source, reduce, include_self=include_self)


@lowers("aten.slice_scatter.default")
def slice_scatter(
    op: Lowering,
    x: Value,
    source: Value,
    axis: int = 0,
    start: Dim | None = None,
    end: Dim | None = None,
    step: int = 1,
) -> Value:
    """The tensor with a slice of it replaced: what is left on both sides, joined to the source, where that is known."""
    if source.shape == x.shape and step == 1:
        return source
    size = x.shape[axis]
    if step != 1 or isinstance(size, str) or isinstance(start, str) or isinstance(end, str):
        return _write_slice(op, x, source, axis, 0 if start is None else start, step)
    first, beyond, _ = slice(start, end).indices(size)
    parts = [source]
    if first > 0:
        parts.insert(0, op.Slice(x, [0], [first], [axis]))
    if beyond < size:
        parts.append(op.Slice(x, [beyond], [END], [axis]))
    return op.joined(parts, axis)


def _write_slice(op: Lowering, x: Value, source: Value, axis: int, start: Dim, step: int) -> Value:
    """Writing at every place of a slice; a start that is negative counts from the end."""
    rank, axis = x.type.rank, axis % x.type.rank
    count, first, size = source.shape[axis], op.size(start), op.size(x.shape[axis])
    if not isinstance(start, int) or start < 0:
        first = op.Where(op.Less(first, 0), op.Max(op.Add(first, size), 0), first)
    places = op.Add(op.Mul(op.places(count), step), first)
    order = [axis, *(other for other in range(rank) if other != axis)]
    written = op.ScatterND(permute(op, x, order), op.Unsqueeze(places, [1]), permute(op, source, order))
    return permute(op, written, [order.index(place) for place in range(rank)])


# -- at places given by tensors


def _coordinates(op: Lowering, indices: Sequence[Value | None]) -> tuple[list[int], list[Value]]:
    """The axes that are indexed, and integer indices for each; a mask stands for those of its elements that are set."""
    axes: list[int] = []
    chosen: list[Value] = []
    axis = 0
    for index in indices:
        if index is None:
            axis += 1
        elif index.dtype in (DType.bool, DType.uint8):
            rank = index.type.rank
            places = op.NonZero(op.cast(index, DType.bool))
            chosen += [select(op, places, 0, row) for row in range(rank)]
            axes += range(axis, axis + rank)
            axis += rank
        else:
            chosen.append(op.cast(index, DType.int64))
            axes.append(axis)
            axis += 1
    return axes, chosen


def _common_shape(values: Sequence[Value]) -> list[Dim]:
    """The shape that values broadcast to."""
    rank = max(value.type.rank for value in values)
    padded = [(1,) * (rank - value.type.rank) + value.shape for value in values]
    return [next((dim for dim in dims if dim != 1), 1) for dims in zip(*padded, strict=True)]


def _columns(op: Lowering, chosen: Sequence[Value], common: Sequence[Dim]) -> Value:
    """Indices as GatherND and ScatterND take them: the coordinates of a place along the last axis."""
    return op.joined([op.Unsqueeze(op.expand(index, common), [-1]) for index in chosen], -1)


def _are_neighbours(indices: Sequence[Value | None]) -> bool:
    """Whether what the indices select stays at their place; otherwise it comes first."""
    given = [place for place, index in enumerate(indices) if index is not None]
    return given[-1] - given[0] == len(given) - 1


@lowers("aten.index.Tensor", "aten._unsafe_index.Tensor")
def index_tensor(op: Lowering, x: Value, indices: Sequence[Value | None]) -> Value:
    """Advanced indexing; what the tensors select comes first unless they are neighbours."""
    if any(index is not None and index.dtype is DType.bool and not index.type.rank for index in indices):
        return keep(op, x, indices)
    axes, chosen = _coordinates(op, indices)
    if len(axes) == 1:
        return op.Gather(x, chosen[0], axis=axes[0])
    rank = x.type.rank
    front = [*axes, *(axis for axis in range(rank) if axis not in axes)]
    before = axes[0] if _are_neighbours(indices) else 0
    common = _common_shape(chosen)
    gathered = op.GatherND(permute(op, x, front), _columns(op, chosen, common))
    count = len(common)
    order = [*range(count, count + before), *range(count), *range(count + before, gathered.type.rank)]
    return permute(op, gathered, order)


@lowers("aten.index_put.default", "aten._unsafe_index_put.default")
def index_put(
    op: Lowering, x: Value, indices: Sequence[Value | None], source: Value, accumulate: bool = False
) -> Value:
    if any(index is not None and index.dtype is DType.bool and not index.type.rank for index in indices):
        return keep(op, x, indices, source, accumulate)
    source = op.cast(source, x.dtype)
    masked = _put_where(op, x, indices, source, accumulate)
    if masked is not None:
        return masked
    axes, chosen = _coordinates(op, indices)
    rank = x.type.rank
    rest = [axis for axis in range(rank) if axis not in axes]
    before = axes[0] if _are_neighbours(indices) else 0
    common = _common_shape(chosen)
    count = len(common)
    shape = [*(x.shape[axis] for axis in rest[:before]), *common, *(x.shape[axis] for axis in rest[before:])]
    updates = op.expand(_without_ones(op, source, len(shape)), shape)
    order = [*range(before, before + count), *range(before), *range(before + count, len(shape))]
    front = [*axes, *rest]
    written = op.ScatterND(
        permute(op, x, front),
        _columns(op, chosen, common),
        permute(op, updates, order),
        reduction="add" if accumulate else None,
    )
    return permute(op, written, [front.index(axis) for axis in range(rank)])


def _without_ones(op: Lowering, x: Value, rank: int) -> Value:
    """A value with no more axes than a rank; those in front, which must be ones, are dropped."""
    extra = x.type.rank - rank
    return op.Squeeze(x, list(range(extra))) if extra > 0 else x


def _put_where(
    op: Lowering, x: Value, indices: Sequence[Value | None], source: Value, accumulate: bool
) -> Value | None:
    """Write what is the same at each place of a mask, as a choice that needn't know the places; None if it isn't."""
    axis, mask = next((axis, index) for axis, index in enumerate(indices) if index is not None)
    if len(indices) != axis + 1 or mask.dtype is not DType.bool:
        return None
    trailing = x.type.rank - axis - mask.type.rank
    source = _without_ones(op, source, x.type.rank - mask.type.rank + 1)
    if source.type.rank > trailing:  # it has an axis of the mask's places
        if source.shape[source.type.rank - trailing - 1] != 1 or source.type.rank > trailing + 1:
            return None
        source = op.Squeeze(source, [0])
    mask = op.Unsqueeze(mask, list(range(mask.type.rank, mask.type.rank + trailing))) if trailing else mask
    return op.choose(mask, op.Add(x, source) if accumulate else source, x)


@lowers("aten.put.default")
def put(op: Lowering, x: Value, index: Value, source: Value, accumulate: bool = False) -> Value:
    written = op.ScatterElements(
        op.flat(x), op.flat(index), op.flat(source), axis=0, reduction="add" if accumulate else None
    )
    return op.reshape(written, x.shape)


# -- where a mask is set


@lowers("aten.nonzero.default")
def nonzero(op: Lowering, x: Value) -> Value:
    x = op.cast(x, DType.bool)
    if not x.type.rank:  # one place, without coordinates
        count = op.cast(op.reshape(x, [1]), DType.int64)
        return op.ConstantOfShape(op.Concat(count, [0], axis=0), value=np.zeros(1, np.int64))
    return op.Transpose(op.NonZero(x), perm=(1, 0))


@lowers("aten.masked_select.default")
def masked_select(op: Lowering, x: Value, mask: Value) -> Value:
    shape = _common_shape([x, mask]) if x.type.rank or mask.type.rank else [1]
    return op.Compress(op.flat(op.expand(x, shape)), op.flat(op.expand(op.cast(mask, DType.bool), shape)), axis=0)


@lowers("aten.masked_scatter.default")
def masked_scatter(op: Lowering, x: Value, mask: Value, source: Value) -> Value:
    """Put the next of the source's elements at each place where the mask is set."""
    shape = op.result_shape
    mask, x = op.expand(mask, shape), op.expand(x, shape)
    if 0 in source.shape:
        return x
    last = op.constant(0)
    seen = op.CumSum(op.cast(op.flat(op.reshape(mask, mask.shape or [1])), DType.int64), last)
    elements = op.flat(op.reshape(source, source.shape or [1]))
    if not source.type.is_static:  # there may be none, but what the mask leaves out asks for the first
        elements = op.Concat(elements, op.cast(np.zeros(1), source.dtype), axis=0)
    next_one = op.Gather(elements, op.Max(op.Sub(seen, 1), 0), axis=0)
    return op.choose(mask, op.reshape(next_one, x.shape), x)


@lowers("aten.nonzero_static.default")
def nonzero_of_size(op: Lowering, x: Value, *, size: int, fill_value: int = -1) -> Value:
    """The first places of what isn't zero, and rows of one number where there are fewer."""
    found = nonzero(op, x)
    missing = op.expand(op.cast(fill_value, DType.int64), [size, x.type.rank])
    return op.Slice(op.Concat(found, missing, axis=0), [0], [size], [0])
