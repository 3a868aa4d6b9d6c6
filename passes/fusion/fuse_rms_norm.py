"""Recognising RMS normalisation (Zhang and Sennrich 2019) in the arithmetic that exporters write for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Value
from ..base import Effect
from ..rewrite import Match, RewritePass, RewriteRule

_QUOTIENTS: tuple[Callable[..., Any], ...] = (
    lambda op, x, mean: op.Div(x, op.Sqrt(mean)),
    lambda op, x, mean: op.Mul(
        x, op.either(op.Reciprocal(op.Sqrt(mean)), op.Div(1.0, op.Sqrt(mean)), op.Pow(mean, -0.5))
    ),
)


def _normalised(quotient: Callable[..., Any]) -> Callable[..., Any]:
    def pattern(op: Any, x: Any, axes: Any, eps: Any) -> Any:
        square = op.either(op.Mul(x, x), op.Pow(x, 2.0))
        return quotient(op, x, op.Add(op.ReduceMean(square, axes), eps))

    return pattern


def _check(match: Match) -> str:
    axes, eps = match.constant("axes"), match.constant("eps")
    shape = match["x"].shape
    if axes is None or axes.reshape(-1).tolist() not in ([-1], [len(shape) - 1]):
        return "it doesn't normalise the last axis"
    if any(node.attributes.get("keepdims", 1) != 1 for node in match.nodes if node.operator == "ReduceMean"):
        return "the mean drops its axis"
    if eps is None or eps.size != 1 or eps.ndim > len(shape):
        return "epsilon is not a constant"
    if not isinstance(shape[-1], int):
        return "the size of the last axis isn't known"
    return ""


def _rms_norm(op: Builder, match: Match) -> Value:
    x, epsilon = match["x"], float(match.data("eps").reshape(-1)[0])
    width = x.shape[-1]
    assert isinstance(width, int)
    return op.RMSNormalization(x, np.ones(width, x.dtype.numpy), axis=-1, epsilon=epsilon)


def _is_unscaled(match: Match) -> str:
    ones, scale = match.constant("ones"), match.constant("scale")
    if ones is None or not np.all(ones == 1):
        return "it has a scale already"
    if scale is None or scale.shape != ones.shape:
        return "the scale is no constant of the last axis"
    return ""


def _kept(op: Any) -> dict[str, Any]:
    return {name: op.attribute(name) for name in ("axis", "epsilon", "stash_type")}


@dataclass(frozen=True)
class RmsNormFusion(RewritePass):
    """Write RMSNormalization for square, mean, root, quotient and scale along the last axis."""

    name: ClassVar[str] = "fuse-rms-norm"
    effect: ClassVar[Effect] = Effect.ROUNDING
    rules: ClassVar = (
        *(RewriteRule("rms-norm", _normalised(quotient), _rms_norm, _check) for quotient in _QUOTIENTS),
        RewriteRule(
            "scale",
            lambda op, x, ones, scale: op.Mul(op.RMSNormalization(x, ones, **_kept(op)), scale),
            lambda op, x, scale, match: op.RMSNormalization(x, scale, **match.attributes),
            _is_unscaled,
        ),
    )
