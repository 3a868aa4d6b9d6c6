"""What the user's model calls the nodes that an operator was spelled out in."""

from ...ir.graph import Graph, Location, Node, nested


class Origins:
    """The operators of a graph by their places, as refusals name them after it was rewritten."""

    def __init__(self, graph: Graph) -> None:
        self._operators: dict[Location, dict[str, None]] = {}
        for node in (node for part in nested(graph) for node in part.nodes):
            self._operators.setdefault(node.location, {})[node.operator] = None

    def name(self, node: Node) -> str:
        """The node's operator, or what it was before, with the one that it is made of."""
        operators = self._operators.get(node.location, {})
        if not operators or node.operator in operators:
            return node.operator
        return f"{' or '.join(operators)} by means of {node.operator}"
