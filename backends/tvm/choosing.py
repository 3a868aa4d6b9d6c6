# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none, reportOperatorIssue=none
"""NonZero and Compress: as many elements as data tells. TVM's own operators call numpy, which its runtime alone doesn't have."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tvm import relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ...ir.dims import Dim
from ...ir.graph import Node
from .expressions import integer, product, unraveled, within
from .sizes import tensors

if TYPE_CHECKING:
    from .lowering import Lowering


def non_zero(lowering: "Lowering", node: Node) -> Any:
    (x,) = tensors(lowering, node)
    rank = len(x.ty.shape)
    if not rank:
        raise NotImplementedError("a scalar has no axes to count along")
    rows, count = _places(lowering, x, node.output.shape[1])

    def turned(rows: te.Tensor, *, count: Any) -> Any:
        return te.compute([rank, count], lambda axis, number: rows(number, axis), name="turned")

    return lowering.kernel(turned, rows, count=count)


def compress(lowering: "Lowering", node: Node) -> Any:
    x, condition = tensors(lowering, node)
    axis = node.attributes.get("axis")
    along = 0 if axis is None else axis % len(x.ty.shape)
    rows, count = _places(lowering, condition, node.output.shape[along])

    def chosen(x: te.Tensor, rows: te.Tensor, *, count: Any) -> Any:
        def element(*place: Any) -> Any:
            if axis is None:
                return x(*unraveled(within(rows(place[0], 0), product(x.shape)), x.shape))
            return x(*place[:along], within(rows(place[along], 0), x.shape[along]), *place[along + 1 :])

        shape = [count] if axis is None else [*x.shape[:along], count, *x.shape[along + 1 :]]
        return te.compute(shape, element, name="chosen")

    return lowering.kernel(chosen, x, rows, count=count)


def _places(lowering: "Lowering", x: Any, dim: Dim) -> tuple[Any, Any]:
    """The places of what isn't 0, a row each, behind which there is more; and how many they are, which a dimension is."""

    def search(x: te.Tensor) -> Any:
        shapes = [[product(x.shape), len(x.shape)], [1]]
        outs = [tirx.decl_buffer(shape, "int64", "found", layout=None) for shape in shapes]

        def body(ins: Sequence[Any], outs: Sequence[Any]) -> Any:
            data, rows, count = (T.buffer_proxy(buffer) for buffer in (*ins, *outs))
            with IRBuilder() as builder:
                with T.seq_scope():
                    count[0] = integer(0)
                    with T.serial(0, product(x.shape)) as step, T.seq_scope():
                        place = unraveled(step, x.shape)
                        with T.If(_is_set(data[tuple(place)])), T.Then(), T.seq_scope():
                            for axis, index in enumerate(place):
                                rows[count[0], axis] = index
                            count[0] = count[0] + integer(1)
                return builder.get()

        return te.extern(shapes, [x], body, dtype=["int64", "int64"], out_buffers=outs, name="search")

    found = lowering.block.emit(lowering.kernel(search, x))
    rows, count = (lowering.block.emit(relax.TupleGetItem(found, index)) for index in range(2))
    (size,) = lowering.computed(count, [dim]).values
    return rows, size


def _is_set(value: Any) -> Any:
    dtype = str(value.ty.dtype)
    if dtype == "bool":
        return value
    if dtype in ("float16", "bfloat16"):
        value, dtype = value.astype("float32"), "float32"
    return tirx.NE(value, tirx.const(0, dtype))


CONVERTERS: dict[str, Callable[["Lowering", Node], Any]] = {"Compress": compress, "NonZero": non_zero}
