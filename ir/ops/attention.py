"""Attention and what belongs to it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..types import DType
from .dtypes import torch_dtype
from .registry import Body, operator
from .window import pad_last


@operator("Attention")
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Scaled dot products of heads `[batch, head, sequence, size]`, or `[batch, sequence, hidden]` cut into heads."""
    flat = q.ndim == 3
    if flat:
        q, k, v = _split(q, q_num_heads), _split(k, kv_num_heads), _split(v, kv_num_heads)
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    present = (k, v)
    right = 0 if is_causal else right_window_size
    bias = _bias(q, k, mask, past_key, lengths, window=(left_window_size, right))
    repeats = q.shape[1] // k.shape[1]  # grouped queries share a head of keys and values
    if repeats != 1:
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    if outputs == 1 and not softcap and _is_single(q, k, v) and softmax_precision in (None, DType.float32):
        bias = None if bias is None else torch.atleast_2d(bias)
        y = F.scaled_dot_product_attention(q, k, v, bias, scale=scale)  # several times as fast, as no score is kept
        return y.transpose(1, 2).flatten(2) if flat else y
    # a root on both sides keeps to half precision's range, and is rounded to it first as the standard has it
    half = q.new_full((), math.sqrt(1 / math.sqrt(q.shape[3]) if scale is None else scale))
    scores = (q * half) @ (k * half).mT
    capped = softcap * torch.tanh(scores / softcap) if softcap else scores
    biased = capped if bias is None else capped + bias
    weights = _softmax(biased, bias, softmax_precision).to(q.dtype)
    y = weights @ v.to(q.dtype)
    y = y.transpose(1, 2).flatten(2) if flat else y
    if outputs == 1:
        return y
    return (y, *present, (scores, capped, biased, weights)[qk_matmul_output_mode])[:outputs]


def _is_single(*tensors: Tensor) -> bool:
    return all(tensor.dtype is torch.float32 for tensor in tensors)


def _split(x: Tensor, heads: int | None) -> Tensor:
    if heads is None:
        raise ValueError("the number of heads is missing")
    return x.reshape(x.shape[0], x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)


def _bias(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None,
    past_key: Tensor | None,
    lengths: Tensor | None,
    *,
    window: tuple[int, int],
) -> Tensor | None:
    """What is added to the scores: the mask, and minus infinity where a query may not look.

    The window is how many keys before and behind its own place a query may look at; -1 for any number.
    """
    columns = torch.arange(k.shape[2], device=q.device)
    bias = None
    if mask is not None:
        bias = q.new_zeros(()).masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else mask.to(q.dtype)
        bias = pad_last(bias, [0], [k.shape[2] - mask.shape[-1]], -torch.inf)
    rows = torch.arange(q.shape[2], device=q.device).unsqueeze(1)
    if past_key is not None:
        rows = rows + past_key.shape[2]
    elif lengths is not None:
        rows = rows + (lengths.long() - q.shape[2]).reshape(-1, 1, 1, 1)
    before, behind = window
    if behind >= 0:
        bias = _forbid(bias, columns > rows + behind, q)
    if before >= 0:
        bias = _forbid(bias, columns < rows - before, q)
    if lengths is not None:
        bias = _forbid(bias, columns >= lengths.reshape(-1, 1, 1, 1), q)
    return bias


def _forbid(bias: Tensor | None, where: Tensor, like: Tensor) -> Tensor:
    return (like.new_zeros(()) if bias is None else bias).masked_fill(where, -torch.inf)


def _softmax(scores: Tensor, bias: Tensor | None, precision: int | None) -> Tensor:
    """The softmax of each row; a row that may look nowhere is zero."""
    if precision is not None:
        scores = scores.to(torch_dtype(DType(precision)))
    weights = torch.softmax(scores, -1)
    if bias is None:
        return weights
    return weights.masked_fill((bias == -torch.inf).all(-1, keepdim=True), 0)


@operator("RotaryEmbedding")
def rotary_embedding(
    x: Tensor,
    cosines: Tensor,
    sines: Tensor,
    positions: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int | None = None,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Rotate pairs of each head's first features by an angle of the position; `x` as in Attention."""
    heads = x if x.ndim == 4 else _split(x, num_heads)
    size = rotary_embedding_dim or heads.shape[3]
    turned, kept = heads[..., :size], heads[..., size:]
    if positions is not None:
        cosines, sines = cosines[positions.long()], sines[positions.long()]
    cosines, sines = cosines.unsqueeze(1), sines.unsqueeze(1)  # [batch, 1, sequence, size / 2]
    left, right = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = cosines * left - sines * right, sines * left + cosines * right
    turned = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
    y = torch.cat([turned, kept], -1)
    return y if x.ndim == 4 else y.transpose(1, 2).reshape(x.shape)


def _flexible_type(q: Tensor, k: Tensor, v: Tensor, **attributes: object) -> Tensor:
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(f"queries, keys and values have 4 axes, not {q.ndim}, {k.ndim} and {v.ndim}")
    return v.new_empty((*q.shape[:3], v.shape[3]))


@operator("ai.onnx.preview::FlexAttention", types=_flexible_type)
def flex_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    prob_mod: Body | None = None,
    scale: float | None = None,
    score_mod: Body | None = None,
    softmax_precision: int | None = None,
) -> Tensor:
    """Scaled dot products of heads, with graphs that change the scores before the softmax and the weights after it."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    half = q.new_full((), math.sqrt(1 / math.sqrt(q.shape[3]) if scale is None else scale))
    working = (
        torch_dtype(DType(softmax_precision)) if softmax_precision else torch.promote_types(q.dtype, torch.float32)
    )
    scores = ((q * half) @ (k * half).mT).to(working)
    if score_mod is not None:
        (scores,) = score_mod(scores)
    weights = torch.softmax(scores, -1)
    if prob_mod is not None:
        (weights,) = prob_mod(weights)
    return (weights @ v.to(working)).to(v.dtype)
