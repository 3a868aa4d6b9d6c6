"""Lowerings of what orders, counts and finds elements."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir.dims import Dim
from ...ir.graph import Value
from ...ir.types import DType
from .lower_elementwise import maximum
from .lower_special import log1p
from .lowering import END, Lowering, lowers

Combine = Callable[[Sequence[Value], Sequence[Value]], list[Value]]


@lowers("aten.topk.default")
def topk(
    op: Lowering, x: Value, k: Dim, axis: int = -1, largest: bool = True, ordered: bool = True
) -> tuple[Value, Value]:
    if x.type.rank == 0:
        one = op.reshape(x, [1])
        values, places = topk(op, one, k, 0)
        return (op.reshape(values, []), op.reshape(places, [])) if k else (values, places)
    if x.dtype is DType.bool:
        values, places = topk(op, op.cast(x, DType.uint8), k, axis, largest, ordered)
        return op.cast(values, DType.bool), places
    return op.TopK(x, op.row([k]), outputs=2, axis=axis, largest=int(largest), sorted=int(ordered))


@lowers("aten.sort.default")
def sort(op: Lowering, x: Value, axis: int = -1, descending: bool = False) -> tuple[Value, Value]:
    """ONNX takes equal elements in the order of their places, as a stable sort does."""
    return topk(op, x, x.shape[axis] if x.type.rank else 1, axis, largest=descending)


@lowers("aten.sort.stable")
def stable_sort(
    op: Lowering, x: Value, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Value, Value]:
    return sort(op, x, dim, descending)


@lowers("aten.kthvalue.default")
def kth_value(op: Lowering, x: Value, k: int, axis: int = -1, keepdim: bool = False) -> tuple[Value, Value]:
    if x.type.rank == 0:
        return x, op.cast(0, DType.int64)
    return _at(op, topk(op, x, k, axis, largest=False), k - 1, axis, keepdim)


def _at(op: Lowering, ordered: tuple[Value, Value], place: int, axis: int, keepdim: bool) -> tuple[Value, Value]:
    at = op.constant([place] if keepdim else place)
    values, places = (op.Gather(value, at, axis=axis) for value in ordered)
    return values, places


@lowers("aten.median.dim", "aten.nanmedian.dim")
def median(op: Lowering, x: Value, axis: int = -1, keepdim: bool = False) -> tuple[Value, Value]:
    if x.type.rank == 0:
        return x, op.cast(0, DType.int64)
    values, places = _median(op, x, axis)
    return (values, places) if keepdim else (op.Squeeze(values, [axis]), op.Squeeze(places, [axis]))


@lowers("aten.median.default", "aten.nanmedian.default")
def median_of_all(op: Lowering, x: Value) -> Value:
    if x.shape == (0,):
        return op.filled(math.nan)
    return op.reshape(_median(op, op.flat(x), 0)[0], [])


def _median(op: Lowering, x: Value, axis: int) -> tuple[Value, Value]:
    """The lower median and its place; NaN where an element is, or for nanmedian where all are."""
    size = op.size(x.shape[axis])
    shape = [1 if index == axis % x.type.rank else dim for index, dim in enumerate(x.shape)]
    if not x.dtype.is_float:
        ordered = sort(op, x, axis)
        place = op.expand(op.reshape(op.Div(op.Sub(size, 1), 2), [1] * x.type.rank), shape)
        values, places = (op.GatherElements(value, place, axis=axis) for value in ordered)
        return values, places
    unknown = op.IsNaN(x)
    ordered = sort(op, op.Where(unknown, op.cast(math.inf, x.dtype), x), axis)
    missing = op.ReduceSum(op.cast(unknown, DType.int64), [axis], keepdims=1)
    count = op.Sub(size, missing) if "nanmedian" in str(op.node.target) else size
    place = op.expand(op.Div(op.Max(op.Sub(count, 1), 0), 2), shape)
    values, places = (op.GatherElements(value, place, axis=axis) for value in ordered)
    first = op.ArgMax(op.cast(unknown, DType.uint8), axis=axis, keepdims=1)
    is_nan = op.Equal(count, 0) if "nanmedian" in str(op.node.target) else op.Greater(missing, 0)
    return op.Where(is_nan, op.cast(math.nan, x.dtype), values), op.Where(is_nan, first, places)


# -- running values


@lowers("aten.cumsum.default")
def cumsum(op: Lowering, x: Value, axis: int, **_keywords: Any) -> Value:
    x = op.cast(x)
    return op.CumSum(x, op.constant(axis)) if x.type.rank else x


@lowers("aten.diff.default")
def diff(
    op: Lowering, x: Value, count: int = 1, axis: int = -1, before: Value | None = None, after: Value | None = None
) -> Value:
    x = op.joined([op.cast(part) for part in (before, x, after) if part is not None], axis)
    operator = "Xor" if x.dtype is DType.bool else "Sub"
    for _ in range(count):
        x = op(operator, op.Slice(x, [1], [END], [axis]), op.Slice(x, [0], [-1], [axis]))
    return x


@lowers("aten.cumprod.default")
def cumprod(op: Lowering, x: Value, axis: int, **_keywords: Any) -> Value:
    return _running(op, [op.cast(x)], axis, lambda a, b: [op.Mul(a[0], b[0])])[0]


@lowers("aten.cummax.default", "aten.cummin.default")
def running_extreme(op: Lowering, x: Value, axis: int) -> tuple[Value, Value]:
    """The later one of equals; a NaN stays, as it is."""
    order = "GreaterOrEqual" if "cummax" in str(op.node.target) else "LessOrEqual"
    if x.type.rank == 0:
        return x, op.cast(0, DType.int64)

    def combine(before: Sequence[Value], after: Sequence[Value]) -> list[Value]:
        a, b = (op.cast(pair[0], DType.uint8) if x.dtype is DType.bool else pair[0] for pair in (before, after))
        takes = op(order, b, a)
        if x.dtype.is_float:
            takes = op.Or(takes, op.IsNaN(b))
        return [op.Where(takes, new, old) for old, new in zip(before, after, strict=True)]

    size = x.shape[axis]
    shape = [size if index == axis % x.type.rank else 1 for index in range(x.type.rank)]
    places = op.expand(op.reshape(op.places(size), shape), x.shape)
    values, indices = _running(op, [x, places], axis, combine)
    return values, indices


@lowers("aten.logcumsumexp.default")
def log_of_running_sum(op: Lowering, x: Value, axis: int) -> Value:
    def combine(before: Sequence[Value], after: Sequence[Value]) -> list[Value]:
        return [log_of_sum(op, before[0], after[0])]

    return _running(op, [x], axis, combine)[0]


@lowers("aten.logaddexp.default", "aten.logaddexp2.default")
def log_of_sum(op: Lowering, a: Value, b: Value) -> Value:
    unit = math.log(2) if "exp2" in str(op.node.target) else 1.0
    a, b = op.cast(a), op.cast(b)
    gap = op.Where(op.Equal(a, b), op.cast(0.0, a.dtype), op.Abs(op.Sub(a, b)))
    more = log1p(op, op.Exp(op.Mul(gap, -unit)))
    return op.Add(maximum(op, a, b), more if unit == 1 else op.Div(more, unit))


def _running(op: Lowering, values: list[Value], axis: int, combine: Combine) -> list[Value]:
    """The running combination along an axis, by doubling (Hillis and Steele, Data Parallel Algorithms, 1986)."""
    if values[0].type.rank == 0:
        return values
    size = values[0].shape[axis]
    if not isinstance(size, int):
        op.refuse(f"the size {size} is symbolic")
    reach = 1
    while reach < size:
        before = [op.Slice(value, [0], [-reach], [axis]) for value in values]
        after = [op.Slice(value, [reach], [END], [axis]) for value in values]
        first = [op.Slice(value, [0], [reach], [axis]) for value in values]
        joined = zip(first, combine(before, after), strict=True)
        values = [op.Concat(head, tail, axis=axis) for head, tail in joined]
        reach *= 2
    return values


# -- places in an order


@lowers("aten.searchsorted.Tensor", "aten.searchsorted.Scalar")
def search_sorted(
    op: Lowering,
    ordered: Value,
    x: Value | float,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Value | None = None,
) -> Value:
    """How many elements of a row are before each number; a NaN is after all."""
    if sorter is not None:
        ordered = op.GatherElements(ordered, sorter, axis=-1)
    ordered, numbers = op.promoted(ordered, x)
    if ordered.type.rank > 1:
        ordered = op.Unsqueeze(ordered, [-2])
    is_right = right or side == "right"
    is_after = op("Greater" if is_right else "GreaterOrEqual", ordered, op.Unsqueeze(numbers, [-1]))
    return op.cast(op.ReduceSum(op.cast(op.Not(is_after), DType.int64), [-1], keepdims=0))


@lowers("aten.bucketize.Tensor", "aten.bucketize.Scalar")
def bucketize(op: Lowering, x: Value | float, bounds: Value, *, out_int32: bool = False, right: bool = False) -> Value:
    return search_sorted(op, bounds, x, right=right)


@lowers("aten.histc.default")
def histogram(op: Lowering, x: Value, bins: int = 100, low: float = 0, high: float = 0) -> Value:
    x = op.flat(x)
    first, last = op.cast(low, x.dtype), op.cast(high, x.dtype)
    if low == high:
        if x.shape == (0,):
            return op.filled(0)
        first, last = (op(f"Reduce{end}", x, [0], keepdims=0) for end in ("Min", "Max")) if low == 0 else (first, last)
        is_point = op.Equal(first, last)
        first = op.Where(is_point, op.Sub(first, 1), first)
        last = op.Where(is_point, op.Add(last, 1), last)
    place = op.Mul(op.Div(op.Sub(x, first), op.Sub(last, first)), bins)
    is_inside = op.And(op.GreaterOrEqual(x, first), op.LessOrEqual(x, last))
    place = op.Where(is_inside, op.cast(place, DType.int64), op.cast(bins, DType.int64))
    place = op.Where(op.And(is_inside, op.Equal(place, bins)), op.cast(bins - 1, DType.int64), place)
    hits = op.expand(op.cast(1, x.dtype), x.shape)
    counts = op.ScatterElements(op.expand(op.cast(0, x.dtype), [bins + 1]), place, hits, axis=0, reduction="add")
    return op.Slice(counts, [0], [bins], [0])


# -- different elements


@lowers("aten._unique2.default", "aten._unique.default")
def unique(
    op: Lowering, x: Value, ordered: bool = True, return_inverse: bool = False, return_counts: bool = False
) -> tuple[Value, ...]:
    values, inverse, counts = _different(op, op.flat(x), None)
    return values, op.reshape(inverse, x.shape), counts


@lowers("aten.unique_dim.default")
def unique_slices(
    op: Lowering,
    x: Value,
    axis: int,
    ordered: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
) -> tuple[Value, ...]:
    return _different(op, x, axis)


def _different(op: Lowering, x: Value, axis: int | None) -> tuple[Value, Value, Value]:
    """The unique elements or slices, which of them each one is, and how often each occurs; integers are widened."""
    wide = x if x.dtype.is_float else op.cast(x, DType.int64)
    values, _, inverse, counts = op.Unique(wide, outputs=4, axis=axis, sorted=1)
    return op.cast(values, x.dtype), inverse, counts


@lowers("aten.unique_consecutive.default")
def runs(
    op: Lowering, x: Value, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> tuple[Value, ...]:
    """The first element or slice of each run of equal ones, the run that each belongs to, and how long they are."""
    whole = op.flat(x) if dim is None else x
    axis = 0 if dim is None else dim % x.type.rank
    before, after = op.Slice(whole, [0], [-1], [axis]), op.Slice(whole, [1], [END], [axis])
    is_new = op.Not(op.Equal(after, before))
    others = [place for place in range(whole.type.rank) if place != axis]
    if others:
        is_new = op.Cast(op.ReduceMax(op.Cast(is_new, to=DType.int32), others, keepdims=0), to=DType.bool)
    size = whole.shape[axis]
    first = op.constant(np.ones(min(size, 1) if isinstance(size, int) else 1, bool))
    starts = op.Concat(first, is_new, axis=0)
    values = op.Compress(whole, starts, axis=axis)
    run = op.Sub(op.CumSum(op.Cast(starts, to=DType.int64), op.constant(0)), 1)
    places = op.Squeeze(op.NonZero(starts), [0])
    ends = op.Concat(op.Slice(places, [1], [END], [0]), op.size(size), axis=0)
    inverse = op.reshape(run, x.shape) if dim is None else run
    return values, inverse, op.Sub(ends, places)


@lowers("aten.bincount.default")
def bin_counts(op: Lowering, x: Value, weights: Value | None = None, fewest: int = 0) -> Value:
    if x.shape == (0,):
        return op.filled(0)
    x = op.cast(x, DType.int64)
    size = op.Max(op.Add(op.ReduceMax(x, [0], keepdims=1), 1), fewest)
    hits = op.expand(op.cast(1), x.shape) if weights is None else op.cast(weights)
    empty = op.ConstantOfShape(size, value=np.zeros(1, op.result_type.numpy))
    return op.ScatterElements(empty, x, hits, axis=0, reduction="add")


@lowers("aten.repeat_interleave.Tensor")
def repeated_places(op: Lowering, repeats: Value, *, output_size: Dim | None = None) -> Value:
    """Each place as often as it is to be repeated: how many places end before, or at, each place of the result."""
    repeats = op.cast(repeats, DType.int64)
    ends = op.CumSum(repeats, op.constant(0))
    if output_size is None:
        count = op.ReduceSum(repeats, [0], keepdims=0)
        places = op.Range(0, count, 1)
    else:
        places = op.places(output_size)
    is_over = op.GreaterOrEqual(op.Unsqueeze(places, [1]), op.Unsqueeze(ends, [0]))
    return op.cast(op.ReduceSum(op.cast(is_over, DType.int64), [1], keepdims=0))
