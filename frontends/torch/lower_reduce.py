"""Lowerings of ATen reductions."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from ...ir.dims import Dim
from ...ir.graph import Value
from ...ir.types import DType
from .keep import keep
from .lowering import Lowering, lowers, normal_axes

Axes = Sequence[int] | int | None


def _reduce(op: Lowering, onnx: str, x: Value, axes: Axes, keepdim: bool) -> Value:
    rank = x.type.rank
    return op(onnx, x, normal_axes(axes, rank), keepdims=int(keepdim)) if rank else x


def _is_of_nothing(x: Value, axes: Axes) -> bool:
    return 0 in x.shape and any(x.shape[axis] == 0 for axis in normal_axes(axes, x.type.rank))


@lowers("aten.mean.dim", "aten.mean.default")
def mean(op: Lowering, x: Value, axes: Axes = None, keepdim: bool = False, **_keywords: Any) -> Value:
    if _is_of_nothing(x, axes):  # ONNX leaves open what that is
        return op.filled(math.nan)
    return _reduce(op, "ReduceMean", op.cast(x), axes, keepdim)


@lowers("aten.sum.dim_IntList", "aten.sum.default")
def total(op: Lowering, x: Value, axes: Axes = None, keepdim: bool = False, **_keywords: Any) -> Value:
    return _reduce(op, "ReduceSum", op.cast(x), axes, keepdim)


@lowers("aten.nansum.default")
def total_of_numbers(op: Lowering, x: Value, axes: Axes = None, keepdim: bool = False, **_keywords: Any) -> Value:
    x = op.Where(op.IsNaN(x), op.cast(0, x.dtype), x) if x.dtype.is_float else x
    return total(op, x, axes, keepdim)


@lowers("aten.prod.dim_int", "aten.prod.default")
def product(op: Lowering, x: Value, axes: Axes = None, keepdim: bool = False, **_keywords: Any) -> Value:
    return _reduce(op, "ReduceProd", op.cast(x), axes, keepdim)


@lowers("aten.amax.default", "aten.max.default")
def amax(op: Lowering, x: Value, axes: Axes = None, keepdim: bool = False) -> Value:
    return _reduce(op, "ReduceMax", x, axes, keepdim)


@lowers("aten.amin.default", "aten.min.default")
def amin(op: Lowering, x: Value, axes: Axes = None, keepdim: bool = False) -> Value:
    return _reduce(op, "ReduceMin", x, axes, keepdim)


@lowers("aten.aminmax.default")
def both_extremes(op: Lowering, x: Value, *, dim: int | None = None, keepdim: bool = False) -> tuple[Value, Value]:
    return amin(op, x, dim, keepdim), amax(op, x, dim, keepdim)


@lowers("aten.any.dim", "aten.any.dims", "aten.any.default", "aten._is_any_true.default")
def any_of(op: Lowering, x: Value, axes: Axes = None, keepdim: bool = False) -> Value:
    if _is_of_nothing(x, axes):
        return op.filled(False)
    flags = op.cast(op.cast(x, DType.bool), DType.int32)
    return op.cast(_reduce(op, "ReduceMax", flags, axes, keepdim))


@lowers("aten.all.dim", "aten.all.dims", "aten.all.default", "aten._is_all_true.default")
def all_of(op: Lowering, x: Value, axes: Axes = None, keepdim: bool = False) -> Value:
    if _is_of_nothing(x, axes):
        return op.filled(True)
    flags = op.cast(op.cast(x, DType.bool), DType.int32)
    return op.cast(_reduce(op, "ReduceMin", flags, axes, keepdim))


@lowers("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList")
def count(op: Lowering, x: Value, axes: Axes = None) -> Value:
    return _reduce(op, "ReduceSum", op.cast(op.cast(x, DType.bool), DType.int64), axes, False)


@lowers("aten.max.dim", "aten.min.dim")
def extreme(op: Lowering, x: Value, axis: int, keepdim: bool = False) -> tuple[Value, Value]:
    kind = "Max" if "max" in str(op.node.target) else "Min"
    return _reduce(op, f"Reduce{kind}", x, axis, keepdim), _place(op, kind, x, axis, keepdim)


@lowers("aten.argmax.default", "aten.argmin.default")
def arg_extreme(op: Lowering, x: Value, axis: int | None = None, keepdim: bool = False) -> Value:
    kind = "Max" if "argmax" in str(op.node.target) else "Min"
    if axis is None:
        return op.reshape(_place(op, kind, op.flat(x), 0, False), op.result_shape)
    return _place(op, kind, x, axis, keepdim)


def _place(op: Lowering, kind: str, x: Value, axis: int, keepdim: bool) -> Value:
    if x.type.rank == 0:
        return op.cast(0, DType.int64)
    x = op.cast(x, DType.uint8) if x.dtype is DType.bool else x
    return op(f"Arg{kind}", x, axis=axis, keepdims=int(keepdim))


@lowers("aten.var.correction", "aten.std.correction")
def variance(
    op: Lowering, x: Value, axes: Axes = None, *, correction: float | None = None, keepdim: bool = False
) -> Value:
    return _moments(op, x, axes, 1 if correction is None else correction, keepdim)[0]


@lowers("aten.var_mean.correction", "aten.std_mean.correction")
def variance_and_mean(
    op: Lowering, x: Value, axes: Axes = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    return _moments(op, x, axes, 1 if correction is None else correction, keepdim)


def _moments(op: Lowering, x: Value, axes: Axes, correction: float, keepdim: bool) -> tuple[Value, Value]:
    """The variance, or its root if the operator is a deviation, and the mean."""
    over = normal_axes(axes, x.type.rank)
    if _is_of_nothing(x, over):
        nothing = op.filled(math.nan)
        return nothing, nothing
    mean = _reduce(op, "ReduceMean", x, over, True)
    deviation = op.Sub(x, mean)
    spread = _reduce(op, "ReduceMean", op.Mul(deviation, deviation), over, keepdim)
    if correction:
        spread = op.Mul(spread, _unbiased(op, [x.shape[axis] for axis in over], float(correction), x.dtype))
    if ".std" in str(op.node.target):
        spread = op.Sqrt(spread)
    return spread, mean if keepdim or not over else op.Squeeze(mean, over)


def _unbiased(op: Lowering, sizes: Sequence[Dim], correction: float, dtype: DType) -> Value:
    """The quotient of a count and what is left of it after the correction; infinite where nothing is."""
    known = math.prod(size for size in sizes if isinstance(size, int))
    unknown = [op.cast(size, dtype) for size in sizes if isinstance(size, str)]
    if not unknown:
        return op.cast(known / (known - correction) if known > correction else math.inf, dtype)
    count = reduce(op.Mul, unknown, op.cast(known, dtype)) if known != 1 else reduce(op.Mul, unknown)
    return op.Div(count, op.Max(op.Sub(count, correction), 0.0))


@lowers("aten.linalg_vector_norm.default")
def vector_norm(
    op: Lowering, x: Value, order: float = 2, axes: Axes = None, keepdim: bool = False, **_kw: Any
) -> Value:
    x = op.cast(x)
    if x.type.rank == 0 and order:
        return op.Abs(x)
    return norm(op, x, order, axes, keepdim)


def norm(op: Lowering, x: Value, order: float, axes: Axes, keepdim: bool) -> Value:
    """The norm over axes, of an order that may be infinite, zero (a count) or negative."""
    kind = {1.0: "ReduceL1", 2.0: "ReduceL2", math.inf: "ReduceMax", -math.inf: "ReduceMin"}.get(order)
    if kind is not None:
        return _reduce(op, kind, op.Abs(x) if math.isinf(order) else x, axes, keepdim)
    if order == 0:
        return _reduce(op, "ReduceSum", op.cast(op.cast(x, DType.bool), x.dtype), axes, keepdim)
    powers = _reduce(op, "ReduceSum", op.Pow(op.Abs(x), float(order)), axes, keepdim)
    return op.Pow(powers, 1.0 / order)


@lowers("aten.dist.default")
def distance(op: Lowering, a: Value, b: Value, order: float = 2) -> Value:
    return vector_norm(op, op.Sub(op.cast(a), op.cast(b)), order)


_MANY = 1 << 24
"""Differences between all pairs of rows that are too many to hold."""


@lowers("aten._cdist_forward.default")
def distances(op: Lowering, a: Value, b: Value, order: float, mode: int | None) -> Value:
    """The distances `[..., n, m]` of rows; between many, Euclid's are made of products, which are less exact."""
    counts = (*op.result_shape, a.shape[-1])
    known = [size for size in counts if isinstance(size, int)]
    are_many = len(known) < len(counts) or math.prod(known) > _MANY
    if order == 2 and are_many and mode != 2:
        return _distances_by_products(op, a, b)
    if a.shape[-1] == 0:
        return op.filled(0.0)
    return norm(op, op.Sub(op.Unsqueeze(a, [-2]), op.Unsqueeze(b, [-3])), float(order), -1, False)


def _distances_by_products(op: Lowering, a: Value, b: Value) -> Value:
    rank = b.type.rank
    cross = op.MatMul(op.Mul(a, -2.0), op.Transpose(b, perm=(*range(rank - 2), rank - 1, rank - 2)))
    left = op.ReduceSum(op.Mul(a, a), [-1], keepdims=1)
    right = op.Unsqueeze(op.ReduceSum(op.Mul(b, b), [-1], keepdims=0), [-2])
    return op.Sqrt(op.Max(op.Add(op.Add(cross, left), right), 0.0))


@lowers("aten._pdist_forward.default")
def pair_distances(op: Lowering, x: Value, order: float = 2) -> Value:
    """The distance of each row to each later one."""
    count = x.shape[0]
    if not isinstance(count, int):
        return keep(op, x, order)
    if count < 2 or x.shape[1] == 0:
        return op.filled(0.0)
    first, second = np.triu_indices(count, 1)
    return norm(op, op.Sub(op.Gather(x, first, axis=0), op.Gather(x, second, axis=0)), float(order), -1, False)
