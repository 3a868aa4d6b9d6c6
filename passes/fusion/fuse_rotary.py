"""Recognising rotary position embeddings (Su et al. 2021) in the arithmetic that exporters write for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Node, Value
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ...ir.types import DType
from ..base import Effect
from ..rewrite import Match, RewritePass, RewriteRule

_HEADS_FIRST = (0, 2, 1, 3)


def _turned(op: Any, x: Any, cosines: Any, sines: Any, low: Any, high: Any, sizes: Any) -> Any:
    """The sum x * cos + x' * sin, where x' has the halves of each head swapped and the first one then negated."""
    left, right = op.Split(x, sizes, axis=op.attribute("split_axis"), outputs=2)
    split = op.Concat(op.Neg(right), left, axis=op.attribute("axis"))
    lower, upper = op.Slice(x, op.rest(low)), op.Slice(x, op.rest(high))
    sliced = op.Concat(op.Neg(upper), lower, axis=op.attribute("axis"))
    return op.Add(op.Mul(x, cosines), op.Mul(op.either(sliced, split), sines))


def _check(match: Match) -> str:
    x = match["x"]
    if x.type.rank != 4 or isinstance(x.shape[3], str) or x.shape[3] % 2 or isinstance(x.shape[1], str):
        return "it isn't [batch, head, sequence, size] of an even size"
    if not x.dtype.is_float or x.dtype is DType.float64:
        return f"RotaryEmbedding doesn't take {x.dtype.name}"
    if match.attributes["axis"] not in (-1, 3) or not _has_halves(match, x.shape[3] // 2):
        return "what changes places aren't the halves of each head"
    for name in ("cosines", "sines"):
        angles = match[name]
        batch, heads = (1, 1, *angles.shape)[-4:-2]
        if angles.type.rank < 2 or angles.shape[-2:] != x.shape[2:] or batch not in (1, x.shape[0]) or heads != 1:
            return f"the {name} aren't of each place and feature, alike for all heads"
        if not _repeats(angles):
            return f"the {name} of both halves aren't known to be the same"
    return ""


def _has_halves(match: Match, half: int) -> bool:
    if match.rests["low"]:
        starts = (_start(match.rests[name]) for name in ("low", "high"))
        wanted = ({0}, {half, -half})
        ends = all(node.output.shape[-1] == half for node in match.nodes if node.operator == "Slice")
        return ends and all(start in those for start, those in zip(starts, wanted, strict=True))
    split = match.node("Split")
    return match.attributes["split_axis"] in (-1, 3) and all(value.shape[3] == half for value in split.outputs)


def _start(operands: Sequence[Value | None]) -> int | None:
    """Where a slice along the last of four axes begins, one step after the other; None where it isn't known."""
    numbers = [value.data.reshape(-1).tolist() if isinstance(value, Constant) else [] for value in operands]
    if len(numbers) < 3 or numbers[2] not in ([-1], [3]) or len(numbers[0]) != 1 or numbers[3:] not in ([], [[1]]):
        return None
    return numbers[0][0]


def _repeats(angles: Value) -> bool:
    """Whether the second half along the last axis is known to be the first."""
    if isinstance(angles, Constant):
        first, second = np.split(angles.data, 2, axis=-1)
        return np.array_equal(first, second)
    node = angles.producer
    if node is None:
        return False
    if node.operator == "Concat":
        return node.attributes["axis"] in (-1, angles.type.rank - 1) and len({*node.inputs}) == 1 < len(node.inputs)
    return _is_featurewise(node) and _repeats_in(node)


def _is_featurewise(node: Node) -> bool:
    """Whether the result repeats where the first input does, as far as the last axis is the same."""
    if has_trait(node.operator, Trait.ELEMENTWISE):
        return all(isinstance(value, Constant) and value.data.size == 1 for value in node.inputs[1:])
    return node.operator in ("Expand", "Unsqueeze")


def _repeats_in(node: Node) -> bool:
    source = node.inputs[0]
    if source is None or not source.type.is_ranked or source.shape[-1:] != node.output.shape[-1:]:
        return False
    return _repeats(source)


def _rotated(op: Builder, match: Match) -> Value:
    x = match["x"]
    return op.RotaryEmbedding(x, *(_of_batch(op, x, match[name]) for name in ("cosines", "sines")))


def _of_batch(op: Builder, x: Value, angles: Value) -> Value:
    """The first half of the angles' cosines or sines as `[batch, sequence, size / 2]`."""
    width = x.shape[3]
    assert isinstance(width, int)
    half = op.Slice(angles, [0], [width // 2], [-1])
    if half.type.rank == 4:
        half = op.Squeeze(half, [1])
    elif half.type.rank == 2:
        half = op.Unsqueeze(half, [0])
    batch = x.shape[0]
    if half.shape[0] == batch:
        return half
    if isinstance(batch, int):
        return op.Expand(half, [batch, 1, 1])
    source = next((value for value in op.graph.inputs if batch in value.shape), x)
    axis = source.shape.index(batch)
    return op.Expand(half, op.Concat(op.Shape(source, start=axis, end=axis + 1), [1, 1], axis=0))


def _of_heads(op: Any, x: Any, shape: Any, cosines: Any, sines: Any) -> Any:
    heads = op.Transpose(op.Reshape(x, shape), perm=_HEADS_FIRST)
    return op.RotaryEmbedding(heads, cosines, sines, rotary_embedding_dim=0)


def _is_split(match: Match) -> str:
    x, heads = match["x"], match.node("Reshape").output
    is_split = x.type.rank == 3 and heads.type.rank == 4 and x.shape[:2] == heads.shape[:2]
    return "" if is_split and isinstance(heads.shape[2], int) else "the reshape does more than to take heads apart"


def _flat(op: Builder, match: Match) -> Value:
    count = match.node("Reshape").output.shape[2]
    attributes = {**match.root.attributes, "num_heads": count}
    turned = op.RotaryEmbedding(match["x"], match["cosines"], match["sines"], **attributes)
    return op.Transpose(op.Reshape(turned, match["shape"]), perm=_HEADS_FIRST)


@dataclass(frozen=True)
class RotaryFusion(RewritePass):
    """Write RotaryEmbedding for the halves of queries and keys that are turned by an angle of their place.

    RotaryEmbedding takes heads apart itself, so that the reshape and the transpose that did so come after it, where
    Attention takes them up.
    """

    name: ClassVar[str] = "fuse-rotary"
    effect: ClassVar[Effect] = Effect.ROUNDING
    rules: ClassVar = (
        RewriteRule("rotary", _turned, _rotated, _check),
        RewriteRule("rotary-heads", _of_heads, _flat, _is_split),
    )
