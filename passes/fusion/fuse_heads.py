"""The transposes that take heads apart, and put them together again, become Attention's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...ir.builder import Builder
from ...ir.dims import Dim
from ...ir.graph import Value
from ..base import Effect
from ..rewrite import Match, RewritePass, RewriteRule
from .fuse_attention import again

_BATCH_FIRST = ((0, 2, 1, 3), (0, 2, 1, 3))
"""How `[batch, sequence, head, size]` becomes `[batch, head, sequence, size]`, and back."""
_SEQUENCE_FIRST = ((1, 2, 0, 3), (2, 0, 1, 3))
"""How `[sequence, batch, head, size]` becomes `[batch, head, sequence, size]` and back, in MultiheadAttention."""


def _between_heads(op: Any, q: Any, k: Any, v: Any, mask: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    shapes = ((q, a), (k, b), (v, c))
    taken_apart = (op.Transpose(op.Reshape(x, shape), perm=op.attribute("order")) for x, shape in shapes)
    return op.Reshape(op.Transpose(op.Attention(*taken_apart, mask), perm=op.attribute("back")), d)


def _is_between_heads(match: Match) -> str:
    orders, node, mask = _orders(match), match.node("Attention"), match.values["mask"]
    if orders not in (_BATCH_FIRST, _SEQUENCE_FIRST):
        return "the transposes do more than to bring heads before the sequence, and back"
    batch = node.output.shape[0]
    is_masked_alike = batch == 1 or mask is None or set(mask.shape[:-2]) <= {1}
    if orders == _SEQUENCE_FIRST and (isinstance(batch, str) or not is_masked_alike):
        return "the batch's size isn't known, or it has masks of its own"
    heads = [value for value in (*node.inputs[:3], node.output) if value is not None]
    if any(isinstance(size, str) for value in heads for size in value.shape[1::2]):
        return "the number of heads or their size isn't known"
    *taken, given = (_flat(match, value) for value in heads)
    reshapes = [(match[name].shape, flat) for name, flat in zip("qkv", taken, strict=True)]
    if all(before == after or _sizes(after) for before, after in (*reshapes, (given, match.results[0].shape))):
        return ""
    return "it is reshaped across several sizes that aren't known"


def _orders(match: Match) -> tuple[Any, Any]:
    return match.attributes["order"], match.attributes["back"]


def _counted(match: Match, heads: Value) -> tuple[Dim, int, Dim, int]:
    """Batch, heads, length and size; where the sequence is first, the heads of the whole batch lie side by side."""
    batch, count, length, size = heads.shape
    assert isinstance(count, int) and isinstance(size, int)  # the check wants all three known
    if _orders(match) == _BATCH_FIRST:
        return batch, count, length, size
    assert isinstance(batch, int)
    return 1, batch * count, length, size


def _flat(match: Match, heads: Value) -> tuple[Dim, ...]:
    """The shape in which Attention takes heads that it takes apart itself: `[batch, length, heads * size]`."""
    batch, count, length, size = _counted(match, heads)
    return batch, length, count * size


def _sizes(shape: Sequence[Dim]) -> list[int] | None:
    """A shape as Reshape takes it; None if more than one size isn't known, or one is 0."""
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    return None if sizes.count(-1) > 1 or 0 in sizes else sizes


def _reshaped(op: Builder, value: Value, shape: Sequence[Dim]) -> Value:
    return value if value.shape == tuple(shape) else op.Reshape(value, _sizes(shape))


def _whole(op: Builder, match: Match) -> Value:
    q, k, v = (value for value in match.node("Attention").inputs[:3] if value is not None)
    flat = [_reshaped(op, match[name], _flat(match, heads)) for name, heads in (("q", q), ("k", k), ("v", v))]
    counts = {"q_num_heads": _counted(match, q)[1], "kv_num_heads": _counted(match, k)[1]}
    return _reshaped(op, again(op, match, *flat, match.values["mask"], **counts), match.results[0].shape)


def _of_packed(op: Any, x: Any, shape: Any, mask: Any, hidden: Any) -> Any:
    """Queries, keys and values from one product, told apart by an axis of three before their heads."""
    packed = op.Transpose(op.Reshape(x, shape), perm=(2, 0, 3, 1, 4))
    attended = op.Attention(*(op.Gather(packed, index, axis=0) for index in range(3)), mask)
    return op.Reshape(op.Transpose(attended, perm=_BATCH_FIRST[1]), hidden)


def _is_packed(match: Match) -> str:
    x, result, (batch, _, length, _) = match["x"], match.results[0], match.node("Attention").output.shape
    if x.shape[:-1] == result.shape[:-1] == (batch, length):
        return ""
    return "the reshapes do more than to take heads apart and together"


def _split(op: Builder, match: Match) -> Value:
    heads = match.node("Attention").output.shape[1]
    parts = op.Split(match["x"], axis=-1, num_outputs=3, outputs=3)
    return again(op, match, *parts, match.values["mask"], q_num_heads=heads, kv_num_heads=heads)


def _of_packed_rows(op: Any, x: Any, shape: Any, mask: Any, a: Any, b: Any, c: Any) -> Any:
    """Attention to rows packed as they are where the sequence comes first and the heads are no axis any more."""
    packed = op.Reshape(x, shape)
    parts = (op.Reshape(op.Gather(packed, index, axis=2), flat) for index, flat in enumerate((a, b, c)))
    return op.Attention(*parts, mask)


def _are_packed_rows(match: Match) -> str:
    x, gather = match["x"], match.node("Gather")
    packed, hidden = gather.inputs[0], gather.output.shape[-1]
    if packed is not None and packed.shape[2:] == (3, hidden) and x.type.rank == 3 and x.shape[-1] == 3 * hidden:
        return ""
    return "the reshapes do more than to tell queries, keys and values apart"


def _split_rows(op: Builder, match: Match) -> Value:
    flat = [value.shape for value in match.node("Attention").inputs[:3] if value is not None]
    x, (batch, length, hidden) = match["x"], flat[0]
    if x.shape[-1] == 3 * hidden:  # the rows of a single sequence
        x = _reshaped(op, x, (batch, length, 3 * hidden))
    parts = op.Split(x, axis=-1, num_outputs=3, outputs=3)
    parts = [_reshaped(op, part, shape) for part, shape in zip(parts, flat, strict=True)]
    return again(op, match, *parts, match.values["mask"])


@dataclass(frozen=True)
class HeadFusion(RewritePass):
    """Give Attention queries, keys and values as products compute them, and let it take their heads apart.

    The sequence may also come before the batch, as in torch's MultiheadAttention: the heads of a whole batch are then
    those of one sequence. Queries, keys and values that one product computes are split, not gathered.
    """

    name: ClassVar[str] = "fuse-heads"
    effect: ClassVar[Effect] = Effect.ROUNDING
    rules: ClassVar = (
        RewriteRule("heads", _between_heads, _whole, _is_between_heads),
        RewriteRule("packed-heads", _of_packed, _split, _is_packed),
        RewriteRule("packed-rows", _of_packed_rows, _split_rows, _are_packed_rows),
    )
