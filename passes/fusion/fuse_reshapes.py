"""Reshapes that are only there because Gemm takes matrices, and nothing else."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from ...ir.builder import Builder
from ...ir.graph import Value
from ..base import Effect
from ..rewrite import Match, RewritePass, RewriteRule


def _check(match: Match) -> str:
    x, weight, bias, result = match["x"], match.constant("w"), match.values["c"], match.results[0]
    if weight is None or match.attributes["transA"] or match.attributes["alpha"] != 1 or match.attributes["beta"] != 1:
        return "it is more than the product with a constant matrix, and a bias"
    if bias is not None and bias.type.rank > 1:
        return "its bias is not one of columns"
    inner, columns = weight.shape[::-1] if match.attributes["transB"] else weight.shape
    leading, merged = result.shape[:-1], x.shape[result.type.rank - 1 :]
    width = (
        prod(size for size in merged if isinstance(size, int)) if all(isinstance(size, int) for size in merged) else 0
    )
    if len(leading) < 2 or (*x.shape[: len(leading)], width) != (*leading, inner) or result.shape[-1] != columns:
        return "the reshapes do more than to merge the leading axes and to take them apart again"
    return ""


def _rows(op: Builder, x: Value, result: Value) -> Value:
    """The operand of the product, with the leading axes of the result and one more."""
    if x.type.rank == result.type.rank:
        return x
    return op.Reshape(x, [*[0] * (result.type.rank - 1), -1])


def _matmul(op: Builder, match: Match) -> Value:
    weight, bias = match["w"], match.values["c"]
    if match.attributes["transB"]:
        weight = op.constant(match.data("w").T, weight.name)
    product = op.MatMul(_rows(op, match["x"], match.results[0]), weight)
    return product if bias is None else op.Add(product, bias)


@dataclass(frozen=True)
class ReshapeFusion(RewritePass):
    """Write MatMul and Add for a Gemm between reshapes that merge the leading axes and take them apart again.

    That is how torch computes the linear layers of its own GPT-2 and others, and exports them. The product's rows are
    the same, and one node is left for three.
    """

    name: ClassVar[str] = "fuse-reshapes"
    effect: ClassVar[Effect] = Effect.ROUNDING
    rules: ClassVar = (
        RewriteRule(
            "gemm-between-reshapes",
            pattern=lambda op, x, flat, w, c, shape: op.Reshape(
                op.Gemm(
                    op.Reshape(x, flat),
                    w,
                    c,
                    transA=op.attribute("transA"),
                    transB=op.attribute("transB"),
                    alpha=op.attribute("alpha"),
                    beta=op.attribute("beta"),
                ),
                shape,
            ),
            replacement=_matmul,
            check=_check,
        ),
    )
