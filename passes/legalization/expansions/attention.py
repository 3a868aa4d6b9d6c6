"""Attention and rotary embeddings, spelled out."""

import math

import numpy as np

from ....ir.builder import Builder
from ....ir.graph import Node, Value
from ....ir.types import DType
from ..expansion import Expansion, RefusedError, attribute, cast, known_size, size_of


def _attention(op: Builder, node: Node) -> tuple[Value, ...]:
    """Scaled dot products, with the rows that may look nowhere at zero, as the standard has it."""
    q, k, v = (node.operand(index) for index in range(3))
    flat = q.type.rank == 3
    if flat:
        q = split_heads(op, q, attribute(node, "q_num_heads", 1))
        k, v = (split_heads(op, value, attribute(node, "kv_num_heads", 1)) for value in (k, v))
    past_key, past_value = node.input(4), node.input(5)
    if past_key is not None and past_value is not None:
        k, v = op.Concat(past_key, k, axis=2), op.Concat(past_value, v, axis=2)
    present = (k, v)
    k, v = (repeat_heads(op, value, _heads(q) // _heads(value)) for value in (k, v))
    products = scores(op, node, q, k)
    cap = float(attribute(node, "softcap", 0.0))
    capped = op.Mul(op.Tanh(op.Div(products, cap)), cap) if cap else products
    bias = _bias(op, node, q, k)
    biased = capped if bias is None else op.Add(capped, bias)
    weights = _softmax(op, node, biased, bias)
    y = op.MatMul(weights, v)
    if flat:
        y = op.Reshape(op.Transpose(y, perm=(0, 2, 1, 3)), [0, 0, -1])
    return y, *present, (products, capped, biased, weights)[attribute(node, "qk_matmul_output_mode", 0)]


def is_sized(node: Node) -> bool:
    """Whether the numbers of heads and their sizes are known, without which nothing here can be spelled out."""
    values = (node.operand(index) for index in range(3 if node.operator == "Attention" else 1))
    axes = {3: (2,), 4: (1, 3)}
    return all(isinstance(value.shape[axis], int) for value in values for axis in axes[value.type.rank])


def is_plain(node: Node) -> bool:
    """Whether an Attention is one in float32 of whole sequences, with at most a mask that lies beside the scores."""
    q, k, v = (node.operand(index) for index in range(3))
    mask, get = node.input(3), node.attributes.get
    if not is_sized(node) or len(node.outputs) > 1 or any(value.dtype is not DType.float32 for value in (q, k, v)):
        return False
    if any(node.input(index) is not None for index in range(4, 7)):
        return False
    if get("softcap", 0.0) or max(get("left_window_size", -1), get("right_window_size", -1)) >= 0:
        return False
    if get("softmax_precision", None) not in (None, DType.float32.value) or q.shape[0] != k.shape[0]:
        return False
    heads = get("q_num_heads", 1) if q.type.rank == 3 else _heads(q)
    whole = (q.shape[0], heads, q.shape[-2], k.shape[-2])
    return mask is None or (
        mask.dtype in (DType.float32, DType.bool)
        and mask.shape[-1:] == k.shape[-2:-1]
        and all(dim in (1, full) for dim, full in zip(reversed(mask.shape), reversed(whole), strict=False))
    )


def is_of_pairs(node: Node) -> bool:
    """Whether a RotaryEmbedding turns a known and even number of features of each head."""
    x = node.operand(0)
    if not is_sized(node):
        return False
    heads = 1 if x.type.rank == 4 else attribute(node, "num_heads", 1)
    return (attribute(node, "rotary_embedding_dim", 0) or known_size(x, -1) // heads) % 2 == 0


def split_heads(op: Builder, x: Value, heads: int) -> Value:
    """`[batch, sequence, heads * size]` as `[batch, heads, sequence, size]`."""
    return op.Transpose(op.Reshape(x, [0, 0, heads, known_size(x, 2) // heads]), perm=(0, 2, 1, 3))


def _heads(x: Value) -> int:
    return known_size(x, 1)


def repeat_heads(op: Builder, x: Value, repeats: int) -> Value:
    """Grouped queries share a head of keys and values: each is repeated for its group."""
    if repeats == 1:
        return x
    stacked = op.Concat(*[op.Unsqueeze(x, [2])] * repeats, axis=2)
    return op.Reshape(stacked, [0, _heads(x) * repeats, -1, known_size(x, 3)])


def scores(op: Builder, node: Node, q: Value, k: Value) -> Value:
    """Multiply queries by keys, each times a root of the scale, which keeps half precision in its range."""
    scale = attribute(node, "scale", None)
    half = math.sqrt(1 / math.sqrt(known_size(q, 3)) if scale is None else scale)
    return op.MatMul(op.Mul(q, half), op.Transpose(op.Mul(k, half), perm=(0, 1, 3, 2)))


def _bias(op: Builder, node: Node, q: Value, k: Value) -> Value | None:
    """What is added to the scores: the mask, and minus infinity where a query may not look."""
    nothing, never = (op.constant(np.full((), number, q.dtype.numpy)) for number in (0, -np.inf))
    mask, lengths = node.input(3), node.input(6)
    bias = None
    if mask is not None:
        bias = _lengthened(op, op.Where(mask, nothing, never) if mask.dtype is DType.bool else mask, k)
    columns, rows = op.Range(0, size_of(op, k, 2), 1), _places(op, node, q)
    before = attribute(node, "left_window_size", -1)
    behind = 0 if attribute(node, "is_causal", 0) else attribute(node, "right_window_size", -1)
    forbidden: list[Value] = []
    if behind >= 0:
        forbidden.append(op.Greater(columns, op.Add(rows, behind)))
    if before >= 0:
        forbidden.append(op.Less(columns, op.Sub(rows, before)))
    if lengths is not None:
        forbidden.append(op.GreaterOrEqual(columns, op.Reshape(lengths, [-1, 1, 1, 1])))
    for where in forbidden:
        bias = op.Where(where, never, nothing if bias is None else bias)
    return bias


def _lengthened(op: Builder, bias: Value, k: Value) -> Value:
    """A mask that is shorter than the keys forbids the others."""
    if bias.shape[-1] == k.shape[2]:
        return bias
    missing = op.Sub(op.Unsqueeze(size_of(op, k, 2), [0]), op.Unsqueeze(size_of(op, bias, -1), [0]))
    pads = op.Concat(op.constant([0] * (2 * bias.type.rank - 1)), missing, axis=0)
    return op.Pad(bias, pads, op.constant(np.full((), -np.inf, bias.dtype.numpy)))


def _places(op: Builder, node: Node, q: Value) -> Value:
    """The place of each query among the keys, `[..., queries, 1]`."""
    past, lengths = node.input(4), node.input(6)
    rows = op.Unsqueeze(op.Range(0, size_of(op, q, 2), 1), [1])
    if past is not None:
        return op.Add(rows, size_of(op, past, 2))
    if lengths is None:
        return rows
    return op.Add(rows, op.Reshape(op.Sub(lengths, size_of(op, q, 2)), [-1, 1, 1, 1]))


def _softmax(op: Builder, node: Node, scores: Value, bias: Value | None) -> Value:
    """The softmax of each row; a row that may look nowhere is zero."""
    to = DType(attribute(node, "softmax_precision", None) or scores.dtype.value)
    weights = cast(op, op.Softmax(cast(op, scores, to), axis=-1), scores.dtype)
    if bias is None:
        return weights
    seen = op.Cast(op.Greater(bias, -np.inf), to=DType.int32)
    return op.Where(op.Equal(op.ReduceMax(seen, [-1]), 0), op.constant(np.zeros((), scores.dtype.numpy)), weights)


def is_shortened(node: Node) -> bool:
    """Whether the mask says nothing of the last keys, or of queries at all."""
    mask, q, key = node.input(3), node.operand(0), node.operand(1)
    if mask is None:
        return False
    if not all(value.type.is_ranked for value in (mask, q, key)):
        return True
    return mask.type.rank < 2 or (node.input(4) is None and mask.shape[-1] != key.shape[-2])


def _rotary_embedding(op: Builder, node: Node) -> Value:
    x, cosines, sines, positions = node.operand(0), node.operand(1), node.operand(2), node.input(3)
    heads = x if x.type.rank == 4 else split_heads(op, x, attribute(node, "num_heads", 1))
    size = attribute(node, "rotary_embedding_dim", 0) or known_size(heads, 3)
    if size % 2:
        raise RefusedError(f"it turns {size} features, which are no pairs")
    if positions is not None:
        cosines, sines = op.Gather(cosines, positions), op.Gather(sines, positions)
    cosines, sines = op.Unsqueeze(cosines, [1]), op.Unsqueeze(sines, [1])  # [batch, 1, sequence, size / 2]
    interleaved = attribute(node, "interleaved", 0)
    starts, steps = ((0, 1), 2) if interleaved else ((0, size // 2), 1)
    ends = (size, size) if interleaved else (size // 2, size)
    left, right = (op.Slice(heads, [start], [end], [3], [steps]) for start, end in zip(starts, ends, strict=True))
    real = op.Sub(op.Mul(cosines, left), op.Mul(sines, right))
    imaginary = op.Add(op.Mul(sines, left), op.Mul(cosines, right))
    if interleaved:
        pairs = op.Concat(op.Unsqueeze(real, [4]), op.Unsqueeze(imaginary, [4]), axis=4)
        turned = op.Reshape(pairs, [0, 0, 0, size])
    else:
        turned = op.Concat(real, imaginary, axis=3)
    if size != known_size(heads, 3):
        turned = op.Concat(turned, op.Slice(heads, [size], [known_size(heads, 3)], [3]), axis=3)
    return turned if x.type.rank == 4 else op.Reshape(op.Transpose(turned, perm=(0, 2, 1, 3)), [0, 0, -1])


EXPANSIONS: dict[str, Expansion] = {"Attention": _attention, "RotaryEmbedding": _rotary_embedding}
