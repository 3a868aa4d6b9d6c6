"""Delta debugging of graphs: the few nodes of a graph with which something still goes wrong.

Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE Transactions on Software Engineering
28, 2002.
"""

from collections.abc import Callable, Sequence

from ..ir.errors import PlanishError
from ..ir.extract import extract
from ..ir.graph import Graph
from ..ir.verify import verify


def reduce(
    graph: Graph,
    fails: Callable[[Graph], bool],
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> Graph:
    """A part of a graph that still fails, and of which no node can be left out.

    Args:
        graph: that fails; it is left as it is.
        fails: whether a part does. What it raises itself counts as no, since such a part fails otherwise.
        progress: told how many nodes are gone, of how many.
    """
    total = len(graph)

    def still_fails(nodes: Sequence[int]) -> bool:
        progress("reducing", total - len(nodes), total)
        if not nodes:
            return False
        part = extract(graph, frozenset(nodes))
        try:
            verify(part)
            return fails(part)
        except PlanishError:
            return False

    return extract(graph, frozenset(_minimal(_cut(list(range(total)), still_fails), still_fails)))


def _cut(nodes: list[int], still_fails: Callable[[Sequence[int]], bool]) -> list[int]:
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


def _minimal(nodes: list[int], still_fails: Callable[[Sequence[int]], bool]) -> list[int]:
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
