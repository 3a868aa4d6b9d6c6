"""Weights that are so small that a processor takes a hundred times as long over them become zeros."""

from dataclasses import dataclass
from typing import ClassVar

from ...ir.graph import Constant, Graph, Use
from ...ir.numerics import FLUSHED, flushed, is_subnormal
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ..base import Effect, GraphwisePass, PassContext, PassResult

_BLOCK = 1 << 18
"""The weights that are looked at together, so that large ones need no second copy in memory."""


@dataclass(frozen=True)
class SubnormalFlushing(GraphwisePass):
    """Replace weights that are subnormal numbers, which in float32 are below 1.2e-38, with zeros.

    Weight decay leaves such weights in channels that nothing needs. Processors compute with them in microcode, which
    takes a hundred times as long as other numbers take. Only what layers multiply by, their biases, and tables whose
    rows are looked up are changed. A weight of which nothing else would be left stays as it is.
    """

    name: ClassVar[str] = "flush-subnormals"
    effect: ClassVar[Effect] = Effect.ROUNDING

    def run_on(self, graph: Graph, context: PassContext) -> PassResult:
        counts = {"weight": 0}
        for weight in tuple(graph.constants.values()):
            if _is_slow(graph, weight) and context.applies("weight", weight.uses[0].node):
                new = graph.add_constant(flushed(weight.data, weight.data.dtype), weight.name)
                graph.replace_uses(weight, new)
                graph.erase_constant(weight)
                graph.rename(new, weight.name)
                counts["weight"] += 1
        return PassResult(counts)


def _is_slow(graph: Graph, constant: Constant) -> bool:
    """Whether a constant is a weight with subnormal numbers among others."""
    if constant.data.dtype not in FLUSHED or graph.is_output(constant) or not constant.use_count:
        return False
    if not all(map(_is_weight, constant.uses)):
        return False
    flat = constant.data.reshape(-1)
    blocks = (flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK))
    return any(is_subnormal(block).any() for block in blocks) and bool(flushed(flat, flat.dtype).any())


def _is_weight(use: Use) -> bool:
    is_table = use.node.operator == "Gather" and use.index == 0
    return is_table or has_trait(use.node.operator, Trait.CONTRACTING | Trait.RECURRENT)
