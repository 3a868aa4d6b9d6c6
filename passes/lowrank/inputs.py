"""What layers read over calibration data, and which rows of tables are looked up."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from ...ir.graph import Graph, Node
from ..base import Feeds, PassContext
from ..moments import Inputs, observe
from ..walk import walk
from .matrix import channel_axis, data_of, reads_windows, weight_of


def observe_inputs(
    graph: Graph, nodes: Sequence[Node], batches: Sequence[Feeds], context: PassContext, widest: int | None = None
) -> dict[Node, Inputs]:
    """Observe what each layer reads; layers that read no rows, or numbers that are not finite, are left out.

    Args:
        graph: the graph to run.
        nodes: the layers to observe.
        batches: the inputs, one batch after another.
        context: the context that progress is reported to.
        widest: the number of channels above which only a moment's diagonal is held; None for no bound.
    """
    reads = {node: (data_of(node), node if reads_windows(node) else channel_axis(node)) for node in nodes}
    found = observe(graph, reads.values(), batches, context, widest) if reads else {}
    return {node: found[read] for node, read in reads.items() if read in found}


def count_rows(
    graph: Graph, nodes: Sequence[Node], batches: Sequence[Feeds], context: PassContext
) -> dict[Node, Inputs]:
    """Observe embeddings, as layers that read a 1 for the row that is looked up, and zeros for the others.

    Each row counts as if it had been looked up once more than it was, since more data look up more rows.

    Args:
        graph: the graph to run, as far as the last embedding.
        nodes: the embeddings, in the graph's order.
        batches: the inputs, one batch after another.
        context: the context that remembers the counts.
    """
    if not nodes or not batches:
        return {}
    counts = context.remember(partial(_counts, graph, nodes, batches))
    shares = [found / found.sum() for found in counts]
    return {node: Inputs(share, share) for node, share in zip(nodes, shares, strict=True)}


def _counts(graph: Graph, nodes: Sequence[Node], batches: Sequence[Feeds]) -> list[np.ndarray]:
    import torch

    places = {node: place for place, node in enumerate(graph.nodes)}
    counts, start = [np.ones(len(weight_of(node).data)) for node in nodes], 0
    with walk(graph, batches) as whole:
        for node, found in zip(nodes, counts, strict=True):
            for number in range(len(batches)):
                ids = whole.advance(number, start, places[node])[data_of(node)]
                assert isinstance(ids, torch.Tensor)
                np.add.at(found, ids.numpy().ravel(), 1)
            start = places[node]
    return counts
