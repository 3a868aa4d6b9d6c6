"""Reading and writing elements at computed places.

Negative places count from the end, and places beyond an end are moved to the nearest element: TVM's own kernels read
and write out of bounds there, and take fewer updates than elements for as many.
"""

from collections.abc import Callable, Sequence
from functools import partial

from tvm import relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .....ir.graph import Node
from .....ir.types import DType
from ...kernels.vectors import known
from ...runtime.storage import carrier
from ..emitter import Converter, Emitter, shape_of
from ..expressions import BufferProxy, choose, counted, product, unraveled


def gather_elements(emitter: Emitter, node: Node) -> relax.Expr:
    x, indices = emitter.tensors(node)
    axis = node.attributes.get("axis", 0) % len(shape_of(x))
    return emitter.kernel(partial(gather_elements_along, axis=axis), x, indices)


def gather_elements_along(x: te.Tensor, indices: te.Tensor, *, axis: int) -> te.Tensor:
    def element(*place: tirx.Expr) -> tirx.Expr:
        at = counted(indices(*place).astype("int64"), x.shape[axis])
        return x(*place[:axis], at, *place[axis + 1 :])

    return te.compute(indices.shape, element, name="gather_elements")


def gather_nd(emitter: Emitter, node: Node) -> relax.Expr:
    x, indices = emitter.tensors(node)
    batch = node.attributes.get("batch_dims", 0)

    def gather_nd(x: te.Tensor, indices: te.Tensor) -> te.Tensor:
        *lead, depth = indices.shape
        count = known(depth)

        def element(*place: tirx.Expr) -> tirx.Expr:
            row = place[: len(lead)]
            at = [counted(indices(*row, number).astype("int64"), x.shape[batch + number]) for number in range(count)]
            return x(*place[:batch], *at, *place[len(lead) :])

        return te.compute([*lead, *x.shape[batch + count :]], element, name="gather_nd")

    return emitter.kernel(gather_nd, x, indices)


def scatter_elements(emitter: Emitter, node: Node) -> relax.Expr:
    x, indices, updates = emitter.tensors(node)
    axis = node.attributes.get("axis", 0) % len(shape_of(x))
    combine = _COMBINED[node.attributes.get("reduction", "none")]

    def scatter_elements(x: te.Tensor, indices: te.Tensor, updates: te.Tensor) -> te.Tensor:
        def write(out: BufferProxy, given: BufferProxy, new: BufferProxy) -> None:
            with T.serial(0, product(indices.shape)) as step:
                place = unraveled(step, indices.shape)
                at = counted(given[tuple(place)].astype("int64"), x.shape[axis])
                target = (*place[:axis], at, *place[axis + 1 :])
                out[target] = combine(out[target], new[tuple(place)])

        return _written(x, indices, updates, write)

    return emitter.kernel(scatter_elements, x, indices, updates)


def scatter_nd(emitter: Emitter, node: Node) -> relax.Expr:
    x, indices, updates = emitter.tensors(node)
    combine = _COMBINED[node.attributes.get("reduction", "none")]

    def scatter_nd(x: te.Tensor, indices: te.Tensor, updates: te.Tensor) -> te.Tensor:
        *lead, depth = indices.shape
        count = known(depth)

        def write(out: BufferProxy, given: BufferProxy, new: BufferProxy) -> None:
            with T.serial(0, product(updates.shape)) as step:
                place = unraveled(step, updates.shape)
                row = place[: len(lead)]
                at = [counted(given[(*row, number)].astype("int64"), x.shape[number]) for number in range(count)]
                target = (*at, *place[len(lead) :])
                out[target] = combine(out[target], new[tuple(place)])

        return _written(x, indices, updates, write)

    return emitter.kernel(scatter_nd, x, indices, updates)


_COMBINED: dict[str, Callable[[tirx.Expr, tirx.Expr], tirx.Expr]] = {
    "none": lambda old, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    "max": lambda old, new: choose(tirx.any(old > new, _is_nan(old)), old, new),
    "min": lambda old, new: choose(tirx.any(old < new, _is_nan(old)), old, new),
}


def _is_nan(x: tirx.Expr) -> tirx.Expr:
    return tirx.isnan(x) if str(x.ty.dtype).startswith("float") else tirx.const(False, "bool")


def _written(
    x: te.Tensor, indices: te.Tensor, updates: te.Tensor, write: Callable[[BufferProxy, BufferProxy, BufferProxy], None]
) -> te.Tensor:
    """Copy a tensor, and then write to it, one update after the other."""

    def body(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer]) -> tirx.Stmt:
        data, given, new, out = (T.buffer_proxy(buffer) for buffer in (*ins, *outs))
        with IRBuilder() as builder:
            with T.seq_scope():
                with T.serial(0, product(x.shape)) as step:
                    place = tuple(unraveled(step, x.shape))
                    out[place] = data[place]
                write(out, given, new)
            return builder.get()

    out = tirx.decl_buffer(x.shape, x.dtype, "out", layout=None)
    return te.extern([x.shape], [x, indices, updates], body, dtype=x.dtype, out_buffers=[out], name="scatter")


def accumulated(emitter: Emitter, node: Node) -> relax.Expr:
    """Compute the sums or products of all elements up to each along an axis."""
    x, axis = node.operand(0), node.constant(1)
    assert axis is not None
    along = int(axis.reshape(-1)[0]) % x.type.rank
    data = emitter.tensor(x)
    run = relax.op.cumsum if node.operator == "CumSum" else relax.op.cumprod
    reverse = bool(node.attributes.get("reverse", 0))
    if reverse:
        data = emitter.block.emit(relax.op.flip(data, along))
    y = run(data, along, str(x.dtype), bool(node.attributes.get("exclusive", 0)))
    return relax.op.flip(emitter.block.emit(y), along) if reverse else y


def bit_cast(emitter: Emitter, node: Node) -> relax.Expr:
    """Reinterpret bits as another type of the same width; truth values are stored as bytes."""
    value, to = node.operand(0), node.output.dtype
    x = emitter.tensor(value)
    if value.dtype is DType.bool:
        x = emitter.block.emit(relax.op.astype(x, "uint8"))
    if to is DType.bool:
        return relax.op.not_equal(x, relax.const(0, str(carrier(value.dtype))))
    return emitter.kernel(partial(_reinterpreted, to=to), x)


def _reinterpreted(x: te.Tensor, *, to: DType) -> te.Tensor:
    mask = (1 << to.bits) - 1
    low = to.limits[0] if to.is_integer else 0

    def element(*place: tirx.Expr) -> tirx.Expr:
        if to.bits >= 8:
            return tirx.reinterpret(str(carrier(to)), x(*place))
        code = x(*place).astype("int32") & mask
        return choose(code > mask + low, code - (mask + 1), code).astype(str(carrier(to)))

    return te.compute(x.shape, element, name="bit_cast")


CONVERTERS: dict[str, Converter] = {
    "BitCast": bit_cast,
    "CumProd": accumulated,
    "CumSum": accumulated,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
