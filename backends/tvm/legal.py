"""The graph as TVM runs it."""

from ...ir.errors import TargetError
from ...ir.graph import Graph
from ...passes.base import PassContext
from ...passes.cleanup.fold_constants import ConstantFolding
from ...passes.legalize import legalized
from ...targets import Target
from .errors import ADVICE

_LARGEST_CONSTANT = 1 << 20
"""Bytes that a folded constant may have grown to: masks and waves needn't be made anew."""


def legal_graph(graph: Graph, target: Target) -> Graph:
    """Return the copy of the graph that TVM runs, with its constants folded.

    TVM's importer would fold constants by rules of its own.
    """
    folded, context, fold = graph.clone(), PassContext(target, source=graph), ConstantFolding(limit=_LARGEST_CONSTANT)
    fold.run(folded, context)
    try:
        legal = legalized(folded, target, "tvm")
    except TargetError as error:
        raise TargetError(f"{error}; {ADVICE}") from error
    fold.run(legal, context)
    return legal
