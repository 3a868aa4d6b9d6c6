"""What layers read over calibration data."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Graph, Node, Value
from ..base import Feeds, PassContext
from .decomposition import Inputs
from .matrix import channel_axis

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor


@dataclass(slots=True)
class _Sums:
    moment: np.ndarray
    total: np.ndarray
    rows: int

    def means(self) -> Inputs:
        return Inputs(self.total / self.rows, self.moment / self.rows)


def observe_inputs(
    graph: Graph, nodes: Sequence[Node], batches: Sequence[Feeds], context: PassContext
) -> dict[Node, Inputs]:
    """Observe what each layer reads; nothing of those that read no rows, or numbers that are not finite.

    Args:
        graph: that is run.
        nodes: layers of it.
        batches: of inputs.
        context: to whom progress is reported.
    """
    from ...ir.interpreter import Interpreter  # brings torch, which listing the passes must not

    reads = {node: (node.operand(0), channel_axis(node)) for node in nodes}
    axes: defaultdict[Value, set[int]] = defaultdict(set)
    for value, axis in reads.values():
        axes[value].add(axis)
    sums: dict[tuple[Value, int], _Sums] = {}

    def observe(value: Value, tensor: "Tensor") -> None:
        for axis in axes.get(value, ()):
            rows = tensor.movedim(axis, -1).flatten(0, -2).double()
            moment, total = (rows.T @ rows).numpy(), rows.sum(0).numpy()
            held = sums.setdefault((value, axis), _Sums(np.zeros_like(moment), np.zeros_like(total), 0))
            held.moment += moment
            held.total += total
            held.rows += len(rows)

    interpreter = Interpreter(graph)
    for done, feeds in enumerate(batches):
        context.progress("observing layers", done, len(batches))
        interpreter.run(feeds, observe)
    means = {read: held.means() for read, held in sums.items() if held.rows and np.isfinite(held.moment).all()}
    return {node: means[read] for node, read in reads.items() if read in means}
