"""Layers before a logarithm, as of a spectrum, whose small values count as much as its large ones."""

from ...ir.graph import Graph, Node
from ...ir.operators import has_trait
from ...ir.traits import Trait

_PASSED = frozenset(
    {"Abs", "Add", "Clip", "Concat", "Max", "Mul", "Neg", "Pad", "Pow", "ReduceL2", "ReduceMean", "ReduceSum",
     "ReduceSumSquare", "Slice", "Sqrt", "Sub"}
)  # fmt: skip
"""Operators that hand on how large a value is; an activation function, on the other hand, begins anew."""


def before_logarithms(graph: Graph) -> set[Node]:
    """The nodes whose results reach a Log without an activation function between, layers among them.

    A grid of 256 steps has an absolute error; behind the logarithm that is a relative one, unbounded for small values.
    """
    found: set[Node] = set()
    waiting = [node for node in graph.nodes if node.operator == "Log"]
    while waiting:
        for value in waiting.pop().inputs:
            node = None if value is None else value.producer
            if node is not None and node not in found and _hands_on(node.operator):
                found.add(node)
                waiting.append(node)
    return found


def _hands_on(operator: str) -> bool:
    return operator in _PASSED or has_trait(operator, Trait.MOVING | Trait.CONTRACTING)
