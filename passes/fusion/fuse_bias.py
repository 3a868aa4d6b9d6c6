"""Folding constant scales and biases of channels into the linear operator before them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Value
from ..base import Effect
from ..rewrite import Match, RewritePass, RewriteRule
from .channel_constant import per_channel


def _check_conv(match: Match) -> str:
    if match.values["b"] is not None and match.constant("b") is None:
        return "its bias is not constant"
    return "" if per_channel(match, "w") is not None else "the other operand is not a constant of channels"


def _conv(op: Builder, match: Match) -> Value:
    """The convolution with the scale or bias `c` in its weights."""
    node, weight, bias, change = match.nodes[-1], match.data("w"), match.constant("b"), per_channel(match, "w")
    assert change is not None  # _check_conv
    bias = np.zeros(weight.shape[0], weight.dtype) if bias is None else bias
    if match.root.operator == "Add":
        bias = bias + change
    else:
        weight = weight * change.reshape(-1, *(1,) * (weight.ndim - 1))
        bias = bias * change
    held = match["w"] if match.root.operator == "Add" else op.constant(weight, match["w"].name)
    return op.Conv(match["x"], held, op.constant(bias, match["c"].name), **node.attributes)


def _check_gemm(match: Match) -> str:
    bias, weight = match.constant("c"), match.constant("w")
    if weight is None or match["x"].type.rank != 2 or weight.ndim != 2 or not match["x"].dtype.is_float:
        return "it is not the product of a float matrix with a constant one"
    if bias is None or bias.ndim > 1 or bias.size not in (1, weight.shape[1]):
        return "the other operand is not a constant of columns"
    return ""


@dataclass(frozen=True)
class BiasFusion(RewritePass):
    """Fold a constant bias or scale of channels into the Conv before it; a 2-D MatMul and its bias become Gemm."""

    name: ClassVar[str] = "fuse-bias"
    effect: ClassVar[Effect] = Effect.ROUNDING
    rules: ClassVar = (
        RewriteRule("bias-into-conv", lambda op, x, w, b, c: op.Add(op.Conv(x, w, b), c), _conv, _check_conv),
        RewriteRule("scale-into-conv", lambda op, x, w, b, c: op.Mul(op.Conv(x, w, b), c), _conv, _check_conv),
        RewriteRule(
            "matmul-to-gemm",
            pattern=lambda op, x, w, c: op.Add(op.MatMul(x, w), c),
            replacement=lambda op, x, w, c: op.Gemm(x, w, c),
            check=_check_gemm,
        ),
    )
