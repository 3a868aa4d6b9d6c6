"""Operands of elementwise operators, broadcast to the result's shape where TVM doesn't see how.

TVM takes an operand's size for the result's unless it is the number 1. A symbol of the inputs is assumed not to be 1,
as everywhere in planish; a symbol that depends on data may be 1, and is looked at when the model runs.
"""

from collections.abc import Sequence

from tvm import relax, te, tirx

from ....ir.dims import Dim, symbols
from ....ir.graph import Node, Value
from ....ir.types import TensorType
from ..kernels.vectors import Scalar
from .emitter import Emitter
from .expressions import choose, integer, row, same, total


def bind_result(emitter: Emitter, node: Node, inner: int = 0) -> None:
    """Give new symbols in a result's shape their values: along each axis the operands' size that isn't 1.

    Args:
        emitter: the emitter, which has the operands.
        node: the node whose result it is.
        inner: the number of last axes that aren't broadcast.
    """
    shape = node.output.shape[: node.output.type.rank - inner]
    if all(emitter.is_bound(dim) for dim in shape):
        return

    def sizes(*operands: te.Tensor) -> te.Tensor:
        found: list[tirx.Expr] = []
        faults: list[tirx.Expr] = []
        for axis in range(len(shape)):
            places = [axis - len(shape) + len(x.shape) - inner for x in operands]
            dims = [x.shape[place] for x, place in zip(operands, places, strict=True) if place >= 0]
            size = integer(1)
            for dim in dims:
                size = choose(same(size, 1), dim, size)
            found.append(size)
            faults += [choose(tirx.any(same(dim, 1), same(dim, size)), integer(0), integer(1)) for dim in dims]
        return row([*found, total(faults)])

    emitter.computed(emitter.kernel(sizes, *emitter.tensors(node)), shape)


def operand(emitter: Emitter, value: Value, shape: Sequence[Dim]) -> relax.Expr:
    """Return an operand in a form that TVM broadcasts with others to some shape."""
    wanted = shape[len(shape) - value.type.rank :]
    if may_stretch(emitter, value, shape):
        return emitter.kernel(spread, emitter.tensor(value), shape=emitter.shape(wanted))
    dims = tuple(want if isinstance(dim, str) else dim for dim, want in zip(value.shape, wanted, strict=True))
    return emitter.held(emitter.tensor(value), TensorType(value.dtype, dims))


def may_stretch(emitter: Emitter, value: Value, shape: Sequence[Dim]) -> bool:
    """Whether only data tells if an axis of a value has the size that it is broadcast to, or is repeated."""
    pairs = zip(value.shape, shape[len(shape) - value.type.rank :], strict=True)
    return any(dim != want and _may_be_one(emitter, dim) for dim, want in pairs)


def _may_be_one(emitter: Emitter, dim: Dim) -> bool:
    return isinstance(dim, str) and not symbols(dim) <= emitter.given


def spread(x: te.Tensor, *, shape: Sequence[Scalar]) -> te.Tensor:
    """Broadcast an operand to a shape: axes that turn out to have one element are repeated."""
    outer = len(shape) - len(x.shape)

    def element(*place: tirx.Expr) -> tirx.Expr:
        pairs = zip(x.shape, place[outer:], strict=True)
        return x(*(tirx.min(index.astype("int64"), size - 1) for size, index in pairs))

    return te.compute(shape, element, name="spread")
