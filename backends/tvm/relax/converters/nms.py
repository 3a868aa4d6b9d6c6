"""NonMaxSuppression: one box after the other is compared with the boxes of its class that are kept already."""

from collections.abc import Sequence

import numpy as np
from tvm import relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .....ir.graph import Node
from ..dynamic_shape import cut_to
from ..emitter import Emitter
from ..expressions import BufferProxy, integer
from .cast import ranks

_FOUND, _FIRST, _CLASH = range(3)
"""Places in a row of numbers for the count of kept boxes, the begin of this class's, and whether one clashes."""


def non_max_suppression(emitter: Emitter, node: Node) -> relax.Expr:
    boxes, scores = (emitter.tensor(value) for value in node.inputs[:2] if value is not None)
    limit, overlap, threshold = (
        relax.const(default) if node.input(index) is None else emitter.tensor(node.operand(index))
        for index, default in ((2, np.int64(0)), (3, np.float32(0)), (4, np.float32(-np.inf)))
    )
    order = emitter.block.emit(emitter.kernel(ranks, scores))
    order = emitter.block.emit(relax.op.argsort(order, axis=-1, descending=True, dtype="int64"))
    keeps_all = node.input(4) is None
    center = bool(node.attributes.get("center_point_box", 0))

    def suppress(*given: te.Tensor) -> Sequence[te.Tensor]:
        batch, classes, count = given[1].shape
        shapes = [[batch * classes * count, 3], [3]]
        outs = [tirx.decl_buffer(shape, "int64", "found", layout=None) for shape in shapes]

        def body(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer]) -> tirx.Stmt:
            return _suppression([T.buffer_proxy(buffer) for buffer in (*ins, *outs)], given, center, keeps_all)

        return te.extern(shapes, list(given), body, dtype=["int64", "int64"], out_buffers=outs, name="suppress")

    found = emitter.block.emit(emitter.kernel(suppress, boxes, scores, order, limit, overlap, threshold))
    rows, state = (emitter.block.emit(relax.TupleGetItem(found, index)) for index in range(2))
    (kept,) = emitter.computed(relax.op.strided_slice(state, [0], [0], [1]), node.output.shape[:1]).values
    return emitter.kernel(cut_to, rows, shape=[kept, 3])


def _suppression(
    buffers: Sequence[BufferProxy], given: Sequence[te.Tensor], center: bool, keeps_all: bool
) -> tirx.Stmt:
    boxes, scores, order, limit, overlap, threshold, rows, state = buffers
    most, least_clash, least_score = (
        buffer[tuple([0] * len(tensor.shape))]
        for buffer, tensor in zip((limit, overlap, threshold), given[3:], strict=True)
    )
    batches, classes, count = given[1].shape
    with IRBuilder() as builder:
        with T.seq_scope():
            state[_FOUND] = integer(0)
            with T.serial(0, batches) as batch, T.serial(0, classes) as label, T.seq_scope():
                state[_FIRST] = state[_FOUND]
                with T.serial(0, count) as place:
                    box = order[batch, label, place]
                    score = scores[batch, label, box]
                    is_good = tirx.any(tirx.const(keeps_all, "bool"), score > least_score)
                    with T.If(tirx.all(is_good, state[_FOUND] - state[_FIRST] < most)), T.Then(), T.seq_scope():
                        state[_CLASH] = integer(0)
                        with T.serial(0, state[_FOUND] - state[_FIRST]) as number:
                            other = rows[state[_FIRST] + number, 2]
                            common = _overlap(boxes, batch, box, other, center)
                            with T.If(common > least_clash), T.Then():
                                state[_CLASH] = integer(1)
                        with T.If(tirx.EQ(state[_CLASH], integer(0))), T.Then(), T.seq_scope():
                            rows[state[_FOUND], 0] = batch.astype("int64")
                            rows[state[_FOUND], 1] = label.astype("int64")
                            rows[state[_FOUND], 2] = box
                            state[_FOUND] = state[_FOUND] + integer(1)
        return builder.get()


def _overlap(boxes: BufferProxy, batch: tirx.Expr, one: tirx.Expr, other: tirx.Expr, center: bool) -> tirx.Expr:
    """Return the intersection of two boxes over their union (IoU)."""
    (low, high), (lower, higher) = (_corners(boxes, batch, box, center) for box in (one, other))
    sides = [tirx.min(high[axis], higher[axis]) - tirx.max(low[axis], lower[axis]) for axis in range(2)]
    nought = tirx.const(0, sides[0].ty.dtype)
    common = tirx.max(sides[0], nought) * tirx.max(sides[1], nought)
    areas = [(ends[0] - starts[0]) * (ends[1] - starts[1]) for starts, ends in ((low, high), (lower, higher))]
    return common / (areas[0] + areas[1] - common)


def _corners(
    boxes: BufferProxy, batch: tirx.Expr, box: tirx.Expr, center: bool
) -> tuple[list[tirx.Expr], list[tirx.Expr]]:
    """Return the lower and upper corner of a box that is given by two opposite corners, or by center and size."""
    first, second = ([boxes[batch, box, part + axis] for axis in range(2)] for part in (0, 2))
    pairs = list(zip(first, second, strict=True))
    if not center:
        return [tirx.min(a, b) for a, b in pairs], [tirx.max(a, b) for a, b in pairs]
    half = tirx.const(0.5, first[0].ty.dtype)
    return [middle - size * half for middle, size in pairs], [middle + size * half for middle, size in pairs]


CONVERTERS = {"NonMaxSuppression": non_max_suppression}
