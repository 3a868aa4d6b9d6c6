"""What the user's model calls the nodes that an operator was spelled out in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...ir.graph import Graph, Node, nested_nodes


@dataclass(frozen=True, slots=True)
class Origins:
    """The operators of a graph by location, for refusals to name after the graph was rewritten.

    Attributes:
        operators: the operators by the texts of their locations.
    """

    operators: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, graph: Graph) -> "Origins":
        operators: dict[str, dict[str, None]] = {}
        for node in nested_nodes(graph):
            operators.setdefault(str(node.location), {})[node.operator] = None
        return cls({place: list(names) for place, names in operators.items()})

    def name(self, node: Node) -> str:
        """The node's operator, or what it was before, with the one that it is made of."""
        operators = self.operators.get(str(node.location), ())
        if not operators or node.operator in operators:
            return node.operator
        return f"{' or '.join(operators)} by means of {node.operator}"
