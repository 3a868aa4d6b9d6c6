"""Scales of the two operands of a product, as attention has them, made into one."""

from dataclasses import dataclass
from typing import ClassVar

from ...ir.builder import Builder
from ...ir.graph import Value
from ..base import Effect
from ..rewrite import Match, RewritePass, RewriteRule


def _check(match: Match) -> str:
    scales = [match.data(name) for name in ("s", "t")]
    if any(scale.size != 1 for scale in scales):
        return "a scale is more than a number"
    if any(match[name].type.rank < scale.ndim for name, scale in zip(("a", "b"), scales, strict=True)):
        return "a scale adds an axis"
    return "" if match["a"].dtype.is_float else "it is arithmetic of integers"


def _scaled_once(op: Builder, match: Match) -> Value:
    scale = match.data("s").reshape(()) * match.data("t").reshape(())
    return op.MatMul(op.Mul(match["a"], op.constant(scale, match["s"].name)), match["b"])


@dataclass(frozen=True)
class ScaleFusion(RewritePass):
    """Scale one operand of a MatMul where both were.

    torch's attention multiplies queries and keys each by the root of the scale.
    """

    name: ClassVar[str] = "fuse-scales"
    effect: ClassVar[Effect] = Effect.ROUNDING
    rules: ClassVar = (
        RewriteRule(
            "scale-once",
            pattern=lambda op, a, b, s, t: op.MatMul(op.Mul(a, op.constant(s)), op.Mul(b, op.constant(t))),
            replacement=_scaled_once,
            check=_check,
        ),
    )
