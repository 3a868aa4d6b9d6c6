"""How much errors of what layers compute matter to the model's outputs, in every direction."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ...ir.graph import Graph, Node
from ..base import Feeds, PassContext
from ..gradients import DRAWS, Gradients
from ..measures import choose_measures
from .matrix import channel_axis

_WIDEST = 4096
"""The output channels of a layer beyond which each counts by itself."""
_ENOUGH_ROWS = 4096
"""Rows of the median layer after which no more gradients are drawn."""


def output_metrics(
    graph: Graph, nodes: Sequence[Node], batches: Sequence[Feeds], context: PassContext
) -> dict[Node, np.ndarray]:
    """Second moments of the loss's gradients at what layers compute, summed over a batch's rows.

    They are Fisher's information of the outputs (Martens and Grosse, "K-FAC", ICML 2015). A model without gradients,
    or without outputs in float, has none.

    Args:
        graph: that is run.
        nodes: layers of it.
        batches: of inputs.
        context: with the seed, and to whom progress is reported.

    Returns:
        By layer, float64 `[N, N]`, or the diagonal, `[N]`, of wide ones.
    """
    import torch

    measures = choose_measures(graph, "auto")
    places = {node.output: node for node in nodes}
    gradients = Gradients(graph, set(places), measures, torch.Generator().manual_seed(context.seed))
    found: dict[Node, np.ndarray] = {}
    rows: Counter[Node] = Counter()
    for done, feeds in enumerate(list(batches) * DRAWS if measures and nodes else ()):
        seen = int(np.median([rows[node] for node in nodes]))
        if seen >= _ENOUGH_ROWS or (done == len(batches) and not found):
            break
        context.progress("ranking layers", seen, _ENOUGH_ROWS)
        for drawn in gradients.draw(feeds, 1):
            for value, gradient in drawn.items():
                node = places[value]
                flat = gradient.movedim(channel_axis(node), -1).flatten(0, -2)
                moment = flat.square().sum(0) if flat.shape[1] > _WIDEST else flat.T @ flat
                found[node] = found.get(node, 0.0) + moment.double().numpy()
                rows[node] += len(flat)
    return {node: metric for node, metric in found.items() if metric.any() and np.isfinite(metric).all()}
