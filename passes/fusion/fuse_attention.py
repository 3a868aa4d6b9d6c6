"""Recognising attention (Vaswani et al. 2017) in the arithmetic that exporters write for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose, prod
from typing import Any, ClassVar

import numpy as np

from ...ir.builder import Builder
from ...ir.dims import Dim
from ...ir.graph import Constant, Value
from ...ir.types import DType
from ..base import Effect
from ..rewrite import Match, RewritePass, RewriteRule

_SCALES = ("q_factor", "k_factor", "factor", "divisor")
_MASKS = ("bias", "seen", "closed", "mask")


def _spelled_out(
    op: Any,
    q: Any,
    k: Any,
    turned: Any,
    v: Any,
    q_factor: Any,
    k_factor: Any,
    factor: Any,
    divisor: Any,
    bias: Any,
    seen: Any,
    closed: Any,
    fill: Any,
    mask: Any,
) -> Any:
    """Softmax(Q K^T * scale + mask) V; the keys are transposed, or come so."""
    queries = op.either(op.Mul(q, op.constant(q_factor)), q)
    keys = op.either(op.Transpose(k, perm=op.attribute("order")), turned)
    scores = op.MatMul(queries, op.either(op.Mul(keys, op.constant(k_factor)), keys))
    scaled = op.either(op.Mul(scores, op.constant(factor)), op.Div(scores, op.constant(divisor)), scores)
    biased = op.either(op.Add(scaled, bias), scaled)
    lowest = op.constant(fill)
    chosen = op.either(op.Where(seen, biased, lowest), op.Where(closed, lowest, biased), biased)
    masked = op.either(op.Add(chosen, mask), chosen)
    widened = op.Softmax(op.Cast(masked, to=op.attribute("working")), axis=op.attribute("axis"))
    weights = op.either(op.Softmax(masked, axis=op.attribute("axis")), op.Cast(widened))
    guarded = op.either(
        op.Where(op.IsNaN(weights), 0.0, weights), op.Where(seen, weights, 0.0), op.Where(closed, 0.0, weights)
    )
    return op.MatMul(op.either(weights, guarded), v)


def _check(match: Match) -> str:
    q, k, v = match["q"], _turned(match), match["v"]
    rank = q.type.rank
    if rank not in (3, 4) or any(value.type.rank != rank for value in (k, v)):
        return "queries, keys and values aren't [batch, head, sequence, size], or without a batch or heads"
    if not q.dtype.is_float or q.shape[:-2] != k.shape[:-2] or q.shape[:-2] != v.shape[:-2]:
        return "queries, keys and values are no floats, or differ in batch or heads"
    if isinstance(q.shape[-1], str) or isinstance(v.shape[-1], str) or (rank == 4 and isinstance(q.shape[1], str)):
        return "the number of heads or their size isn't known"
    if match.attributes["axis"] not in (-1, rank - 1) or match.results[0].dtype is not q.dtype:
        return "the softmax isn't along the keys, or its type is another"
    if any(match.data(name).size != 1 for name in _SCALES if match.values[name] is not None) or _scale(match) <= 0:
        return "a scale is no positive number"
    return _mask_objection(match)


def _turned(match: Match) -> Value:
    """The keys as `[..., size, sequence]`."""
    return match["turned"] if match.values["k"] is None else match.node("Transpose").output


def _mask_objection(match: Match) -> str:
    """Why what is added to the scores, or chosen instead of them, is no mask that Attention takes."""
    scores = (*match["q"].shape[:-1], _turned(match).shape[-1])
    masks = [value for name in _MASKS if (value := match.values[name]) is not None]
    if not all(_is_mask(value.shape, scores) for value in masks):
        return "a mask has fewer than two axes, or isn't broadcast to the scores"
    chosen_by = match.values["seen"] or match.values["closed"]
    if match.values["fill"] is None:
        return "" if chosen_by is None else "the mask is applied to the weights after the softmax, not to the scores"
    fill = match.data("fill")
    if fill.size != 1 or float(fill.reshape(-1)[0]) > -DType.of(fill.dtype).largest:
        return "masked scores aren't the lowest number of their type or -inf"
    if np.isneginf(fill).all() and not _is_guarded(match) and not _opens_every_row(match):
        return "a row may be masked altogether, where the softmax gives NaN, but Attention gives zeros"
    return ""


def _is_mask(shape: Sequence[Dim], scores: Sequence[Dim]) -> bool:
    if not 2 <= len(shape) <= len(scores) or shape[-1] != scores[-1]:
        return False
    return all(size in (1, wanted) for size, wanted in zip(shape, scores[-len(shape) :], strict=True))


def _is_guarded(match: Match) -> bool:
    """Whether a Where puts zeros for weights that are NaN, or aren't seen."""
    weights = match.root.input(0)
    return weights is not None and weights.producer is not None and weights.producer.operator == "Where"


def _opens_every_row(match: Match) -> bool:
    seen, closed = match.values["seen"], match.values["closed"]
    if isinstance(seen, Constant):
        return bool(seen.data.any(-1).all())
    return isinstance(closed, Constant) and not closed.data.all(-1).any()


def _scale(match: Match) -> float:
    numbers = [float(match.data(name).reshape(-1)[0]) if match.values[name] is not None else 1.0 for name in _SCALES]
    return prod(numbers[:-1]) / numbers[-1]


def _attention(op: Builder, match: Match) -> Value:
    scale = _scale(match)
    usual = match["q"].shape[-1] ** -0.5  # pyright: ignore[reportOperatorIssue] -- the check wants it known
    q, k, v, mask = match["q"], _keys(op, match), match["v"], _mask(op, match)
    leading = q.shape[:-2]
    missing = [
        0 if isinstance(leading[0], int) else 1
    ]  # one axis is either the heads, whose number is known, or the batch
    if len(leading) == 1:
        q, k, v = (op.Unsqueeze(value, missing) for value in (q, k, v))
        mask = op.Unsqueeze(mask, missing) if mask is not None and mask.type.rank == 3 else mask
    attended = op.Attention(
        *(q, k, v, mask),
        scale=None if isclose(scale, usual, rel_tol=1e-6) else scale,
        softmax_precision=match.attributes["working"],
    )
    return op.Squeeze(attended, missing) if len(leading) == 1 else attended


def _keys(op: Builder, match: Match) -> Value:
    """The keys as `[..., sequence, size]`."""
    k, order = match.values["k"], match.attributes["order"]
    rank = match["q"].type.rank
    swapped = (*range(rank - 2), rank - 1, rank - 2)
    if k is None:
        return op.Transpose(match["turned"], perm=swapped)
    assert isinstance(order, tuple)
    order = tuple(order[axis] for axis in swapped)
    return k if order == tuple(range(rank)) else op.Transpose(k, perm=order)


def _mask(op: Builder, match: Match) -> Value | None:
    """One mask for all that is added to the scores; where nothing is, a mask of what is seen."""
    bias, seen, closed, mask = (match.values[name] for name in _MASKS)
    if closed is not None:
        seen = op.Not(closed)
    if seen is None:
        return bias if mask is None else mask if bias is None else op.Add(bias, mask)
    fill = match.data("fill").reshape(())
    if bias is None and mask is None and np.isneginf(fill):
        return seen
    chosen = op.Where(seen, np.zeros_like(fill) if bias is None else bias, fill)
    return chosen if mask is None else op.Add(chosen, mask)


def again(op: Builder, match: Match, *inputs: Value | None, **attributes: Dim) -> Value:
    """The match's Attention with other inputs, and some other attributes."""
    return op.Attention(*inputs, **{**match.node("Attention").attributes, **attributes})


def _masked(op: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
    return op.Attention(q, k, v, op.constant(mask), is_causal=0)


def _forbidden(match: Match) -> np.ndarray | None:
    """Which keys a query may not look at, if that is all that the mask says."""
    mask = match.data("mask")
    if mask.dtype == bool:
        return ~mask
    lowest = mask <= -DType.of(mask.dtype).largest
    return lowest if np.all(lowest | (mask == 0)) else None


def _is_open(match: Match) -> str:
    forbidden = _forbidden(match)
    return "" if forbidden is not None and not forbidden.any() else "the mask forbids something"


def _is_causal(match: Match) -> str:
    forbidden = _forbidden(match)
    if forbidden is None or forbidden.shape[-2] != forbidden.shape[-1]:
        return "the mask isn't square, or holds numbers other than 0 and the lowest"
    causal = ~np.tri(forbidden.shape[-1], dtype=bool)
    return "" if np.array_equal(forbidden, np.broadcast_to(causal, forbidden.shape)) else "the mask isn't causal"


def _repeated(op: Any, x: Any, axes: Any, sizes: Any, shape: Any, indices: Any) -> Any:
    """Heads of keys or values, each repeated for all queries that share it."""
    stacked = op.Reshape(op.Expand(op.Unsqueeze(x, axes), sizes), shape)
    return op.either(stacked, op.Gather(x, op.constant(indices), axis=-3))


def _grouped(
    op: Any, q: Any, k: Any, v: Any, mask: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any
) -> Any:
    return op.Attention(q, _repeated(op, k, a, b, c, d), _repeated(op, v, e, f, g, h), mask)


def _is_grouped(match: Match) -> str:
    pairs = zip((match["k"], match["v"]), match.root.inputs[1:3], strict=True)
    is_grouped = all(many is not None and _repeats(one, many) for one, many in pairs)
    return "" if is_grouped else "keys or values aren't repeated head by head, as in grouped-query attention"


def _repeats(one: Value, many: Value) -> bool:
    node = many.producer
    if node is None or one.type.rank != 4 or many.type.rank != 4:
        return False
    (batch, heads, *rest), wanted = one.shape, many.shape[1]
    if isinstance(heads, str) or isinstance(wanted, str) or many.shape != (batch, wanted, *rest):
        return False
    times = wanted // heads
    if node.operator == "Gather":
        places = node.constant(1)  # the pattern wants a constant
        return np.array_equal(places, np.repeat(np.arange(heads), times))  # pyright: ignore[reportArgumentType]
    stack = node.inputs[0]
    single = stack.producer.inputs[0] if stack is not None and stack.producer is not None else None
    stacked = (batch, heads, times, *rest)
    return (
        stack is not None and single is not None and stack.shape == stacked and single.shape == (batch, heads, 1, *rest)
    )


@dataclass(frozen=True)
class AttentionFusion(RewritePass):
    """Write Attention for the products, the softmax and the masks that it is made of, in all of their usual forms.

    Masks that replace scores become masks of Attention. Masks that forbid nothing go, and so do causal ones, which an
    attribute stands for. Heads of keys and values that are repeated for groups of queries are no longer repeated.
    Guards against the NaN of a row that is masked altogether go, too, since Attention gives zeros for such a row. Where
    there was no guard, masks that are added are taken to leave something open in each row.
    """

    name: ClassVar[str] = "fuse-attention"
    effect: ClassVar[Effect] = Effect.ROUNDING
    rules: ClassVar = (
        RewriteRule("attention", _spelled_out, _attention, _check),
        RewriteRule("open-mask", _masked, lambda op, q, k, v, match: again(op, match, q, k, v), _is_open),
        RewriteRule(
            "causal-mask", _masked, lambda op, q, k, v, match: again(op, match, q, k, v, is_causal=1), _is_causal
        ),
        RewriteRule(
            "grouped-heads",
            _grouped,
            lambda op, q, k, v, mask, match: again(op, match, q, k, v, mask),
            _is_grouped,
        ),
    )
