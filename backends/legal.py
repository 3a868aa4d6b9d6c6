"""The graph as a backend runs it."""

from ..ir.graph import Graph
from ..passes.base import PassContext
from ..passes.manager import PassManager
from ..targets import Target
from . import find_backend
from .base import Backend


def legalized(graph: Graph, target: Target, backend: Backend | str) -> Graph:
    """Return a copy of a graph that a backend can run: what the backend's own passes make of it.

    Args:
        graph: the graph, which is left as it is.
        target: the machine to build for.
        backend: the backend, or its name.

    Raises:
        TargetError: there is none; the layer, the operator and the reason are named.
    """
    found = find_backend(backend) if isinstance(backend, str) else backend
    copy = graph.clone()
    PassManager(found.pipeline(target), verify="structure").run(copy, PassContext(target, source=graph))
    return copy
