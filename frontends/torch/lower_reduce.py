"""Lowerings of ATen reductions."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from ...ir.dims import Dim
from ...ir.graph import Value
from ...ir.types import DType
from .lowering import Lowering, lowers, normal_axes

Axes = Sequence[int] | int | None


def _reduce(op: Lowering, onnx: str, x: Value, axes: Axes, keepdim: bool) -> Value:
    rank = x.type.rank
    return op(onnx, x, normal_axes(axes, rank), keepdims=int(keepdim)) if rank else x


@lowers("aten.mean.dim", "aten.mean.default")
def mean(op: Lowering, x: Value, axes: Axes = None, keepdim: bool = False, **_keywords: Any) -> Value:
    return _reduce(op, "ReduceMean", op.cast(x, op.result_type), axes, keepdim)


@lowers("aten.sum.dim_IntList", "aten.sum.default")
def total(op: Lowering, x: Value, axes: Axes = None, keepdim: bool = False, **_keywords: Any) -> Value:
    return _reduce(op, "ReduceSum", op.cast(x, op.result_type), axes, keepdim)


@lowers("aten.prod.dim_int", "aten.prod.default")
def product(op: Lowering, x: Value, axes: Axes = None, keepdim: bool = False, **_keywords: Any) -> Value:
    return _reduce(op, "ReduceProd", op.cast(x, op.result_type), axes, keepdim)


@lowers("aten.amax.default", "aten.max.default")
def amax(op: Lowering, x: Value, axes: Axes = None, keepdim: bool = False) -> Value:
    return _reduce(op, "ReduceMax", x, axes, keepdim)


@lowers("aten.amin.default", "aten.min.default")
def amin(op: Lowering, x: Value, axes: Axes = None, keepdim: bool = False) -> Value:
    return _reduce(op, "ReduceMin", x, axes, keepdim)


@lowers("aten.any.dim", "aten.any.dims", "aten.any.default")
def any_of(op: Lowering, x: Value, axes: Axes = None, keepdim: bool = False) -> Value:
    flags = op.cast(op.cast(x, DType.bool), DType.int32)
    return op.Cast(_reduce(op, "ReduceMax", flags, axes, keepdim), to=DType.bool)


@lowers("aten.all.dim", "aten.all.dims", "aten.all.default")
def all_of(op: Lowering, x: Value, axes: Axes = None, keepdim: bool = False) -> Value:
    flags = op.cast(op.cast(x, DType.bool), DType.int32)
    return op.Cast(_reduce(op, "ReduceMin", flags, axes, keepdim), to=DType.bool)


@lowers("aten.max.dim", "aten.min.dim")
def extreme(op: Lowering, x: Value, axis: int, keepdim: bool = False) -> tuple[Value, Value]:
    kind = "Max" if "max" in str(op.node.target) else "Min"
    index = op(f"Arg{kind}", x, axis=axis, keepdims=int(keepdim))
    return _reduce(op, f"Reduce{kind}", x, axis, keepdim), index


@lowers("aten.argmax.default", "aten.argmin.default")
def arg_extreme(op: Lowering, x: Value, axis: int | None = None, keepdim: bool = False) -> Value:
    kind = "ArgMax" if "argmax" in str(op.node.target) else "ArgMin"
    if axis is None:
        return op.reshape(op(kind, op.Reshape(x, [-1]), axis=0, keepdims=0), op.result.shape)
    return op(kind, x, axis=axis, keepdims=int(keepdim))


@lowers("aten.var.correction", "aten.std.correction")
def variance(
    op: Lowering, x: Value, axes: Axes = None, *, correction: float | None = None, keepdim: bool = False
) -> Value:
    return _moments(op, x, axes, 1 if correction is None else correction, keepdim)[0]


@lowers("aten.var_mean.correction")
def variance_and_mean(
    op: Lowering, x: Value, axes: Axes = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    return _moments(op, x, axes, 1 if correction is None else correction, keepdim)


def _moments(op: Lowering, x: Value, axes: Axes, correction: float, keepdim: bool) -> tuple[Value, Value]:
    over = normal_axes(axes, x.type.rank)
    mean = op.ReduceMean(x, over, keepdims=1)
    deviation = op.Sub(x, mean)
    spread = op.ReduceMean(op.Mul(deviation, deviation), over, keepdims=int(keepdim))
    if correction:
        count = reduce(op.Mul, (op.cast(x.shape[axis], x.dtype) for axis in over))
        spread = op.Mul(spread, op.Div(count, op.Max(op.Sub(count, float(correction)), 0.0)))
    if "std" in str(op.node.target):
        spread = op.Sqrt(spread)
    return spread, mean if keepdim else op.Squeeze(mean, over)


@lowers("aten.cumsum.default")
def cumsum(op: Lowering, x: Value, axis: int, **_keywords: Any) -> Value:
    return op.CumSum(op.cast(x, op.result_type), op.constant(np.asarray(axis, dtype=np.int64)))


@lowers("aten.topk.default")
def topk(op: Lowering, x: Value, k: Dim, axis: int = -1, largest: bool = True, ordered: bool = True) -> Any:
    return op.TopK(x, op.row([k]), outputs=2, axis=axis, largest=int(largest), sorted=int(ordered))


@lowers("aten.sort.default")
def sort(op: Lowering, x: Value, axis: int = -1, descending: bool = False) -> Any:
    return topk(op, x, x.shape[axis], axis, largest=descending)


@lowers("aten.linalg_vector_norm.default")
def vector_norm(
    op: Lowering, x: Value, order: float = 2, axes: Axes = None, keepdim: bool = False, **_kw: Any
) -> Value:
    kind = {1.0: "ReduceL1", 2.0: "ReduceL2", math.inf: "ReduceMax", -math.inf: "ReduceMin"}.get(order)
    if kind is not None:
        return _reduce(op, kind, op.Abs(x) if math.isinf(order) else x, axes, keepdim)
    if order == 0:
        return _reduce(op, "ReduceSum", op.cast(op.cast(x, DType.bool), x.dtype), axes, keepdim)
    powers = _reduce(op, "ReduceSum", op.Pow(op.Abs(x), float(order)), axes, keepdim)
    return op.Pow(powers, 1.0 / order)
