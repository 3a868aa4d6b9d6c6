"""Recognising layer normalisation (Ba et al. 2016) in the arithmetic that exporters write for it."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...ir.builder import Builder
from ...ir.graph import Value
from ..base import Effect
from ..rewrite import Match, RewritePass, RewriteRule


def _normalised(op: Any, x: Any, axes: Any, eps: Any, scale: Any, bias: Any) -> Any:
    deviation = op.Sub(x, op.ReduceMean(x, axes))
    square = op.either(op.Pow(deviation, 2.0), op.Mul(deviation, deviation))
    spread = op.Sqrt(op.Add(op.ReduceMean(square, axes), eps))
    return op.Add(op.Mul(op.Div(deviation, spread), scale), bias)


def _check(match: Match) -> str:
    axes, eps = match.constant("axes"), match.constant("eps")
    rank, width = match["x"].type.rank, match["x"].shape[-1]
    if axes is None or axes.reshape(-1).tolist() not in ([-1], [rank - 1]):
        return "it doesn't normalise the last axis"
    if any(node.attributes.get("keepdims", 1) != 1 for node in match.nodes if node.operator == "ReduceMean"):
        return "a mean drops its axis"
    if eps is None or eps.size != 1 or eps.ndim > rank:
        return "epsilon is not a constant"
    if any(data is None or data.shape != (width,) for data in map(match.constant, ("scale", "bias"))):
        return "scale or bias are not constants of the last axis"
    return ""


def _layer_norm(op: Builder, match: Match) -> Value:
    epsilon = float(match.data("eps").reshape(-1)[0])
    return op.LayerNormalization(match["x"], match["scale"], match["bias"], axis=-1, epsilon=epsilon)


@dataclass(frozen=True)
class LayerNormFusion(RewritePass):
    """Write LayerNormalization for mean, deviation, variance, quotient, scale and bias along the last axis."""

    name: ClassVar[str] = "fuse-layer-norm"
    effect: ClassVar[Effect] = Effect.ROUNDING
    rules: ClassVar = (RewriteRule("layer-norm", _normalised, _layer_norm, _check),)
