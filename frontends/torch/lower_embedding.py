"""Lowerings of look-ups in tables of weights."""

import math
from typing import Any

import numpy as np

from ...ir.graph import Constant, Value
from ...ir.types import DType
from .lowering import Lowering, lowers

_SUM, _MEAN, _MAX = range(3)


@lowers("aten.embedding.default")
def embedding(op: Lowering, weight: Value, indices: Value, *_ignored: Any) -> Value:
    return op.Gather(weight, indices, axis=0)


@lowers("aten._embedding_bag.default", "aten._embedding_bag_forward_only.default")
def embedding_bag(
    op: Lowering,
    weight: Value,
    indices: Value,
    offsets: Value,
    scale_grad_by_freq: bool = False,
    mode: int = _SUM,
    sparse: bool = False,
    factors: Value | None = None,
    include_last_offset: bool = False,
    padding_index: int = -1,
) -> tuple[Value, None, None, None]:
    """The sum, mean or maximum of the rows in each bag; the bags lie one after the other, from their offsets on."""
    indices = op.cast(indices, DType.int64)
    rows = op.Gather(weight, indices, axis=0)
    if factors is not None:
        rows = op.Mul(rows, op.Unsqueeze(factors, [1]))
    is_kept = None if padding_index < 0 else op.Not(op.Equal(indices, padding_index))
    size = _even_size(offsets, indices)
    if size is not None and is_kept is None:
        bags = op.reshape(rows, [offsets.shape[0], size, weight.shape[1]])
        y = op(("ReduceSum", "ReduceMean", "ReduceMax")[mode], bags, [1], keepdims=0)
    else:
        y = _bags(op, rows, offsets, mode, is_kept)
    if include_last_offset:  # from where on there is no bag
        y = op.Slice(y, [0], [-1], [0])
    return y, None, None, None


def _bags(op: Lowering, rows: Value, offsets: Value, mode: int, is_kept: Value | None) -> Value:
    """Rows added up, or their maximum taken, by the bag that each is in."""
    neutral = op.cast(-math.inf if mode == _MAX else 0.0, rows.dtype)
    if is_kept is not None:
        rows = op.Where(op.Unsqueeze(is_kept, [1]), rows, neutral)
    places = op.cast(op.places(rows.shape[0]), offsets.dtype)
    is_begun = op.LessOrEqual(op.Unsqueeze(offsets, [0]), op.Unsqueeze(places, [1]))
    bag = op.Sub(op.ReduceSum(op.cast(is_begun, DType.int64), [1], keepdims=1), 1)
    start = op.expand(neutral, [offsets.shape[0], rows.shape[1]])
    y = op.ScatterND(start, bag, rows, reduction="max" if mode == _MAX else "add")
    if mode == _MAX:
        return op.Where(op.Equal(y, -math.inf), op.cast(0.0, y.dtype), y)
    if mode == _SUM:
        return y
    ones = op.expand(op.cast(1.0, y.dtype), rows.shape[:1]) if is_kept is None else op.cast(is_kept, y.dtype)
    sizes = op.ScatterND(op.expand(op.cast(0.0, y.dtype), offsets.shape), bag, ones, reduction="add")
    return op.Div(y, op.Unsqueeze(op.Max(sizes, 1.0), [1]))


def _even_size(offsets: Value, indices: Value) -> int | None:
    """The number of rows in each bag, where that is known and always the same."""
    total = indices.shape[0]
    if not isinstance(offsets, Constant) or not isinstance(total, int) or not offsets.data.size:
        return None
    size, rest = divmod(total, offsets.data.size)
    is_even = not rest and size and np.array_equal(offsets.data, np.arange(0, total, size))
    return size if is_even else None
