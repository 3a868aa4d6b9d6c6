"""Low-rank factorization: a wide layer becomes two narrow ones where that takes fewer multiply-adds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Interval, Unit

from ...ir.graph import Graph, Node
from ..base import Effect, Pass, PassContext, PassResult, Profiler
from ..debug_counter import DebugCounter
from ..judge import Judge, divided
from ..moments import Inputs
from ..profit import named, slower_layers
from .decomposition import Decomposition, decompose, lost
from .inputs import observe_inputs
from .matrix import add_to_bias, bias_place, read_matrix, split_node

_ENERGY = 0.95
"""The energy that is kept where there are no data to say more."""
_SHARES = tuple(2.0**-power for power in range(2, 12))
"""The shares of what varies in a layer's output that may be lost, the most first."""
_LEAST_GAIN = 0.1
"""The share of a layer's multiply-adds below which two layers take as long as one."""


@dataclass(frozen=True)
class Factorization(Pass):
    """Split linear layers and 1x1 convolutions into two by a truncated singular value decomposition.

    With calibration data the error is weighed by what the layer reads, so that the least of its output is lost, not of
    its weight (Chen et al., "DRONE", NeurIPS 2021; Wang et al., "SVD-LLM", ICLR 2025). Only what varies counts: the
    mean of what is lost goes into the bias, where there can be one.

    With calibration data and none of `energy`, `rank` and `ratio`, as much as possible is taken from all layers alike,
    as long as the outputs stay within `max_drop` on batches that were held out.

    Attributes:
        energy: of the variance of each layer's output, on batches that were held out, or without data of the squared
            singular values, that is kept; it sets the rank of each layer. 0 leaves it to `max_drop`, and is 0.95
            without data.
        rank: the same rank for every layer instead; 0 leaves it to the others.
        ratio: of each layer's multiply-adds that is removed instead; 0 leaves it to the others.
        max_drop: in hundredths of the metric's own scale, where the calibration data have labels. In percent where they
            have none: of rows of an output of classes whose largest element is elsewhere than before, or of other
            outputs 100 (1 - cosine). The output that loses most counts.

    Where the backend can be timed, layers stay whole that would take longer in two.
    """

    name: ClassVar[str] = "factorize"
    effect: ClassVar[Effect] = Effect.LOSSY
    needs: ClassVar[frozenset[str]] = frozenset({"float"})
    after: ClassVar[tuple[str, ...]] = ("fold-constants",)

    energy: Annotated[float, Interval(ge=0, le=1), Unit("1")] = 0.0
    rank: Annotated[int, Ge(0)] = 0
    ratio: Annotated[float, Interval(ge=0, lt=1), Unit("1")] = 0.0
    max_drop: Annotated[float, Interval(gt=0, le=100), Unit("%")] = 1.0

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        fitted, held_out, labelled = divided(context)
        matrices = {
            node: matrix for node in graph.nodes if context.selects(node) and (matrix := read_matrix(node)) is not None
        }
        inputs = observe_inputs(graph, list(matrices), fitted, context)
        layers = [
            _Layer.of(node, matrix, inputs.get(node))
            for node, matrix in matrices.items()
            if node in inputs or not fitted
        ]
        misses = [
            f"{node.location}: it reads nothing in the calibration data, or what is not finite"
            for node in matrices
            if fitted and node not in inputs
        ]
        notes: Sequence[str] = ()
        if self.rank or self.ratio:
            ranks = {layer.node: self._rank(*layer.matrix.shape) for layer in layers}
        elif self.energy or not held_out:
            unseen = observe_inputs(graph, list(matrices), held_out, context)
            share = 1 - (self.energy or _ENERGY)
            ranks = {layer.node: layer.rank_within(share, unseen.get(layer.node)) for layer in layers}
        else:
            judge = Judge(graph, held_out, labelled)
            ranks, notes = self._within(graph, context, layers, judge), judge.doubts(self.max_drop)
        if context.profile is not None and context.profile_decides:
            layers, slow = self._paying(graph, context, layers, ranks, context.profile)
            misses += slow
        found = self._split(graph, context, layers, ranks)
        return PassResult(found.counts, [*found.misses, *misses], notes)

    def _paying(
        self,
        graph: Graph,
        context: PassContext,
        layers: Sequence["_Layer"],
        ranks: Mapping[Node, int],
        profile: Profiler,
    ) -> tuple[list["_Layer"], list[str]]:
        """The layers but for those that take longer in two, with a sentence for each of these."""
        whole, copy = named(graph), named(graph)
        moved, moved_ranks = _moved(graph, copy, layers, ranks)
        if not self._split(copy, replace(context, counter=DebugCounter()), moved, moved_ranks).changed:
            return list(layers), []
        slow = slower_layers(profile, whole, copy)
        names = {layer.node: layer.node.outputs[0].name for layer in layers}
        misses = [
            f"{node.location}: in two layers of rank {ranks[node]} it would take {slow[name]}"
            for node, name in names.items()
            if node in ranks and name in slow
        ]
        return [layer for layer in layers if layer.node not in ranks or names[layer.node] not in slow], misses

    def _rank(self, rows: int, columns: int) -> int:
        """The rank of a layer's weight that was asked for."""
        return min(self.rank, rows, columns) or max(1, int((1 - self.ratio) * rows * columns / (rows + columns)))

    def _within(self, graph: Graph, context: PassContext, layers: Sequence["_Layer"], judge: Judge) -> dict[Node, int]:
        """The ranks that lose the greatest share of each layer's output with which the outputs stay within bounds."""
        scratch = replace(context, counter=DebugCounter())
        found: dict[Node, int] = {}
        low, high = 0, len(_SHARES)
        while low < high:
            tried = (low + high) // 2
            context.progress("factorize: judging", tried, len(_SHARES))
            ranks = {layer.node: layer.rank_within(_SHARES[tried], layer.inputs) for layer in layers}
            copy = graph.clone()
            self._split(copy, scratch, *_moved(graph, copy, layers, ranks))
            if judge.judge(copy).drop <= self.max_drop:
                found, high = ranks, tried
            else:
                low = tried + 1
        return found

    def _split(
        self, graph: Graph, context: PassContext, layers: Sequence["_Layer"], ranks: Mapping[Node, int]
    ) -> PassResult:
        misses: list[str] = []
        count = 0
        for done, layer in enumerate(layers):
            context.progress(self.name, done, len(layers))
            rank, (rows, columns) = ranks.get(layer.node), layer.matrix.shape
            most = (1 if self.rank or self.ratio else 1 - _LEAST_GAIN) * rows * columns / (rows + columns)
            if rank is None:
                misses.append(f"{layer.node.location}: no rank keeps the outputs within {self.max_drop:g} %")
            elif rank >= most:
                misses.append(
                    f"{layer.node.location}: rank {rank} of its {rows} x {columns} weight saves no time, "
                    f"for that it takes less than {most:.0f}"
                )
            elif context.applies("split", layer.node):
                layer.split(graph, rank)
                count += 1
        return PassResult({self.name: count}, misses)


def _moved(
    graph: Graph, copy: Graph, layers: Sequence["_Layer"], ranks: Mapping[Node, int]
) -> tuple[list["_Layer"], dict[Node, int]]:
    """Layers and ranks of a graph as those of its copy."""
    twins = dict(zip(graph.nodes, copy.nodes, strict=True))
    return [replace(layer, node=twins[layer.node]) for layer in layers], {twins[it]: rank for it, rank in ranks.items()}


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer that may be split.

    Attributes:
        node: that multiplies by the weight.
        matrix: the weight, `[K, N]`.
        inputs: what it reads, where there are data.
        parts: the weight as a product.
    """

    node: Node
    matrix: np.ndarray
    inputs: Inputs | None
    parts: Decomposition

    @classmethod
    def of(cls, node: Node, matrix: np.ndarray, inputs: Inputs | None) -> "_Layer":
        weighed = None if inputs is None else inputs.covariance if bias_place(node) else inputs.moment
        return cls(node, matrix, inputs, decompose(matrix, weighed))

    def rank_within(self, share: float, inputs: Inputs | None) -> int:
        """The least rank that loses no more than a share of what varies in the output."""
        covariance = None if inputs is None else inputs.covariance
        bound = share * lost(self.matrix, np.zeros_like(self.matrix), covariance)
        low, high = 1, len(self.parts.second)
        while low < high:
            rank = (low + high) // 2
            if lost(self.matrix, self.parts.cut(rank).product, covariance) <= bound:
                high = rank
            else:
                low = rank + 1
        return low

    def split(self, graph: Graph, rank: int) -> None:
        """Put two layers in the place of one."""
        cut = self.parts.cut(rank)
        place = bias_place(self.node)
        if self.inputs is not None and place is not None:
            add_to_bias(graph, self.node, place, self.inputs.mean @ (self.matrix - cut.product))
        split_node(graph, self.node, cut.first, cut.second)
