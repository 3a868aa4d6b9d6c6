"""Low-rank factorization: a wide layer becomes two narrow ones where that takes fewer multiply-adds."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Interval, Unit

from ...ir.graph import Graph, Node, Value
from ..base import Effect, Feeds, Pass, PassContext, PassResult
from .matrix import channel_axis, read_matrix, split_node

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

_DAMPING = 0.01
"""The share of the mean second moment that is added to each, as in GPTQ's Hessian (Frantar et al., ICLR 2023)."""


@dataclass(frozen=True)
class Factorization(Pass):
    """Split linear layers and 1x1 convolutions into two by a truncated singular value decomposition.

    With calibration data the error is weighed by the second moment of the layer's input, so that what is lost is the
    least of the layer's output, not of its weight (Chen et al., "DRONE", NeurIPS 2021; Wang et al., "SVD-LLM", ICLR
    2025).

    Attributes:
        energy: of the squared singular values that is kept; it sets the rank of each layer.
        rank: the same rank for every layer instead; 0 leaves it to the others.
        ratio: of each layer's multiply-adds that is removed instead; 0 leaves it to the energy.
    """

    name: ClassVar[str] = "factorize"
    effect: ClassVar[Effect] = Effect.LOSSY
    needs: ClassVar[frozenset[str]] = frozenset({"float"})
    after: ClassVar[tuple[str, ...]] = ("fold-constants",)

    energy: Annotated[float, Interval(gt=0, le=1), Unit("1")] = 0.95
    rank: Annotated[int, Ge(0)] = 0
    ratio: Annotated[float, Interval(ge=0, lt=1), Unit("1")] = 0.0

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        layers = [
            (node, matrix)
            for node in graph.nodes
            if context.selects(node) and (matrix := read_matrix(node)) is not None
        ]
        moments = _input_moments(graph, [node for node, _ in layers], context.calibration)
        misses: list[str] = []
        count = 0
        for done, (node, matrix) in enumerate(layers):
            context.progress("factorize", done, len(layers))
            first, second = self._factors(matrix, moments.get(node))
            rank, (rows, columns) = first.shape[1], matrix.shape
            if rank * (rows + columns) < rows * columns:
                if context.applies("split", node):
                    split_node(graph, node, first, second)
                    count += 1
            else:
                misses.append(
                    f"{node.location}: rank {rank} of its {rows} x {columns} weight saves no multiply-adds, "
                    f"for that it takes less than {rows * columns / (rows + columns):.0f}"
                )
        return PassResult({self.name: count}, misses)

    def _factors(self, matrix: np.ndarray, moment: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Two matrices whose product is near one of shape [inputs, outputs], of the rank that the options ask for."""
        matrix = matrix.astype(np.float64)
        root = None if moment is None else np.linalg.cholesky(moment).T
        left, values, right = np.linalg.svd(matrix if root is None else root @ matrix, full_matrices=False)
        rank = self._rank(values, *matrix.shape)
        scale = np.sqrt(values[:rank])
        first, second = left[:, :rank] * scale, scale[:, None] * right[:rank]
        return first if root is None else np.linalg.solve(root, first), second

    def _rank(self, values: np.ndarray, rows: int, columns: int) -> int:
        if self.rank:
            return min(self.rank, len(values))
        if self.ratio:
            return max(1, int((1 - self.ratio) * rows * columns / (rows + columns)))
        energy = np.cumsum(np.square(values))
        return 1 + int(np.searchsorted(energy, self.energy * energy[-1]))


def _input_moments(graph: Graph, nodes: Sequence[Node], batches: Sequence[Feeds]) -> dict[Node, np.ndarray]:
    """The damped second moment of each layer's input over calibration data, [inputs, inputs]; none without data."""
    if not batches:
        return {}
    from ...ir.interpreter import Interpreter  # brings torch, which listing the passes must not

    reads = {node: (node.inputs[0], channel_axis(node)) for node in nodes}
    axes: defaultdict[Value | None, set[int]] = defaultdict(set)
    for value, axis in reads.values():
        axes[value].add(axis)
    sums: dict[tuple[Value | None, int], np.ndarray] = {}

    def observe(value: Value, tensor: "Tensor") -> None:
        for axis in axes.get(value, ()):
            rows = tensor.movedim(axis, -1).flatten(0, -2).double()
            sums[value, axis] = sums.get((value, axis), 0.0) + (rows.T @ rows).numpy()

    interpreter = Interpreter(graph)
    for feeds in batches:
        interpreter.run(feeds, observe)
    return {node: _damped(sums[read]) for node, read in reads.items()}


def _damped(moment: np.ndarray) -> np.ndarray:
    return moment + np.eye(len(moment)) * (_DAMPING * (np.trace(moment) / len(moment) or 1.0))
