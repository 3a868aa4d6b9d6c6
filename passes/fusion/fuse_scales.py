"""Two scales in a row, or those of the two operands of a product, as attention has them, made into one."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

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


def _check_row(match: Match) -> str:
    first, second = match.data("c"), match.data("d")
    if not match["x"].dtype.is_float:
        return "it is arithmetic of integers"
    if np.broadcast_shapes(first.shape, second.shape) not in (first.shape, second.shape):
        return "the scales together are larger than each"
    with np.errstate(over="ignore", under="ignore"):
        made = first * second
    if not np.all(np.isfinite(made)) or np.any((np.abs(made) < _smallest(made)) & (first != 0) & (second != 0)):
        return "the scales together are beyond what their element type can hold"
    return ""


def _smallest(array: np.ndarray) -> float:
    """The smallest positive normal number of an array's type."""
    from ml_dtypes import finfo  # numpy's own lacks bfloat16

    return float(finfo(array.dtype).tiny)


@dataclass(frozen=True)
class ScaleFusion(RewritePass):
    """Scale once by two numbers in a row, and one operand of a MatMul where both were scaled.

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
        RewriteRule(
            "scales-in-a-row",
            pattern=lambda op, x, c, d: op.Mul(op.Mul(x, op.constant(c)), op.constant(d)),
            replacement=lambda op, x, match: op.Mul(x, op.constant(match.data("c") * match.data("d"), match["c"].name)),
            check=_check_row,
        ),
    )
