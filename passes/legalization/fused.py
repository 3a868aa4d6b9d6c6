"""Fused operators spelled out, for targets on which a backend's kernel of one is slower than what it is made of."""

import math

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Node, Value
from ...ir.types import DType
from .expansion import Expansion, attribute, axes_from, cast
from .expansions import arithmetic, attention
from .support import Condition

SKIP_NORM = "com.microsoft::SkipLayerNormalization"

_LARGE = 20.0
"""The number from which on a float32 is its own Mish."""


def _gelu(op: Builder, node: Node) -> Value:
    x = node.operand(0)
    if attribute(node, "approximate", "none") == "tanh":
        bent = op.Add(x, op.Mul(op.Mul(op.Mul(x, x), x), 0.044715))
        spread = op.Tanh(op.Mul(bent, math.sqrt(2 / math.pi)))
    else:
        spread = op.Erf(op.Mul(x, math.sqrt(0.5)))
    return op.Mul(op.Mul(x, 0.5), op.Add(spread, 1.0))


def _quick_gelu(op: Builder, node: Node) -> Value:
    x, alpha = node.operand(0), float(attribute(node, "alpha", 1.702))
    return op.Mul(x, op.Sigmoid(x if alpha == 1 else op.Mul(x, alpha)))


def _mish(op: Builder, node: Node) -> Value:
    """Write `tanh(log(1 + e))` with `e = exp(x)` as `u / (u + 2)`, `u = e (e + 2)`: one exponential, no lost digits."""
    x = node.operand(0)
    exponential = op.Exp(op.Min(x, _LARGE))
    u = op.Mul(exponential, op.Add(exponential, 2.0))
    return op.Mul(x, op.Div(u, op.Add(u, 2.0)))


def _is_wide(node: Node) -> bool:
    return node.output.dtype in (DType.float32, DType.float64)


def _instance_normalization(op: Builder, node: Node) -> Value:
    x = node.operand(0)
    axes = list(range(2, x.type.rank))
    return op.Add(op.Mul(_normalized(op, node, x, axes), _by_channel(op, node, 1)), _by_channel(op, node, 2))


def _group_normalization(op: Builder, node: Node) -> Value:
    """The groups normalized as if they were channels, without scales and biases, which each channel has its own of."""
    x, groups = node.operand(0), int(attribute(node, "num_groups", 1))
    stash = cast(op, x, DType(attribute(node, "stash_type", 1)))
    nothing = [op.constant(np.full(groups, number, stash.dtype.numpy)) for number in (1, 0)]
    epsilon = float(attribute(node, "epsilon", 1e-5))
    parts = op.InstanceNormalization(op.Reshape(stash, [0, groups, -1]), *nothing, epsilon=epsilon)
    is_known = all(isinstance(size, int) for size in x.shape[1:])
    whole = cast(op, op.Reshape(parts, [0, *x.shape[1:]] if is_known else op.Shape(x)), x.dtype)
    scaled = whole if _is_everywhere(node.constant(1), 1) else op.Mul(whole, _by_channel(op, node, 1))
    return scaled if _is_everywhere(node.constant(2), 0) else op.Add(scaled, _by_channel(op, node, 2))


def _by_channel(op: Builder, node: Node, index: int) -> Value:
    """A vector with an element for each channel, ready to be broadcast over the rest of the first input."""
    rank = node.operand(0).type.rank
    return op.Unsqueeze(node.operand(index), list(range(1, rank - 1))) if rank > 2 else node.operand(index)


def _is_in_single_precision(node: Node) -> bool:
    """Whether sums are kept in float32; there may be no other instance normalization."""
    return node.operand(0).type.is_ranked and attribute(node, "stash_type", 1) == DType.float32.value


def _is_everywhere(data: np.ndarray | None, number: int) -> bool:
    return data is not None and bool(np.all(data == number))


def _layer_normalization(op: Builder, node: Node) -> Value:
    x, bias = node.operand(0), node.input(2)
    y = op.Mul(_normalized(op, node, x, axes_from(node, x)), node.operand(1))
    return y if bias is None else op.Add(y, bias)


def _normalized(op: Builder, node: Node, x: Value, axes: tuple[int, ...] | list[int]) -> Value:
    deviation = op.Sub(x, op.ReduceMean(x, axes))
    variance = op.ReduceMean(op.Mul(deviation, deviation), axes)
    return op.Div(deviation, op.Sqrt(op.Add(variance, float(attribute(node, "epsilon", 1e-5)))))


def _is_plain(node: Node) -> bool:
    """Whether a node has no output of statistics, and computes in float32."""
    return len(node.outputs) == 1 and node.output.dtype is DType.float32


def _skip_layer_normalization(op: Builder, node: Node) -> Value | tuple[Value, ...]:
    """Add with a Sum, since ONNX Runtime fuses an Add into this operator again."""
    if node.operator == "Add":
        return op.Sum(*node.inputs)
    x, skip, scale, shift, bias = (node.input(index) for index in range(5))
    total = op.Sum(*(value for value in (x, skip, bias) if value is not None))
    epsilon = float(attribute(node, "epsilon", 1e-12))
    if len(node.outputs) == 1:
        return op.LayerNormalization(total, scale, shift, epsilon=epsilon)
    return (*op.LayerNormalization(total, scale, shift, outputs=3, epsilon=epsilon), total)


def is_skip_norm(node: Node) -> bool:
    """Whether ONNX Runtime fuses an Add and the only LayerNormalization that reads it into a SkipLayerNormalization."""
    if node.operator != "Add" or len(node.output.uses) != 1 or node.owner.is_output(node.output):
        return False
    ((reader, index),) = node.output.uses
    one, other = (node.operand(place).type for place in (0, 1))
    is_of_tokens = one == other and one.is_ranked and one.rank == 3 and one.dtype is DType.float32
    return reader.operator == "LayerNormalization" and index == 0 and is_of_tokens


def _always(node: Node) -> bool:
    return True


FUSED: dict[str, tuple[Expansion, Condition]] = {
    "Attention": (attention.EXPANSIONS["Attention"], attention.is_sized),
    "Gelu": (_gelu, _always),
    "GroupNormalization": (_group_normalization, _is_in_single_precision),
    "HardSigmoid": (arithmetic.EXPANSIONS["HardSigmoid"], _always),
    "HardSwish": (arithmetic.EXPANSIONS["HardSwish"], _always),
    "InstanceNormalization": (_instance_normalization, lambda node: node.operand(0).type.is_ranked),
    "LayerNormalization": (_layer_normalization, _is_plain),
    "Mish": (_mish, _is_wide),
    "RMSNormalization": (arithmetic.EXPANSIONS["RMSNormalization"], _always),
    "RotaryEmbedding": (attention.EXPANSIONS["RotaryEmbedding"], attention.is_of_pairs),
    "com.microsoft::QuickGelu": (_quick_gelu, _always),
    SKIP_NORM: (_skip_layer_normalization, _always),
}
"""The fused operators that a target lists if they are worth having: how others are spelled out, and on which nodes."""
