"""Operators that move elements about, spelled out."""

import numpy as np

from ....ir.builder import Builder
from ....ir.graph import Node, Value
from ....ir.types import DType
from ..expansion import Expansion, RefusedError, attribute, cast, size_of


def _center_crop_pad(op: Builder, node: Node) -> Value:
    """Padding by what is missing, which is negative where something is cropped; a half is cut towards zero."""
    x, shape = node.operand(0), cast(op, node.operand(1), DType.int64)
    rank = x.type.rank
    axes = [axis % rank for axis in attribute(node, "axes", range(rank))]
    missing = op.Sub(shape, op.Gather(op.Shape(x), np.array(axes)))
    begin = op.Div(missing, 2)
    return op.Pad(x, op.Concat(begin, op.Sub(missing, begin), axis=0), None, axes)


def _compress(op: Builder, node: Node) -> Value:
    x, axis = node.operand(0), attribute(node, "axis", None)
    places = op.Reshape(op.NonZero(node.operand(1)), [-1])
    return op.Gather(op.Reshape(x, [-1]) if axis is None else x, places, axis=axis or 0)


def _reverse_sequence(op: Builder, node: Node) -> Value:
    x, lengths = node.operand(0), op.Unsqueeze(node.operand(1), [1])
    batch, time = (attribute(node, name, default) for name, default in (("batch_axis", 1), ("time_axis", 0)))
    steps = op.Range(0, size_of(op, x, time), 1)
    sources = op.Where(op.Less(steps, lengths), op.Sub(op.Sub(lengths, 1), steps), steps)  # [batch, time]
    return op.GatherElements(x, _spread(op, sources, x, batch, time), axis=time)


def _tensor_scatter(op: Builder, node: Node) -> Value:
    past, update, starts = node.operand(0), node.operand(1), node.input(2)
    axis = attribute(node, "axis", -2) % past.type.rank
    rows = op.Unsqueeze(op.Range(0, size_of(op, update, axis), 1), [0])
    if starts is not None:
        rows = op.Add(rows, op.Unsqueeze(starts, [1]))  # [batch, update]
    if attribute(node, "mode", "linear") == "circular":
        rows = op.Mod(rows, size_of(op, past, axis))
    return op.ScatterElements(past, _spread(op, rows, update, 0, axis), update, axis=axis)


def _spread(op: Builder, table: Value, like: Value, batch: int, time: int) -> Value:
    """A table `[batch, time]` along these axes of another tensor, and the same along its others."""
    rank = like.type.rank
    if batch % rank > time % rank:
        table = op.Transpose(table, perm=(1, 0))
    others = [axis for axis in range(rank) if axis not in (batch % rank, time % rank)]
    return op.Expand(op.Unsqueeze(table, others) if others else table, op.Shape(like))


def _triangle(op: Builder, node: Node) -> Value:
    """Keep a triangle whose diagonal only data tells."""
    x, diagonal = node.operand(0), op.Reshape(node.operand(1), np.zeros(0, np.int64))
    rows, columns = (op.Range(0, size_of(op, x, axis), 1) for axis in (-2, -1))
    rows = op.Unsqueeze(op.Add(rows, diagonal), [1])
    upper = attribute(node, "upper", 1)
    kept = op.GreaterOrEqual(columns, rows) if upper else op.LessOrEqual(columns, rows)
    return op.Where(kept, x, op.constant(np.zeros((), x.dtype.numpy)))


def _cumulative(op: Builder, node: Node) -> Value:
    """Sum or multiply along every axis and take the one meant, since only data tells it."""
    x, axis = node.operand(0), op.Reshape(node.operand(1), np.zeros(0, np.int64))
    rank = x.type.rank
    y = op(node.operator, x, op.constant(0), **node.attributes)
    for other in range(1, rank):
        is_meant = op.Or(op.Equal(axis, other), op.Equal(axis, other - rank))
        y = op.Where(is_meant, op(node.operator, x, op.constant(other), **node.attributes), y)
    return y


def _top(op: Builder, node: Node) -> tuple[Value, ...]:
    """Find the top elements of uint64 as int64 with the sign bit flipped, which keeps the order."""
    turned = op.BitwiseXor(op.Cast(node.operand(0), to=DType.int64), np.iinfo(np.int64).min)
    values, indices = op.TopK(turned, node.operand(1), outputs=2, **node.attributes)
    return op.Cast(op.BitwiseXor(values, np.iinfo(np.int64).min), to=DType.uint64), indices


def _affine_grid(op: Builder, node: Node) -> Value:
    """The places of an image's pixels, from -1 to 1 and x before y, under a matrix `[batch, rank, rank + 1]`."""
    theta, size = node.operand(0), cast(op, node.operand(1), DType.int64)
    rank = theta.shape[1]
    if rank not in (2, 3):
        raise RefusedError(f"its matrices are of {rank} rows, not of 2 or 3")
    lines = [_places(op, op.Gather(size, op.constant(2 + axis)), node, theta.dtype) for axis in range(int(rank))]
    spread = [
        op.Unsqueeze(line, [other for other in range(int(rank)) if other != axis]) for axis, line in enumerate(lines)
    ]
    nothing = op.Mul(op.Sum(*spread), 0.0)
    axes = [op.Unsqueeze(op.Add(line, nothing), [-1]) for line in reversed(spread)]
    grid = op.Concat(*axes, op.Unsqueeze(op.Add(nothing, 1.0), [-1]), axis=-1)  # [..., rank + 1]
    turned = op.Unsqueeze(op.Transpose(theta, perm=(0, 2, 1)), list(range(1, int(rank))))
    return op.MatMul(op.Unsqueeze(grid, [0]), turned)


def _places(op: Builder, size: Value, node: Node, dtype: DType) -> Value:
    """The middles of pixels between -1 and 1, or places from the one to the other."""
    at, count = (op.Cast(value, to=dtype) for value in (op.Range(0, size, 1), size))
    if not attribute(node, "align_corners", 0):
        return op.Sub(op.Div(op.Add(op.Mul(at, 2.0), 1.0), count), 1.0)
    return op.Where(op.Equal(size, 1), op.Mul(at, 0.0), op.Sub(op.Div(op.Mul(at, 2.0), op.Sub(count, 1.0)), 1.0))


def _space_to_depth(op: Builder, node: Node) -> Value:
    """Move space to depth, with the channels before the places of a block in the order of the depth."""
    x, size = node.operand(0), attribute(node, "blocksize", 1)
    batch, channels, height, width = (op.Unsqueeze(size_of(op, x, axis), [0]) for axis in range(4))
    rows, columns = op.Div(height, size), op.Div(width, size)
    cut = op.Reshape(x, op.Concat(batch, channels, rows, [size], columns, [size], axis=0))
    deep = op.Transpose(cut, perm=(0, 1, 3, 5, 2, 4))
    return op.Reshape(deep, op.Concat(batch, op.Mul(channels, size * size), rows, columns, axis=0))


EXPANSIONS: dict[str, Expansion] = {
    "AffineGrid": _affine_grid,
    "CenterCropPad": _center_crop_pad,
    "Compress": _compress,
    "CumProd": _cumulative,
    "CumSum": _cumulative,
    "ReverseSequence": _reverse_sequence,
    "SpaceToDepth": _space_to_depth,
    "TensorScatter": _tensor_scatter,
    "TopK": _top,
    "Trilu": _triangle,
}
