"""Residual branches: what is computed between a value and the Add that adds it back (He et al., CVPR 2016)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..graph import Constant, Graph, Node, Value, nested_nodes
from ..operators import has_trait
from ..traits import Trait


@dataclass(frozen=True, slots=True)
class ResidualBranch:
    """All that is computed on the ways from a value x to an Add of x and f(x).

    A branch may read other values as well, such as a mask, that are not computed from x.

    Attributes:
        add: the Add.
        index: the index of x among the Add's inputs.
        nodes: the nodes that are on a way from x to f(x), in the graph's order.
        frozen: why the Add can't give way to x; None where it can.
    """

    add: Node
    index: int
    nodes: tuple[Node, ...]
    frozen: str | None

    @property
    def x(self) -> Value:
        """The value that the branch begins at."""
        return self.add.operand(self.index)

    @property
    def layers(self) -> list[Node]:
        """The nodes that contract what they read; an activation function that has an Add inside has none."""
        return [node for node in self.nodes if has_trait(node.operator, Trait.CONTRACTING | Trait.RECURRENT)]

    @property
    def added(self) -> Value:
        """The value f(x) that the branch adds."""
        return self.add.operand(1 - self.index)


def residual_branches(graph: Graph) -> list[ResidualBranch]:
    """Every residual branch of a graph that holds a layer, in order; one inside another comes before it."""
    branches = (branch for node in graph.nodes if node.operator == "Add" for branch in _of(graph, node))
    return [branch for branch in branches if branch.layers]


def _of(graph: Graph, add: Node) -> Iterator[ResidualBranch]:
    """The branch that an Add ends, if it ends one: only one of its inputs can be computed from the other."""
    for index in (0, 1):
        x, added = add.operand(index), add.operand(1 - index)
        if nodes := _between(graph, x, added):
            yield ResidualBranch(add, index, nodes, _obstacle(graph, add, x, nodes))


def _between(graph: Graph, first: Value, last: Value) -> tuple[Node, ...]:
    """The nodes on all ways from a value to another, in order; none where there is no way."""
    if isinstance(first, Constant):
        return ()
    start = -1.0 if first.producer is None else graph.position(first.producer)
    above: set[Node] = set()
    found, values = list[Node](), {first}
    left = [last]
    while left:
        node = left.pop().producer
        if node is not None and node not in above and graph.position(node) > start:
            above.add(node)
            left += _read(node)
    for node in sorted(above, key=graph.position):
        if not values.isdisjoint(_read(node)):
            found.append(node)
            values.update(node.outputs)
    return tuple(found)


def _read(node: Node) -> list[Value]:
    return [value for value in (*node.inputs, *node.captured) if value is not None]


def _obstacle(graph: Graph, add: Node, x: Value, nodes: Sequence[Node]) -> str | None:
    """Why a branch can't be removed; None where it can."""
    within = {add, *nodes, *(inner for node in nodes for part in node.graphs for inner in nested_nodes(part))}
    for value in (output for node in nodes for output in node.outputs):
        if graph.is_output(value):
            return f"the graph returns %{value.name}, which it computes"
        reader = next((use.node for use in value.uses if use.node not in within), None)
        if reader is not None:
            return f"{reader.operator} in {reader.location} reads %{value.name}, which it computes, too"
    if x.type is not add.output.type or not x.type.is_ranked:
        return f"it starts from {x.type} and ends in {add.output.type}"
    return None if x.dtype.is_float else f"it adds to {x.dtype}"
