"""Reductions over axes: TVM's own leave garbage for an axis without elements, and lose infinities and NaN."""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf

from tvm import relax, te, tirx

from .....ir.contents import contents
from .....ir.graph import Node
from .....ir.types import DType
from ...kernels.vectors import Scalar
from ..dynamic_shape import squeezed
from ..emitter import Emitter, shape_of
from ..expressions import choose, counted, integer, only_if, row, same

Combiner = Callable[[tirx.Expr, tirx.Expr], tirx.Expr]


def larger(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    return tirx.Select(_stays(a, a > b), a, b)


def _smaller(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    return tirx.Select(_stays(a, a < b), a, b)


def _stays(a: tirx.Expr, wins: tirx.Expr) -> tirx.Expr:
    """Whether a number stays against another: if it wins, or is NaN."""
    return tirx.any(wins, tirx.isnan(a)) if str(a.ty.dtype).startswith("float") else wins


_REDUCTIONS: dict[str, tuple[Combiner, Callable[[DType], float]]] = {
    "ReduceMax": (larger, lambda dtype: _end(dtype, -1)),
    "ReduceMin": (_smaller, lambda dtype: _end(dtype, 1)),
    "ReduceProd": (lambda a, b: a * b, lambda dtype: 1),
    "ReduceSum": (lambda a, b: a + b, lambda dtype: 0),
}
"""The combiner of two elements and the result of reducing nothing, by operator."""


def _end(dtype: DType, sign: int) -> float:
    if dtype.is_float:
        return sign * inf
    return dtype.limits[sign > 0]


def _reduce(emitter: Emitter, node: Node) -> relax.Expr:
    value = node.operand(0)
    is_bool = value.dtype is DType.bool
    x = emitter.tensor(value)
    if is_bool:
        x = emitter.block.emit(relax.op.astype(x, "uint8"))
    combiner, nothing = _REDUCTIONS[node.operator]
    step = partial(reduction, combiner=combiner, nothing=nothing(DType.uint8 if is_bool else value.dtype))
    axes = _axes(node, value.type.rank)
    if axes is None:
        y = _reduce_computed(emitter, node, x, step)
    else:
        keeps = bool(node.attributes.get("keepdims", 1))
        y = emitter.kernel(partial(step, axes=axes, keeps=keeps), x) if axes else x
    return relax.op.astype(y, "bool") if is_bool else y


def _reduce_computed(emitter: Emitter, node: Node, x: relax.Expr, step: Callable[..., te.Tensor]) -> relax.Expr:
    """Reduce axes that only data tells: each axis in turn is reduced to a size of 1 if it is among them."""
    rank, keeps = len(shape_of(x)), bool(node.attributes.get("keepdims", 1))
    stays_without = bool(node.attributes.get("noop_with_empty_axes", 0))
    axes = emitter.tensor(node.operand(1))

    def plan(x: te.Tensor, axes: te.Tensor) -> te.Tensor:
        named = _named(axes, rank, stays_without)
        sizes = [choose(same(named(axis), 1), integer(1), size) for axis, size in enumerate(x.shape)]
        return row([*sizes, *map(named, range(rank))])

    found = emitter.block.emit(emitter.kernel(plan, x, axes))
    dims = node.output.shape if keeps else [emitter.symbol("size") for _ in range(rank)]
    wanted = emitter.computed(relax.op.strided_slice(found, [0], [0], [rank]), dims).values
    for axis in range(rank):
        x = emitter.block.emit(
            emitter.kernel(partial(_reduce_if_named, step=step, axis=axis), x, found, wanted=wanted[axis])
        )
    return x if keeps else squeezed(emitter, x, axes, node.output.shape)


def _named(axes: te.Tensor, rank: int, stays_without: bool) -> te.Tensor:
    """Return a row with 1 for each axis that is reduced: those in a row of axes, or all if the row is empty."""
    (length,) = axes.shape

    def flag(axis: Scalar, place: tirx.Expr) -> tirx.Expr:
        return choose(same(counted(axes(place).astype("int64"), integer(rank)), axis), integer(1), integer(0))

    flags = te.compute((rank, length), flag, name="flags")
    found = reduction(flags, combiner=larger, nothing=0, axes=[1], keeps=False)
    if stays_without:
        return found
    return te.compute((rank,), lambda axis: choose(same(length, 0), integer(1), found(axis)), name="named")


def _reduce_if_named(
    x: te.Tensor, plan: te.Tensor, *, step: Callable[..., te.Tensor], axis: int, wanted: Scalar
) -> te.Tensor:
    whole = step(x, axes=[axis], keeps=True)
    shape = [*x.shape[:axis], wanted, *x.shape[axis + 1 :]]

    def element(*place: tirx.Expr) -> tirx.Expr:
        first = whole(*place[:axis], 0, *place[axis + 1 :])
        return only_if(same(plan(len(x.shape) + axis), 1), first, x(*place))

    return te.compute(shape, element, name="reduce_if_named")


def _axes(node: Node, rank: int) -> list[int] | None:
    """Return the axes to reduce; None where only data tells."""
    value = node.input(1)
    axes = () if value is None or value.shape == (0,) else contents(value)
    if axes is None:
        return None
    if axes:
        return sorted(int(axis) % rank for axis in axes)
    return [] if node.attributes.get("noop_with_empty_axes", 0) else list(range(rank))


def reduction(x: te.Tensor, *, combiner: Combiner, nothing: float, axes: Sequence[int], keeps: bool) -> te.Tensor:
    """Compute a reduction; `nothing` is the result of combining no elements."""
    identity = tirx.const(nothing, x.dtype)
    combine = te.comm_reducer(combiner, lambda dtype: tirx.const(nothing, dtype))
    steps = [te.reduce_axis((0, x.shape[axis]), f"r{axis}") for axis in axes]
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keeps or axis not in axes]
    sizes = [x.shape[axis] for axis in axes]
    if any(_is_zero(size) for size in sizes):
        return te.compute(shape, lambda *place: identity, name="nothing")

    def element(*place: tirx.Expr) -> tirx.Expr:
        rest = iter(place)
        full: list[tirx.Expr | tirx.IterVar] = []
        for axis in range(len(x.shape)):
            kept = next(rest) if keeps or axis not in axes else None
            full.append(steps[axes.index(axis)] if kept is None or axis in axes else kept)
        return combine(x(*full), axis=steps)

    y = te.compute(shape, element, name="reduce")
    unsure = [size for size in sizes if not isinstance(size, int | tirx.IntImm)]
    if not unsure:
        return y
    is_empty = tirx.any(*(tirx.EQ(size, tirx.const(0, "int64")) for size in unsure))
    return te.compute(shape, lambda *place: tirx.Select(is_empty, identity, y(*place)), name="guarded")


def _is_zero(size: Scalar) -> bool:
    return isinstance(size, int | tirx.IntImm) and int(size) == 0


def _place_of_extreme(emitter: Emitter, node: Node) -> relax.Expr:
    """Return the first or the last place of the extreme along an axis, where NaN is beyond all numbers.

    TVM's own operators find no place for infinities, and arbitrary ones where there is NaN.
    """
    value = node.operand(0)
    combiner, nothing = _REDUCTIONS["ReduceMax" if node.operator == "ArgMax" else "ReduceMin"]
    best = partial(reduction, combiner=combiner, nothing=nothing(value.dtype), keeps=True)
    axis = node.attributes.get("axis", 0) % value.type.rank
    is_last, keeps = (bool(node.attributes.get(*pair)) for pair in (("select_last_index", 0), ("keepdims", 1)))
    nowhere = -1 if is_last else _FAR

    def place(x: te.Tensor) -> te.Tensor:
        extreme, size = best(x, axes=[axis]), x.shape[axis]
        step = te.reduce_axis((0, size), "place")
        pick = te.comm_reducer(larger if is_last else _smaller, lambda dtype: integer(nowhere))

        def element(*at: tirx.Expr) -> tirx.Expr:
            before, behind = at[:axis], at[axis + keeps :]
            number, most = x(*before, step, *behind), extreme(*before, 0, *behind)
            is_there = tirx.EQ(number, most)
            if value.dtype.is_float:
                is_there = tirx.any(is_there, tirx.isnan(number))
            return pick(choose(is_there, step.astype("int64"), integer(nowhere)), axis=[step])

        shape = [*x.shape[:axis], *([1] if keeps else []), *x.shape[axis + 1 :]]
        return te.compute(shape, element, name="place")

    return emitter.kernel(place, emitter.tensor(value))


_FAR = 2**62

CONVERTERS = {**dict.fromkeys(_REDUCTIONS, _reduce), **dict.fromkeys(("ArgMax", "ArgMin"), _place_of_extreme)}
