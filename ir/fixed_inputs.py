"""Sizes for symbolic dimensions of a graph's inputs, for what is compiled better where sizes are known."""

from collections.abc import Mapping

from .dims import Dim, evaluate, symbols
from .errors import UsageError
from .graph import Graph
from .reinfer import reinfer
from .suggestion import nearest


def fix_sizes(graph: Graph, sizes: Mapping[str, int]) -> None:
    """Give symbolic dimensions of a graph's inputs their sizes, and infer all that follows from them.

    Args:
        graph: the graph whose types change.
        sizes: the size of each dimension by its symbol; other dimensions stay symbolic.

    Raises:
        UsageError: the inputs have no such dimension, a size is no whole number from 1, or a dimension is computed from
            another symbol, too.
        ModelError: the model can't have these sizes; the layer is named.
    """
    known = frozenset[str]().union(*(value.type.symbols for value in graph.inputs))
    for name, size in sizes.items():
        if name not in known:
            raise UsageError(f"the model has no input with a symbolic dimension {name!r}{nearest(name, known)}")
        if type(size) is not int or size < 1:
            raise UsageError(f"the size of {name!r} must be a whole number from 1, not {size!r}")
    for value in graph.inputs:
        if value.type.dims is not None:
            value.type = value.type.resized(tuple(_fixed(dim, sizes) for dim in value.type.dims))
    reinfer(graph)


def _fixed(dim: Dim, sizes: Mapping[str, int]) -> Dim:
    if not symbols(dim) & sizes.keys():
        return dim
    if missing := sorted(symbols(dim) - sizes.keys()):
        raise UsageError(f"the dimension {dim} takes a size for {', '.join(missing)} as well")
    return evaluate(dim, sizes)
