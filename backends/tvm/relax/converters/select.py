"""NonZero: TVM's own calls a Python function, which an artifact runs without."""

from collections.abc import Sequence

from tvm import relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .....ir.graph import Node
from .....ir.types import DType
from ..dynamic_shape import cut_to
from ..emitter import Emitter, shape_of
from ..expressions import integer, product, unraveled


def non_zero(emitter: Emitter, node: Node) -> relax.Expr:
    """Lower NonZero: the places of all elements that aren't zero, in order, as columns.

    There are columns for as many places as there could be, cut to those that are found.
    """
    (x,) = emitter.tensors(node)
    rank, value = len(shape_of(x)), node.operand(0)
    if not rank:
        raise NotImplementedError("it selects from a number alone")
    if value.dtype in (DType.bool, DType.bfloat16):
        x = emitter.block.emit(relax.op.astype(x, "uint8" if value.dtype is DType.bool else "float32"))

    def places(x: te.Tensor) -> Sequence[te.Tensor]:
        shapes = [[rank, product(x.shape)], [1]]
        outs = [tirx.decl_buffer(shape, "int64", "places", layout=None) for shape in shapes]

        def body(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer]) -> tirx.Stmt:
            data, found, count = (T.buffer_proxy(buffer) for buffer in (*ins, *outs))
            with IRBuilder() as builder:
                with T.seq_scope():
                    count[0] = integer(0)
                    with T.serial(0, product(x.shape)) as step:
                        place = unraveled(step, x.shape)
                        with T.If(_is_nonzero(data[tuple(place)])), T.Then(), T.seq_scope():
                            for axis, index in enumerate(place):
                                found[axis, count[0]] = index
                            count[0] = count[0] + integer(1)
                return builder.get()

        return te.extern(shapes, [x], body, dtype=["int64", "int64"], out_buffers=outs, name="non_zero")

    pair = emitter.block.emit(emitter.kernel(places, x))
    found, count = (emitter.block.emit(relax.TupleGetItem(pair, index)) for index in range(2))
    (length,) = emitter.computed(count, node.output.shape[1:]).values
    return emitter.kernel(cut_to, found, shape=[rank, length])


def _is_nonzero(number: tirx.Expr) -> tirx.Expr:
    """Whether a number isn't zero, which includes NaN."""
    differs = tirx.NE(number, tirx.const(0, number.ty.dtype))
    return tirx.any(differs, tirx.isnan(number)) if str(number.ty.dtype).startswith("float") else differs


CONVERTERS = {"NonZero": non_zero}
