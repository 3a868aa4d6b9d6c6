"""Lowerings of views that overlap, or that walk through a tensor aslant: by the places of their elements."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.dims import Dim
from ...ir.graph import Value
from .lower_shape import permute
from .lowering import Lowering, lowers


@lowers("aten.unfold.default", "aten.unfold_copy.default")
def unfold(op: Lowering, x: Value, axis: int, size: int, step: int) -> Value:
    """Windows along an axis; their elements become the last one."""
    if not x.type.rank:
        return op.reshape(x, [1])
    axis %= x.type.rank
    starts = op.Mul(op.places(op.result_shape[axis]), step)
    windows = op.Gather(x, op.Add(op.Unsqueeze(starts, [1]), np.arange(size)), axis=axis)
    rank = x.type.rank + 1
    return permute(op, windows, [*(place for place in range(rank) if place != axis + 1), axis + 1])


@lowers("aten.diagonal.default", "aten.diagonal_copy.default")
def diagonal(op: Lowering, x: Value, offset: int = 0, first: int = 0, second: int = 1) -> Value:
    columns, order = _matrices_last(x, first, second)
    matrices = permute(op, x, order)
    flat = op.Reshape(matrices, op.row([*matrices.shape[:-2], -1]))
    return op.Gather(flat, _diagonal_places(op, op.result_shape[-1], columns, offset), axis=-1)


@lowers("aten.diagonal_scatter.default")
def diagonal_scatter(op: Lowering, x: Value, source: Value, offset: int = 0, first: int = 0, second: int = 1) -> Value:
    columns, order = _matrices_last(x, first, second)
    matrices = permute(op, x, order)
    flat = op.Reshape(matrices, op.row([*matrices.shape[:-2], -1]))
    places = op.expand(_diagonal_places(op, source.shape[-1], columns, offset), source.shape)
    if 0 in source.shape:
        return x
    written = op.reshape(op.ScatterElements(flat, places, source, axis=-1), matrices.shape)
    return permute(op, written, [order.index(axis) for axis in range(x.type.rank)])


def _matrices_last(x: Value, first: int, second: int) -> tuple[Dim, list[int]]:
    """The order of axes that puts two last, and the size of the second."""
    first, second = first % x.type.rank, second % x.type.rank
    order = [*(axis for axis in range(x.type.rank) if axis not in (first, second)), first, second]
    return x.shape[second], order


def _diagonal_places(op: Lowering, count: Dim, columns: Dim, offset: int) -> Value:
    """Where the elements of a diagonal are in a matrix's rows, one after the other."""
    width = op.size(columns)
    start = op.Mul(width, -offset) if offset < 0 else op.constant([offset])
    return op.Add(op.Mul(op.places(count), op.Add(width, 1)), start)


@lowers("aten.as_strided.default", "aten.as_strided_copy.default")
def as_strided(op: Lowering, x: Value, size: Sequence[Dim], stride: Sequence[int], offset: int | None = None) -> Value:
    places = _stored_places(op, size, stride, offset)
    if places.size == np.prod(x.type.static_shape, dtype=int) and np.array_equal(
        places.reshape(-1), np.arange(places.size)
    ):
        return op.reshape(x, size)
    return op.Gather(op.Reshape(x, [-1]), places, axis=0)


@lowers("aten.as_strided_scatter.default")
def as_strided_scatter(
    op: Lowering, x: Value, source: Value, size: Sequence[Dim], stride: Sequence[int], offset: int | None = None
) -> Value:
    places = _stored_places(op, size, stride, offset).reshape(-1)
    if not places.size:
        return x
    return op.reshape(op.ScatterElements(op.Reshape(x, [-1]), places, op.Reshape(source, [-1]), axis=0), x.shape)


def _stored_places(op: Lowering, size: Sequence[Dim], stride: Sequence[int], offset: int | None) -> np.ndarray:
    """Which element of the operand each element of a view of its memory is."""
    source: Any = op.node.args[0]
    operand = source.meta["val"]
    known = [*size, *stride, *operand.shape, *operand.stride(), operand.storage_offset(), offset or 0]
    if not all(isinstance(number, int) for number in known):
        op.refuse("a size or stride is symbolic")
    held = _addresses(operand.shape, operand.stride(), operand.storage_offset()).reshape(-1)
    wanted = _addresses(size, stride, operand.storage_offset() if offset is None else offset)
    elements = np.full(max(held.max(initial=0), wanted.max(initial=0)) + 1, -1)
    elements[held] = np.arange(held.size)
    if wanted.size and elements[wanted].min() < 0:
        op.refuse("the view reaches memory beside its operand's elements")
    return elements[wanted]


def _addresses(size: Sequence[Any], stride: Sequence[int], offset: int) -> np.ndarray:
    addresses = np.full(tuple(size), offset, np.int64)
    for axis, (count, step) in enumerate(zip(size, stride, strict=True)):
        addresses += (np.arange(count) * step).reshape(-1, *(1,) * (len(size) - 1 - axis))
    return addresses


@lowers("aten.unfold_backward.default")
def fold(op: Lowering, x: Value, size: Sequence[Dim], axis: int, width: int, step: int) -> Value:
    """What `unfold` took apart, with windows that overlap added up; it may be the same along axes of the result."""
    rank = len(size)
    if not rank:
        return op.reshape(x, [])
    axis %= rank
    starts = op.Mul(op.places(x.shape[axis]), step)
    places = op.Add(op.Unsqueeze(starts, [1]), np.arange(width))  # [window, element]
    others = [place for place in range(rank) if place != axis]
    rows = permute(op, x, [axis, rank, *others])
    rows = op.expand(rows, [*rows.shape[:2], *(size[place] for place in others)])
    target = op.filled(0.0, [size[axis], *(size[place] for place in others)])
    added = op.ScatterND(target, op.Unsqueeze(places, [-1]), rows, reduction="add")
    return permute(op, added, [[axis, *others].index(place) for place in range(rank)])
