"""What layers read over calibration data."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Graph, Node, Value
from ..base import Feeds, PassContext
from ..moments import Inputs, observe
from .matrix import channel_axis, data_of, weight_of

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor


def observe_inputs(
    graph: Graph, nodes: Sequence[Node], batches: Sequence[Feeds], context: PassContext
) -> dict[Node, Inputs]:
    """Observe what each layer reads; nothing of those that read no rows, or numbers that are not finite.

    An embedding reads a 1 for the row that it looks up, and zeros for the others. Each row counts as if it had been
    looked up once more than it was, since more data look up more rows.

    Args:
        graph: that is run.
        nodes: layers of it, and embeddings.
        batches: of inputs.
        context: to whom progress is reported.
    """
    counts = {node: np.ones(len(weight_of(node).data)) for node in nodes if node.operator == "Gather"}
    reads = {node: (data_of(node), channel_axis(node)) for node in nodes if node not in counts}

    def count(value: Value, tensor: "Tensor") -> None:
        for node, found in counts.items():
            if data_of(node) is value:
                np.add.at(found, tensor.numpy().ravel(), 1)

    found = observe(graph, reads.values(), batches, context, also=count if counts else None)
    looked_up = {node: Inputs(rows / rows.sum(), rows / rows.sum()) for node, rows in counts.items() if batches}
    return {node: found[read] for node, read in reads.items() if read in found} | looked_up
