"""Lowerings of grouped matrix products: every expert of a mixture multiplies the rows that were sorted to it."""

import numpy as np

from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.types import DType
from .lowering import Lowering, lowers


@lowers("aten._grouped_mm.default", "transformers.grouped_mm_fallback.default")
def grouped_mm(op: Lowering, x: Value, weights: Value, ends: Value | None = None, bias: Value | None = None) -> Value:
    """The product of each row of `[rows, k]` with its group's matrix of `[groups, k, n]`; rows of no group become 0.

    Group `g` is the rows from `ends[g - 1]` up to `ends[g]`. A few rows fetch their matrices; where there are more rows
    than groups, which would fetch some matrices again and again, each group multiplies all rows, with those of others
    at 0.
    """
    if x.type.rank != 2 or weights.type.rank != 3 or ends is None or bias is not None:
        raise ModelError(f"{op.location}: only a matrix of rows times one matrix for each group has a counterpart")
    rows, groups = x.shape[0], weights.type.static_shape[0]
    row = op.Unsqueeze(op.Range(*(op.cast(bound, DType.int64) for bound in (0, rows, 1))), [1])
    is_past = op.GreaterOrEqual(row, op.cast(ends, DType.int64))
    group = op.ReduceSum(op.cast(is_past, DType.int64), [1], keepdims=0)
    if isinstance(rows, int) and rows <= groups:
        own = op.Gather(weights, op.Min(group, op.constant(np.int64(groups - 1))), axis=0)
        product = op.Squeeze(op.MatMul(op.Unsqueeze(x, [1]), own), [1])
        return op.Mul(product, op.cast(op.Unsqueeze(op.Less(group, groups), [1]), x.dtype))
    is_own = op.Equal(op.Unsqueeze(group, [0]), np.arange(groups)[:, None])
    return op.ReduceSum(op.MatMul(op.Mul(x, op.cast(op.Unsqueeze(is_own, [2]), x.dtype)), weights), [0], keepdims=0)
