"""Delta debugging of graphs: the few nodes of a graph with which something still goes wrong.

Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE Transactions on Software Engineering
28, 2002.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..ir.errors import PlanishError
from ..ir.extract import extract
from ..ir.graph import Graph
from ..ir.verify import verify

_Piece: TypeAlias = int | str
"""A node by its position, or by name an output that no node makes."""


def reduce(
    graph: Graph,
    fails: Callable[[Graph], bool],
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> Graph:
    """A part of a graph that still fails, and of which no node can be left out; all of it if no part fails.

    Args:
        graph: the graph that fails; it is left as it is.
        fails: whether a part of the graph fails. A `PlanishError` counts as no, since such a part fails otherwise.
        progress: called with a description, how many nodes a part lacks, and how many there are in all.
    """
    total = len(graph)

    def part(pieces: Sequence[_Piece]) -> Graph:
        nodes = frozenset(piece for piece in pieces if isinstance(piece, int))
        return extract(graph, nodes, [piece for piece in pieces if isinstance(piece, str)])

    def still_fails(pieces: Sequence[_Piece]) -> bool:
        if not pieces:
            return False
        made = part(pieces)
        progress("reducing", total - len(made), total)
        try:
            verify(made)
            return fails(made)
        except PlanishError:
            return False

    pieces = [*(name for name, value in graph.outputs.items() if value.producer is None), *range(total)]
    return part(_minimal(_cut(pieces, still_fails), still_fails)) if still_fails(pieces) else graph.clone()


def _cut(nodes: list[_Piece], still_fails: Callable[[Sequence[_Piece]], bool]) -> list[_Piece]:
    """The shortest stretch of nodes that fails, if longer ones do too: cut at the end first, then at the start."""
    low, high = 0, len(nodes)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if still_fails(nodes[:middle]) else (middle, high)
    nodes = nodes[:high]
    low, high = 0, len(nodes)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if still_fails(nodes[middle:]) else (low, middle)
    return nodes[low:]


def _minimal(nodes: list[_Piece], still_fails: Callable[[Sequence[_Piece]], bool]) -> list[_Piece]:
    """Leave out ever smaller chunks, until each single node is needed."""
    size = max(1, len(nodes) // 2)
    while True:
        before = len(nodes)
        start = 0
        while start < len(nodes):
            rest = nodes[:start] + nodes[start + size :]
            if still_fails(rest):
                nodes = rest
            else:
                start += size
        if size == 1 and len(nodes) == before:
            return nodes
        size = max(1, size // 2)
