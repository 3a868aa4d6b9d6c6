"""Folding batch normalisation, at inference an affine function of each channel, into the weights before it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Value
from ..base import Effect
from ..rewrite import Match, RewritePass, RewriteRule


def _check(match: Match) -> str:
    if any(match.constant(name) is None for name in ("w", "scale", "shift", "mean", "variance")):
        return "its weights are not constant"
    if match.values["b"] is not None and match.constant("b") is None:
        return "its bias is not constant"
    if match.attributes["training_mode"]:
        return "it is in training mode"
    if match.nodes[-1].operator == "ConvTranspose" and match.nodes[-1].attributes.get("group", 1) != 1:
        return "a transposed convolution has groups"
    if match.nodes[-1].operator == "Gemm" and match.nodes[-1].attributes.get("beta", 1.0) != 1.0:
        return "its bias is scaled"
    return ""


def _folded(op: Builder, match: Match) -> Value:
    """The same operator with the normalisation in its weight and bias."""
    node = match.nodes[-1]
    weight, bias = match.data("w"), match.constant("b")
    scale, shift, mean, variance = (match.data(name) for name in ("scale", "shift", "mean", "variance"))
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + match.attributes["epsilon"])
    offset = shift + ((0.0 if bias is None else bias.astype(np.float64)) - mean) * factor
    channel = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if node.attributes.get("transB") else 1}[node.operator]
    shape = [-1 if axis == channel else 1 for axis in range(weight.ndim)]
    folded = (weight * factor.reshape(shape)).astype(weight.dtype)
    return op(
        node.operator,
        match["x"],
        op.constant(folded, match["w"].name),
        op.constant(offset.astype(weight.dtype), match["shift"].name),
        **node.attributes,
    )


def _rule(operator: str) -> RewriteRule:
    return RewriteRule(
        f"fold-into-{operator.lower()}",
        pattern=lambda op, x, w, b, scale, shift, mean, variance: op.BatchNormalization(
            op(operator, x, w, b),
            scale,
            shift,
            mean,
            variance,
            epsilon=op.attribute("epsilon"),
            training_mode=op.attribute("training_mode"),
        ),
        replacement=_folded,
        check=_check,
    )


@dataclass(frozen=True)
class BatchNormFusion(RewritePass):
    """Fold BatchNormalization into the Conv, ConvTranspose or Gemm before it (Jacob et al. 2018, section 3.2)."""

    name: ClassVar[str] = "fuse-batch-norm"
    effect: ClassVar[Effect] = Effect.ROUNDING
    rules: ClassVar = (_rule("Conv"), _rule("ConvTranspose"), _rule("Gemm"))
