"""Parts of a graph as graphs of their own."""

from collections.abc import Collection, Iterator
from collections.abc import Set as AbstractSet

from .graph import Graph, Node, Value
from .unused import drop_unused


def computing(graph: Graph, names: AbstractSet[str]) -> Graph:
    """A copy of a graph that computes some of its values alone, and returns them by their names."""
    copy = graph.clone()
    copy.outputs = {value.name: value for value in copy.values() if value.name in names}
    for node in copy.nodes_backwards:
        if not any(value.use_count or copy.is_output(value) for value in node.outputs):
            copy.erase(node)
    drop_unused(copy, copy.constants.values())
    return copy


def extract(graph: Graph, kept: Collection[int], returned: Collection[str] = ()) -> Graph:
    """A graph of some of another's nodes.

    What they read of the other nodes becomes an input. What only the others read is returned, and so is what the graph
    returned of theirs; where that is nothing, what nobody read is. Inputs and constants that are neither read nor
    returned any more are left out.

    Args:
        graph: the graph to extract from, which is left as it is.
        kept: the positions of the nodes to extract.
        returned: the names of outputs of the graph that are inputs or constants, and stay outputs.
    """
    copy = graph.clone()
    nodes = list(copy.nodes)
    own = [node for index, node in enumerate(nodes) if index in kept]
    readers = {inner for node in own for inner in _within(node)}
    ends = [
        value
        for node in own
        for value in node.outputs
        if copy.is_output(value) or not any(use.node in readers for use in value.uses)
    ]
    read = [value for value in ends if copy.is_output(value) or value.use_count]
    copy.outputs = {value.name: value for value in read or ends} | {name: copy.outputs[name] for name in returned}
    taken: dict[Value, str] = {}
    for node in reversed(nodes):
        if node in readers:
            continue
        for value in reversed(node.outputs):
            if value.use_count:
                new = copy.add_input(copy.unique_name(value.name), value.type)
                copy.replace_uses(value, new)
                taken[new] = value.name
        copy.erase(node)
    for value, name in taken.items():  # which the nodes that are gone had
        copy.rename(value, name)
    own_inputs = [value for value in copy.inputs if value not in taken and (value.use_count or copy.is_output(value))]
    copy.inputs = [*own_inputs, *reversed(taken)]
    for index, value in enumerate(copy.inputs):
        value.index = index
    drop_unused(copy, copy.constants.values())
    return copy


def _within(node: Node) -> Iterator[Node]:
    """A node and those inside it."""
    yield node
    for graph in node.graphs:
        for inner in graph.nodes:
            yield from _within(inner)
