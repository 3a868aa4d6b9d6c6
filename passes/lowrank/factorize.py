"""Low-rank factorization: a wide layer becomes two narrow ones where that takes fewer multiply-adds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Interval, Unit

from ...ir.analysis.cost import flops, summarize
from ...ir.errors import UsageError
from ...ir.graph import Graph, Node
from ..base import Effect, Feeds, Pass, PassContext, PassResult, Profiler
from ..debug_counter import DebugCounter
from ..judge import Judge, divided
from ..moments import Inputs
from ..profit import named, slower_layers
from ..quantization.calibrate import first_batches_of
from .allocation import Choices, allocate, most_saved
from .decomposition import Decomposition, decompose, lost
from .inputs import observe_inputs
from .matrix import add_to_bias, bias_place, read_matrix, read_table, split_node, split_table, weight_of
from .metrics import output_metrics

_ENERGY = 0.95
"""The energy that is kept where there are no data to say more."""
_RANKED_ON = 128
"""Samples that gradients are drawn for."""
_TRIALS = 32
"""Into how many equal shares of the operations a bound on the outputs is searched."""
_LEAST_GAIN = 0.1
"""The share of a layer's multiply-adds below which two layers take as long as one."""


@dataclass(frozen=True)
class Factorization(Pass):
    """Split linear layers and 1x1 convolutions into two by a truncated singular value decomposition.

    With calibration data the error is weighed by what the layer reads, so that the least of its output is lost, not of
    its weight (Chen et al., "DRONE", NeurIPS 2021; Wang et al., "SVD-LLM", ICLR 2025), and by how much that matters to
    the model's outputs ("K-FAC"; see `decompose`). Only what varies counts: the mean of what is lost goes into the
    bias, where there can be one.

    With calibration data and none of `energy`, `rank`, `ratio`, `flops` and `parameters`, as much as possible is taken,
    as long as the outputs stay within `max_drop` on batches that were held out.

    Attributes:
        energy: of the variance of each layer's output, on batches that were held out, or without data of the squared
            singular values, that is kept; it sets the rank of each layer. 0 leaves it to the others, and is 0.95
            without data.
        rank: the same rank for every layer instead; 0 leaves it to the others.
        ratio: of each layer's multiply-adds that is removed instead; 0 leaves it to the others.
        flops: of the model's operations that is removed instead, where the outputs lose the least; 0 leaves it to the
            others.
        parameters: of the model's parameters that is removed instead, where the outputs lose the least, embeddings
            among them; 0 leaves it to the others.
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
    flops: Annotated[float, Interval(ge=0, lt=1), Unit("1")] = 0.0
    parameters: Annotated[float, Interval(ge=0, lt=1), Unit("1")] = 0.0
    max_drop: Annotated[float, Interval(gt=0, le=100), Unit("%")] = 1.0

    def require(self, context: PassContext) -> None:
        if (self.flops or self.parameters) and not context.calibration:
            goal = "flops" if self.flops else "parameters"
            raise UsageError(
                f"{self.name}{{{goal}=...}} takes from the layers that the outputs lose least by, for which it needs "
                f"calibration data; {self.name}{{ratio=...}} takes as much from every layer"
            )

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        self.require(context)
        fitted, held_out, labelled = divided(context)
        layers, misses = self._layers(graph, fitted, context)
        notes: Sequence[str] = ()
        if self.rank or self.ratio:
            ranks = {layer.node: self._rank(*layer.matrix.shape) for layer in layers}
        elif self.flops or self.parameters:
            ranks, notes = self._for_budget(graph, layers, context)
        elif self.energy or not held_out:
            unseen = observe_inputs(graph, [layer.node for layer in layers], held_out, context)
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

    def _layers(self, graph: Graph, fitted: Sequence[Feeds], context: PassContext) -> tuple[list["_Layer"], list[str]]:
        """The layers that may be split, and why others may not."""
        chosen = [node for node in graph.nodes if context.selects(node)]
        matrices = {node: matrix for node in chosen if (matrix := read_matrix(node)) is not None}
        if self.parameters:  # the other goals make a model faster, which narrow tables don't
            matrices |= {node: table for node in chosen if (table := read_table(node)) is not None}
        inputs = observe_inputs(graph, list(matrices), fitted, context)
        few = [] if self.energy else first_batches_of(fitted, _RANKED_ON)
        metrics = output_metrics(graph, list(inputs), few, context)
        layers = [
            _Layer.of(node, matrix, inputs.get(node), metrics.get(node))
            for node, matrix in matrices.items()
            if node in inputs or not fitted
        ]
        misses = [
            f"{node.location}: it reads nothing in the calibration data, or what is not finite"
            for node in matrices
            if fitted and node not in inputs
        ]
        return layers, misses

    def _for_budget(
        self, graph: Graph, layers: Sequence["_Layer"], context: PassContext
    ) -> tuple[dict[Node, int], list[str]]:
        """The ranks that save the share of the model that was asked for, and a note where there are none."""
        cost = summarize(graph, context.sizes)
        whole, wanted, what = (
            (cost.flops, self.flops, "operations") if self.flops else (cost.parameters, self.parameters, "parameters")
        )
        choices = {layer.node: layer.choices(_flops(layer, context) if self.flops else None) for layer in layers}
        most = most_saved(choices) / max(whole, 1)
        notes = [f"no more than {100 * most:.0f} % of the {what} can be removed"] if most < wanted else []
        return allocate(choices, wanted * whole), notes

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
        """The ranks that save the most operations with which the outputs stay within bounds."""
        scratch = replace(context, counter=DebugCounter())
        choices = {layer.node: layer.choices(_flops(layer, context)) for layer in layers}

        def split(ranks: Mapping[Node, int]) -> Graph:
            copy = graph.clone()
            self._split(copy, scratch, *_moved(graph, copy, layers, ranks))
            return copy

        found: dict[Node, int] = {}
        low, high, most = 0, _TRIALS, most_saved(choices)
        while low < high:
            tried = (low + high + 1) // 2
            context.progress("factorize: judging", tried, _TRIALS)
            ranks = allocate(choices, most * tried / _TRIALS)
            if judge.drop(partial(split, ranks), context) <= self.max_drop:
                found, low = ranks, tried
            else:
                high = tried - 1
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
                misses.append(f"{layer.node.location}: it stays whole, {self._why()}")
            elif rank >= most:
                misses.append(
                    f"{layer.node.location}: rank {rank} of its {rows} x {columns} weight saves no time, "
                    f"for that it takes less than {most:.0f}"
                )
            elif context.applies("split", layer.node):
                layer.split(graph, rank)
                count += 1
        return PassResult({self.name: count}, misses)

    def _why(self) -> str:
        if self.flops or self.parameters:
            return "others give what was asked for at less loss"
        return f"no rank keeps the outputs within {self.max_drop:g} %, or others save more for it"


def _flops(layer: "_Layer", context: PassContext) -> int:
    return flops(layer.node, context.sizes)


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
    def of(cls, node: Node, matrix: np.ndarray, inputs: Inputs | None, metric: np.ndarray | None) -> "_Layer":
        weighed = None if inputs is None else inputs.covariance if bias_place(node) else inputs.moment
        return cls(node, matrix, inputs, decompose(matrix, weighed, metric))

    def choices(self, flops: int | None) -> Choices:
        """The ranks that may be worth it, and what they save: operations of so many, or if None parameters."""
        rows, columns = self.matrix.shape
        most = (1 - _LEAST_GAIN) * self.matrix.size / (rows + columns)
        if flops is None:
            whole, per_rank = (0 if weight_of(self.node).use_count > 1 else self.matrix.size), rows + columns
        else:
            whole, per_rank = flops, flops * (rows + columns) / self.matrix.size
        return Choices.of(self.parts.losses, most, per_rank, whole)

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
        split = split_table if self.node.operator == "Gather" else split_node
        split(graph, self.node, cut.first, cut.second)
