"""Lowerings of attention, in the forms that torch has for its kernels."""

import math

import numpy as np

from ...ir.graph import Value
from ...ir.types import DType
from .lowering import Lowering, lowers


@lowers("aten.scaled_dot_product_attention.default")
def attention(
    op: Lowering,
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """Softmax(Q K^T * scale + mask) V, with rows that are masked altogether giving zeros, as torch has it."""
    if dropout:
        op.refuse("it drops out at random: give a dropout of 0 in evaluation")
    if enable_gqa:
        key, value = _repeat_heads(op, key, query), _repeat_heads(op, value, query)
    width = query.shape[-1]
    assert isinstance(width, int)  # the head size comes from weights
    rank = key.type.rank
    scaled = op.Mul(query, 1.0 / math.sqrt(width) if scale is None else float(scale))
    scores = op.MatMul(scaled, op.Transpose(key, perm=(*range(rank - 2), rank - 1, rank - 2)))
    if is_causal:
        mask = _causal_mask(op, scores)
    if mask is None:
        return op.MatMul(op.Softmax(scores, axis=-1), value)
    if mask.dtype is not DType.bool:
        probabilities = op.Softmax(op.Add(scores, mask), axis=-1)
        empty = op.IsNaN(probabilities)
        return op.MatMul(op.Where(empty, op.cast(0.0, scores.dtype), probabilities), value)
    probabilities = op.Softmax(op.Where(mask, scores, op.cast(-math.inf, scores.dtype)), axis=-1)
    if is_causal:
        return op.MatMul(probabilities, value)
    return op.MatMul(op.Where(mask, probabilities, op.cast(0.0, scores.dtype)), value)


def _causal_mask(op: Lowering, scores: Value) -> Value:
    rows, columns = scores.shape[-2:]
    ones = op.Expand(op.constant(np.ones((1, 1), dtype=bool)), op.row([rows, columns]))
    return op.Trilu(ones, upper=0)


def _repeat_heads(op: Lowering, value: Value, query: Value) -> Value:
    """Each head of a grouped key or value, as often as queries share it: shape `[..., heads, sequence, width]`."""
    heads, wanted = value.shape[-3], query.shape[-3]
    assert isinstance(heads, int) and isinstance(wanted, int)  # both come from weights
    return value if heads == wanted else op.Gather(value, np.repeat(np.arange(heads), wanted // heads), axis=-3)


@lowers("aten._scaled_dot_product_flash_attention_for_cpu.default")
def flash_attention_on_cpu(
    op: Lowering,
    query: Value,
    key: Value,
    value: Value,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Value | None = None,
    scale: float | None = None,
) -> tuple[Value, None]:
    return attention(op, query, key, value, attn_mask, dropout, is_causal, scale=scale), None


@lowers("aten._scaled_dot_product_flash_attention.default")
def flash_attention(
    op: Lowering,
    query: Value,
    key: Value,
    value: Value,
    dropout: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Value | None, ...]:
    return attention(op, query, key, value, None, dropout, is_causal, scale=scale), *(None,) * 8


@lowers("aten._scaled_dot_product_efficient_attention.default")
def efficient_attention(
    op: Lowering,
    query: Value,
    key: Value,
    value: Value,
    bias: Value | None,
    compute_sums: bool,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Value | None, ...]:
    return attention(op, query, key, value, bias, dropout, is_causal, scale=scale), *(None,) * 3


@lowers(
    "aten._scaled_dot_product_fused_attention_overrideable.default", "aten._scaled_dot_product_cudnn_attention.default"
)
def fused_attention(
    op: Lowering,
    query: Value,
    key: Value,
    value: Value,
    bias: Value | None = None,
    *arguments: bool | float,
    scale: float | None = None,
) -> tuple[Value | None, ...]:
    options = (
        arguments[1:] if "cudnn" in str(op.node.target) else arguments
    )  # cudnn's say first whether sums are wanted
    dropout, is_causal = (*options, 0.0, False)[:2]
    return attention(op, query, key, value, bias, dropout, bool(is_causal), scale=scale), *(None,) * 8


@lowers("aten._scaled_dot_product_attention_math.default", "aten._scaled_dot_product_attention_math_for_mps.default")
def plain_attention(
    op: Lowering,
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    dropout_mask: Value | None = None,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Value, None]:
    if dropout_mask is not None:
        op.refuse("it drops out by a mask")
    if mask is not None:  # it is added, whatever it is
        mask = op.cast(mask, query.dtype)
    return attention(op, query, key, value, mask, dropout, is_causal, scale=scale, enable_gqa=enable_gqa), None
