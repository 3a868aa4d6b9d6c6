"""Sequences of which every element is known by its place are tensors again."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.builder import Builder
from ...ir.containers import part_sizes
from ...ir.graph import Graph, Node
from ..base import Effect, GraphwisePass, PassContext, PassResult


@dataclass(frozen=True)
class SequenceSplitting(GraphwisePass):
    """Write Split for a SplitToSequence whose parts are taken one by one at constant places.

    torch's exporter writes the latter wherever a model calls `split` or `chunk`, and no runtime fuses across it.
    """

    name: ClassVar[str] = "split-sequences"
    effect: ClassVar[Effect] = Effect.EXACT

    def run_on(self, graph: Graph, context: PassContext) -> PassResult:
        count = 0
        for node in graph.nodes:
            takers = _takers(graph, node) if node.operator == "SplitToSequence" else None
            if takers and context.applies("split", node, *takers):
                _split(graph, node, takers)
                count += 1
        return PassResult({"split": count})


def _takers(graph: Graph, node: Node) -> dict[Node, int] | None:
    """The nodes that take a part of a sequence, each with its place; None if something else is done with it."""
    sizes = part_sizes(node)
    if sizes is None or graph.is_output(node.output):
        return None
    places: dict[Node, int] = {}
    for taker, _ in node.output.uses:
        position = taker.constant(1)
        if taker.operator != "SequenceAt" or taker.owner is not graph or position is None:
            return None
        place = int(position.reshape(-1)[0])
        if not -len(sizes) <= place < len(sizes):
            return None
        places[taker] = place % len(sizes)
    return places


def _split(graph: Graph, node: Node, takers: dict[Node, int]) -> None:
    sizes = part_sizes(node)
    assert sizes is not None  # _takers
    op = Builder(graph, before=node, location=node.location)
    axis = node.attributes.get("axis", 0)
    parts = op("Split", node.inputs[0], np.array(sizes, np.int64), outputs=len(sizes), axis=axis)
    for taker, place in takers.items():
        graph.replace_uses(taker.output, parts[place] if len(sizes) > 1 else parts)
        graph.erase(taker)
    graph.erase(node)
