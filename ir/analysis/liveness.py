"""When values are needed for the last time, and so how much memory activations take."""

from collections.abc import Mapping

from ..graph import Constant, Graph, Node, Value
from .cost import nbytes


def last_uses(graph: Graph) -> dict[Node, list[Value]]:
    """The values that die after each node: graph inputs and outputs of nodes that nothing later reads.

    An output that nobody reads dies after its own node. Constants never die, nor does what the graph returns.
    """
    alive = set(graph.outputs.values())
    dying: dict[Node, list[Value]] = {}
    for node in reversed(list(graph.nodes)):
        touched = dict.fromkeys(filter(None, (*node.inputs, *node.captured, *node.outputs)))
        dying[node] = [value for value in touched if value not in alive and not isinstance(value, Constant)]
        alive.update(dying[node])
    return dying


def peak_activation_bytes(graph: Graph, symbols: Mapping[str, int] | None = None) -> int:
    """The most bytes of inputs and activations alive at once when nodes run in order; symbols not given count as 1."""
    dying = last_uses(graph)
    held = peak = sum(nbytes(value.type, symbols) for value in graph.inputs)
    for node in graph.nodes:
        held += sum(nbytes(output.type, symbols) for output in node.outputs)
        peak = max(peak, held)
        held -= sum(nbytes(value.type, symbols) for value in dying[node])
    return peak
