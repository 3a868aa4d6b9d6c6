"""Parts of a graph as graphs of their own."""

from collections.abc import Collection, Iterator

from .graph import Graph, Node, Value


def extract(graph: Graph, kept: Collection[int]) -> Graph:
    """A graph of some of another's nodes.

    What they read of the other nodes becomes an input. What none of them reads is returned, and so is what the graph
    returned of theirs. Inputs and constants that nobody reads any more are left out.

    Args:
        graph: is left as it is.
        kept: the nodes, by their position.
    """
    copy = graph.clone()
    nodes = list(copy.nodes)
    own = [node for index, node in enumerate(nodes) if index in kept]
    readers = {inner for node in own for inner in _within(node)}
    made = [value for node in own for value in node.outputs]
    copy.outputs = {
        value.name: value
        for value in made
        if copy.is_output(value) or not any(use.node in readers for use in value.uses)
    }
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
    copy.inputs = [*(value for value in copy.inputs if value.use_count and value not in taken), *reversed(taken)]
    for index, value in enumerate(copy.inputs):
        value.index = index
    for constant in list(copy.constants.values()):
        if not constant.use_count:
            copy.erase_constant(constant)
    return copy


def _within(node: Node) -> Iterator[Node]:
    """A node and those inside it."""
    yield node
    for graph in node.graphs:
        for inner in graph.nodes:
            yield from _within(inner)
