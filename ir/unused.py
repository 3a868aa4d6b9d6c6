"""Erasing what an edit of a graph has left without a reader."""

from collections.abc import Iterable

from .graph import Constant, Graph, Value


def drop_unused(graph: Graph, values: Iterable[Value]) -> None:
    """Erase constants, and the nodes that make other values, where nobody reads them any more.

    Args:
        graph: edited in place.
        values: what may be erased; a value that is made of a constant, such as its Transpose, stands before it.
    """
    for value in dict.fromkeys(values):
        if value.use_count or graph.is_output(value):
            continue
        if isinstance(value, Constant):
            graph.erase_constant(value)
        elif value.producer is not None:
            graph.erase(value.producer)
