"""What layers read over calibration data."""

from collections.abc import Sequence

from ...ir.graph import Graph, Node
from ..base import Feeds, PassContext
from ..moments import Inputs, observe
from .matrix import channel_axis


def observe_inputs(
    graph: Graph, nodes: Sequence[Node], batches: Sequence[Feeds], context: PassContext
) -> dict[Node, Inputs]:
    """Observe what each layer reads; nothing of those that read no rows, or numbers that are not finite.

    Args:
        graph: that is run.
        nodes: layers of it.
        batches: of inputs.
        context: to whom progress is reported.
    """
    reads = {node: (node.operand(0), channel_axis(node)) for node in nodes}
    found = observe(graph, reads.values(), batches, context)
    return {node: found[read] for node, read in reads.items() if read in found}
