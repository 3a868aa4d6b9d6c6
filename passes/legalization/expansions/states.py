"""Attention and convolution that carry a state from one call to the next, spelled out."""

import numpy as np

from ....ir.builder import Builder
from ....ir.graph import Node, Value
from ....ir.types import DType
from ..expansion import Expansion, attribute, cast, size_of
from .branches import steps


def _linear_attention(op: Builder, node: Node) -> tuple[Value, ...]:
    """Linear attention step by step, in float32; what a state that isn't given would add is left out."""
    query, key, value = (node.operand(index) for index in range(3))
    past, decay, beta = (node.input(index) for index in (3, 4, 5))
    queries, heads = attribute(node, "q_num_heads", 1), attribute(node, "kv_num_heads", 1)
    rule = attribute(node, "update_rule", "gated_delta")
    q, k, v = (_heads(op, x, count) for x, count in ((query, queries), (key, heads), (value, heads)))
    rate = None if decay is None or "gated" not in rule else op.Exp(_heads(op, decay, heads))
    gain = None if beta is None or "delta" not in rule else op.Unsqueeze(_time_last(op, beta), [3])
    state = None if past is None else cast(op, past, DType.float32)
    rows: list[Value] = []
    for step in range(steps(query.shape[1])):
        at = op.constant(step)
        now, new = op.Unsqueeze(op.Gather(k, at, axis=2), [3]), op.Gather(v, at, axis=2)
        if rate is not None and state is not None:
            state = op.Mul(state, op.Unsqueeze(op.Gather(rate, at, axis=2), [3]))
        if gain is not None:
            known = new if state is None else op.Sub(new, op.ReduceSum(op.Mul(state, now), [2], keepdims=0))
            new = op.Mul(op.Gather(gain, at, axis=2), known)
        added = op.Mul(now, op.Unsqueeze(new, [2]))
        state = added if state is None else op.Add(state, added)
        read = op.Gather(state, np.arange(queries) // (queries // heads), axis=1)
        asked = op.Unsqueeze(op.Gather(q, at, axis=2), [3])
        rows.append(op.Unsqueeze(op.ReduceSum(op.Mul(asked, read), [2], keepdims=0), [1]))
    assert state is not None
    y = op.Reshape(op.Concat(*rows, axis=1), [0, 0, -1])
    scale = attribute(node, "scale", 0.0)
    if not scale:
        size = op.Cast(size_of(op, k, 3), to=DType.float32)
        y = op.Div(y, op.Sqrt(size))
    else:
        y = op.Mul(y, float(scale))
    return cast(op, y, query.dtype), cast(op, state, query.dtype if past is None else past.dtype)


def _heads(op: Builder, x: Value, count: int) -> Value:
    """Heads out of the last axis: `[batch, head, time, size]` in float32."""
    return op.Transpose(op.Reshape(cast(op, x, DType.float32), [0, 0, count, -1]), perm=(0, 2, 1, 3))


def _time_last(op: Builder, x: Value) -> Value:
    """One number for each head: `[batch, head, time]` in float32."""
    return op.Transpose(cast(op, x, DType.float32), perm=(0, 2, 1))


def _causal_convolution(op: Builder, node: Node) -> tuple[Value, ...]:
    """Each channel `[batch, channel, time]` convolved with its own filter over the present and the past."""
    x, w, bias, past = node.operand(0), node.operand(1), node.input(2), node.input(3)
    reach = op.Sub(op.Unsqueeze(size_of(op, w, 2), [0]), 1)
    pads = op.Concat([0, 0], reach, [0, 0, 0], axis=0)
    padded = op.Pad(x, pads) if past is None else op.Concat(past, x, axis=2)
    y = op.Conv(padded, w, bias, group=w.shape[0])
    if attribute(node, "activation", "none") != "none":
        wide = cast(op, y, DType.float32)
        y = cast(op, op.Mul(wide, op.Sigmoid(wide)), x.dtype)
    return y, op.Slice(padded, op.Unsqueeze(size_of(op, x, 2), [0]), [np.iinfo(np.int64).max], [2])


EXPANSIONS: dict[str, Expansion] = {
    "CausalConvWithState": _causal_convolution,
    "LinearAttention": _linear_attention,
}
