"""Attention and convolution that carry a state from one call to the next, as models that generate text use them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import operator


def _attended_types(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_state: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    kv_num_heads: int,
    q_num_heads: int,
    **attributes: object,
) -> tuple[Tensor, Tensor]:
    batch, time, _ = query.shape
    keys, values = query.shape[2] // q_num_heads, value.shape[2] // kv_num_heads
    state = query.new_empty((batch, kv_num_heads, keys, values)) if past_state is None else past_state
    return query.new_empty((batch, time, q_num_heads * values)), state


@operator("LinearAttention", types=_attended_types)
def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_state: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    chunk_size: int = 64,
    kv_num_heads: int,
    q_num_heads: int,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
) -> tuple[Tensor, Tensor]:
    """Reads from a state `[batch, head, key, value]` that each step decays and adds to, with or without correction.

    Everything is computed in float32; `chunk_size` is a hint for others.
    """
    q, k, v = _split(query, q_num_heads), _split(key, kv_num_heads), _split(value, kv_num_heads)
    rate = None if decay is None or "gated" not in update_rule else _split(decay, kv_num_heads).exp()
    gain = None if beta is None or "delta" not in update_rule else _split(beta, beta.shape[2])
    state = (
        q.new_zeros((q.shape[0], kv_num_heads, k.shape[3], v.shape[3])) if past_state is None else past_state.float()
    )
    rows: list[Tensor] = []
    for step in range(q.shape[2]):
        now = k[:, :, step]
        if rate is not None:
            state = state * rate[:, :, step].unsqueeze(-1)
        new = v[:, :, step]
        if gain is not None:
            new = gain[:, :, step] * (new - (state * now.unsqueeze(-1)).sum(2))
        state = state + now.unsqueeze(-1) * new.unsqueeze(-2)
        read = state.repeat_interleave(q_num_heads // kv_num_heads, 1)
        rows.append((q[:, :, step].unsqueeze(-1) * read).sum(2))  # [batch, head, value]
    y = torch.stack(rows, 1).flatten(2) * (scale or 1 / math.sqrt(k.shape[3]))
    return y.to(query.dtype), state.to(query.dtype if past_state is None else past_state.dtype)


def _split(x: Tensor, heads: int) -> Tensor:
    """Heads out of the last axis: `[batch, head, time, size]` in float32."""
    return x.float().reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


@operator("CausalConvWithState")
def causal_conv_with_state(
    x: Tensor, w: Tensor, bias: Tensor | None = None, past_state: Tensor | None = None, *, activation: str = "none"
) -> tuple[Tensor, Tensor]:
    """Each channel `[batch, channel, time]` convolved with its own filter over the present and the past."""
    reach = w.shape[2] - 1
    if past_state is not None and past_state.shape[2] != reach:
        raise ValueError(f"filters of {w.shape[2]} steps follow {reach} of the past, not {past_state.shape[2]}")
    past = x.new_zeros((x.shape[0], x.shape[1], reach)) if past_state is None else past_state
    padded = torch.cat([past, x], 2)
    y = torch.convolution(padded, w, bias, (1,), (0,), (1,), False, (0,), w.shape[0])
    if activation != "none":
        y = F.silu(y.float()).to(x.dtype)
    return y, padded[:, :, x.shape[2] :]
