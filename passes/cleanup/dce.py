"""Dead code elimination."""

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
        returned = set(graph.outputs.values())
        nodes = constants = 0
        for node in graph.nodes_backwards:
            if not any(output.uses or output in returned for output in node.outputs):
                graph.erase(node)
                nodes += 1
        for constant in tuple(graph.constants.values()):
            if not constant.uses and constant not in returned:
                graph.erase_constant(constant)
                constants += 1
        return PassResult({"nodes": nodes, "constants": constants})
