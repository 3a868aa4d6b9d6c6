# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none
"""Reductions over axes. TVM's own leave garbage for an axis without elements, and lose infinities and NaN."""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from tvm import relax, te, tirx

from ...ir.graph import Node
from ...ir.infer import contents
from ...ir.types import DType

if TYPE_CHECKING:
    from .lowering import Lowering

Combiner = Callable[[Any, Any], Any]


def _larger(a: Any, b: Any) -> Any:
    return tirx.Select(tirx.any(a > b, tirx.NE(a, a)), a, b)  # NaN stays


def _smaller(a: Any, b: Any) -> Any:
    return tirx.Select(tirx.any(a < b, tirx.NE(a, a)), a, b)


_REDUCTIONS: dict[str, tuple[Combiner, Callable[[DType], float]]] = {
    "ReduceMax": (_larger, lambda dtype: _end(dtype, -1)),
    "ReduceMin": (_smaller, lambda dtype: _end(dtype, 1)),
    "ReduceProd": (lambda a, b: a * b, lambda dtype: 1),
    "ReduceSum": (lambda a, b: a + b, lambda dtype: 0),
}
"""How two elements are combined, and what a reduction of nothing is."""


def _end(dtype: DType, sign: int) -> float:
    if dtype.is_float:
        return sign * inf
    bits = dtype.bits - (not dtype.name.startswith("u"))
    if sign > 0:
        return (1 << bits) - 1
    return 0 if dtype.name.startswith("u") else -(1 << bits)


def _reduce(lowering: "Lowering", node: Node) -> Any:
    value = node.inputs[0]
    assert value is not None
    x = lowering.tensor(value)
    axes = _axes(node, value.type.rank)
    if not axes:
        return x
    if value.dtype is DType.bool:
        x, dtype = relax.op.astype(x, "uint8"), DType.uint8
    else:
        dtype = value.dtype
    combiner, nothing = _REDUCTIONS[node.operator]
    keeps = bool(node.attributes.get("keepdims", 1))
    y = lowering.kernel(partial(reduction, combiner=combiner, nothing=nothing(dtype), axes=axes, keeps=keeps), x)
    return relax.op.astype(y, "bool") if value.dtype is DType.bool else y


def _axes(node: Node, rank: int) -> list[int]:
    """The axes to reduce."""
    value = node.input(1)
    axes = () if value is None or value.shape == (0,) else contents(value)
    if axes is None:
        raise NotImplementedError("its axes are computed from data")
    if axes:
        return sorted(int(axis) % rank for axis in axes)
    return [] if node.attributes.get("noop_with_empty_axes", 0) else list(range(rank))


def reduction(x: te.Tensor, *, combiner: Combiner, nothing: float, axes: Sequence[int], keeps: bool) -> Any:
    """A reduction as a kernel; `nothing` is what combining no elements gives."""
    identity = tirx.const(nothing, x.dtype)
    combine = te.comm_reducer(combiner, lambda dtype: tirx.const(nothing, dtype))
    steps = [te.reduce_axis((0, x.shape[axis]), f"r{axis}") for axis in axes]
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keeps or axis not in axes]
    sizes = [x.shape[axis] for axis in axes]
    if any(_is_zero(size) for size in sizes):
        return te.compute(shape, lambda *place: identity, name="nothing")

    def element(*place: Any) -> Any:
        rest = iter(place)
        full: list[Any] = []
        for axis in range(len(x.shape)):
            kept = next(rest) if keeps or axis not in axes else None
            full.append(steps[axes.index(axis)] if axis in axes else kept)
        return combine(x(*full), axis=steps)

    y = te.compute(shape, element, name="reduce")
    unsure = [size for size in sizes if not isinstance(size, int | tirx.IntImm)]
    if not unsure:
        return y
    is_empty = tirx.any(*(tirx.EQ(size, tirx.const(0, "int64")) for size in unsure))
    return te.compute(shape, lambda *place: tirx.Select(is_empty, identity, y(*place)), name="guarded")


def _is_zero(size: Any) -> bool:
    return isinstance(size, int | tirx.IntImm) and int(size) == 0


CONVERTERS = dict.fromkeys(_REDUCTIONS, _reduce)
