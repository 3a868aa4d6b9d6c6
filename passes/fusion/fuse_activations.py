"""Recognising activations that exporters spell out."""

from dataclasses import dataclass
from typing import ClassVar

from ..base import Effect
from ..rewrite import Match, RewritePass, RewriteRule

_SIXTH = 1 / 6


def _is_float(match: Match) -> str:
    return "" if match["x"].dtype.is_float else "it is arithmetic of integers"


def _is_standard(match: Match) -> str:
    is_standard = abs(match.attributes["alpha"] - _SIXTH) < 1e-6 and match.attributes["beta"] == 0.5
    return "" if is_standard else "its hard sigmoid has another slope"


@dataclass(frozen=True)
class ActivationFusion(RewritePass):
    """Write HardSigmoid, HardSwish, Swish and Mish for the arithmetic that they are made of.

    The fusion of an activation with the Conv or Gemm before it is left to the lowering: both runtimes do it by
    themselves, and a fused operator would stand in the way of quantization.
    """

    name: ClassVar[str] = "fuse-activations"
    effect: ClassVar[Effect] = Effect.ROUNDING
    rules: ClassVar = (
        RewriteRule(
            "hard-sigmoid",
            pattern=lambda op, x: op.Div(op.Clip(op.Add(x, 3.0), 0.0, 6.0), 6.0),
            replacement=lambda op, x: op.HardSigmoid(x, alpha=_SIXTH, beta=0.5),
            check=_is_float,
        ),
        RewriteRule(
            "hard-sigmoid",
            pattern=lambda op, x: op.Mul(op.Clip(op.Add(x, 3.0), 0.0, 6.0), _SIXTH),
            replacement=lambda op, x: op.HardSigmoid(x, alpha=_SIXTH, beta=0.5),
            check=_is_float,
        ),
        RewriteRule(
            "hard-swish",
            pattern=lambda op, x: op.Div(op.Mul(x, op.Clip(op.Add(x, 3.0), 0.0, 6.0)), 6.0),
            replacement=lambda op, x: op.HardSwish(x),
            check=_is_float,
        ),
        RewriteRule(
            "hard-swish",
            pattern=lambda op, x: op.Mul(op.Mul(x, op.Clip(op.Add(x, 3.0), 0.0, 6.0)), _SIXTH),
            replacement=lambda op, x: op.HardSwish(x),
            check=_is_float,
        ),
        RewriteRule(
            "hard-swish",
            pattern=lambda op, x: op.Mul(x, op.HardSigmoid(x, alpha=op.attribute("alpha"), beta=op.attribute("beta"))),
            replacement=lambda op, x: op.HardSwish(x),
            check=_is_standard,
        ),
        RewriteRule(
            "swish",
            pattern=lambda op, x: op.Mul(x, op.Sigmoid(x)),
            replacement=lambda op, x: op.Swish(x),
        ),
        RewriteRule(
            "mish",
            pattern=lambda op, x: op.Mul(x, op.Tanh(op.Softplus(x))),
            replacement=lambda op, x: op.Mish(x),
        ),
    )
