"""Dead code elimination."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from ...ir.graph import Graph
from ..base import Effect, Pass, PassContext, PassResult


@dataclass(frozen=True)
class DeadCodeElimination(Pass):
    """Remove nodes whose results nobody reads, and then constants that nobody reads."""

    name: ClassVar[str] = "dce"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        counts: Counter[str] = Counter(nodes=0, constants=0)
        _sweep(graph, counts, context)
        return PassResult(counts)


def _sweep(graph: Graph, counts: Counter[str], context: PassContext) -> None:
    """Remove from the last node to the first, and what is inside a node before what that reads around it."""
    returned = set(graph.outputs.values())
    for node in graph.nodes_backwards:
        is_dead = not any(output.use_count or output in returned for output in node.outputs)
        if is_dead and context.applies("nodes", node):
            graph.erase(node)
            counts["nodes"] += 1
            continue
        for inner in node.graphs:
            _sweep(inner, counts, context)
    for constant in tuple(graph.constants.values()):
        if not constant.use_count and constant not in returned:
            graph.erase_constant(constant)
            counts["constants"] += 1
