"""Merging: what an adapter computes becomes part of its layer's weight."""

from dataclasses import dataclass
from typing import ClassVar

from ...ir.graph import Constant, Graph
from ..base import Effect, Pass, PassContext, PassResult
from .adapter import Adapter, replace_weight
from .dora import DoraAdapter, all_adapters


@dataclass(frozen=True)
class LoraMerging(Pass):
    """Fold adapters into the weights of their layers, so that they cost nothing more.

    What is left of their effect after the model is quantized is measured and told; an adapter that rounding has erased
    is an error.
    """

    name: ClassVar[str] = "merge-lora"
    effect: ClassVar[Effect] = Effect.ROUNDING
    needs: ClassVar[frozenset[str]] = frozenset({"float"})

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        misses: list[str] = []
        count = 0
        for adapter in all_adapters(graph):
            if not context.selects(adapter.layer):
                continue
            if fault := _fault(adapter):
                misses.append(f"{adapter.layer.location}: {fault}")
            elif context.applies("merge", adapter.layer):
                matrix = adapter.merged
                assert matrix is not None
                adapter.remove(graph)
                replace_weight(graph, adapter.layer, matrix)
                count += 1
        return PassResult({"adapters": count}, misses)


def _fault(adapter: Adapter | DoraAdapter) -> str:
    """Why an adapter can't be merged, or nothing."""
    if isinstance(adapter, Adapter) and not all(isinstance(weight, Constant) for weight in adapter.weights):
        return "its adapter's weights are inputs of the model"
    if adapter.merged is None:
        return "its weight is not a float constant: merge after cleanup, and before the model is quantized"
    if isinstance(adapter, Adapter) and adapter.layer.operand(0) is not adapter.narrow.operand(0):
        return "its adapter and the layer itself read different values"
    return ""
