"""Low-rank factorization: a wide layer becomes two narrow ones where that takes fewer multiply-adds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Interval, Unit

from ...ir.analysis.cost import flops, summarize
from ...ir.errors import UsageError
from ...ir.graph import Graph, Node
from ..base import Effect, Feeds, Pass, PassContext, PassResult
from ..debug_counter import DebugCounter
from ..judge import Judge, divided, require_held_out
from ..profit import named, slower_layers
from ..quantization.calibrate import first_batches_of
from ..quantization.layers import rounded_layers
from .allocation import Choices, Cut, allocate, most_saved, price
from .inputs import count_rows, observe_inputs
from .layer import LEAST_GAIN, Layer
from .matrix import bias_place, read_matrix, read_table
from .metrics import weight_metrics

_NO_LAYER = "no layer that may be split multiplies by a constant matrix"
_ENERGY = 0.95
"""The energy that is kept where there are no data to say more."""
_RANKED_ON = 512
"""Samples that gradients are drawn for."""
_TRIALS = 32
"""Into how many equal shares of the operations a bound on the outputs is searched."""
_LEAST_SAVED = 0.01
"""The share of the model's operations or parameters for which it is worth it to have more layers."""


@dataclass(frozen=True)
class Factorization(Pass):
    """Split linear layers and convolutions into two by a truncated singular value decomposition.

    A convolution without groups is split where that loses least for what it saves: into one with its kernel and a 1x1
    convolution (Zhang et al., PAMI 2016), into one along each spatial axis (Jaderberg et al., BMVC 2014), or into a 1x1
    convolution and one with its kernel.

    With calibration data the error is weighed by what the layer reads, so that the least of its output is lost, not of
    its weight (Chen et al., "DRONE", NeurIPS 2021; Wang et al., "SVD-LLM", ICLR 2025), and by how much that matters to
    the model's outputs (see `weight_metrics`). Only what varies counts: the mean of what is lost goes into the
    bias, where there can be one.

    With calibration data and none of `energy`, `rank`, `ratio`, `flops` and `parameters`, as much is removed as
    possible while the outputs stay within `max_drop` on held-out batches.

    Attributes:
        energy: the share to keep of the variance of each layer's output on held-out batches, or without data of its
            squared singular values; it sets the layer's rank. 0 leaves ranks to the other options; without data and any
            of these, it stands for 0.95.
        rank: the same rank for every layer instead; convolutions keep their kernels, and 1x1 ones follow. 0 leaves
            ranks to the other options.
        ratio: the share of each layer's multiply-adds to remove instead; 0 leaves ranks to the other options.
        flops: the share of the model's operations to remove instead, where the outputs lose the least; 0 leaves ranks
            to the other options.
        parameters: the share of the model's parameters to remove instead, embeddings among them, where the outputs lose
            the least; 0 leaves ranks to the other options. With `flops`, both shares are removed.
        max_drop: the most that may be lost on held-out batches. Where the calibration data have labels, it is the drop
            of the metric, in hundredths of its own scale. Where they have none, it is the loss of the output that loses
            most, in percent: for classes the share of rows whose largest element is elsewhere than before, for other
            outputs 100 (1 - cosine) of what varies among samples, and for a sigmoid's numbers also 100 (1 - F1) of
            those beyond a half.

    Where the backend can be timed, layers that would take longer in two stay whole. With `flops` or `parameters`, other
    ways to split them are tried first, and other layers give more instead. Embeddings are narrowed for their size
    alone.
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
    required: bool = True

    def require(self, context: PassContext) -> None:
        if (self.flops or self.parameters) and not context.calibration:
            goal = "flops" if self.flops else "parameters"
            raise UsageError(
                f"{self.name}{{{goal}=...}} needs calibration data to find the layers that matter least to the "
                f"outputs: give some, or {self.name}{{ratio=...}}, which takes as much from every layer"
            )
        if not (self.energy or self.rank or self.ratio or self.flops or self.parameters):
            require_held_out(self.name, "flops=0.3", context)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        self.require(context)
        fitted, held_out, labelled = divided(context)
        layers, misses = self._layers(graph, fitted, context)
        notes: Sequence[str] = ()
        if self.rank:
            cuts = {layer.node: layer.plain(self.rank) for layer in layers}
        elif self.ratio:
            cuts = {layer.node: layer.cheapest(1 - self.ratio) for layer in layers}
        elif self.flops or self.parameters:
            cuts, notes = self._for_budget(graph, layers, context)
        elif self.energy or not held_out:
            unseen = observe_inputs(graph, [layer.node for layer in layers], held_out, context)
            share = 1 - (self.energy or _ENERGY)
            cuts = {layer.node: layer.within(share, unseen.get(layer.node)) for layer in layers}
        else:
            judge = Judge(graph, held_out, labelled)
            judge.require_rows(self.name, "flops=0.3")
            cuts, notes = self._within(graph, context, layers, judge), judge.doubts(self.max_drop)
        slow: dict[Node, str] = {}
        while slower := self._slower(graph, context, layers, cuts):
            slow |= slower
            if self.rank or self.ratio or not (self.flops or self.parameters):
                layers = [layer for layer in layers if layer.node not in slower]
                break
            ways = [layer.without(cuts[layer.node].form) if layer.node in slower else layer for layer in layers]
            layers = [layer for layer in ways if layer.parts]
            cuts, notes = self._for_budget(graph, layers, context)  # other ways, or other layers, give more instead
        found, left = self._split(graph, context, layers, cuts), {layer.node for layer in layers}
        misses += [why for node, why in slow.items() if node not in left]
        return PassResult(found.counts, [*found.misses, *misses], notes)

    def _layers(self, graph: Graph, fitted: Sequence[Feeds], context: PassContext) -> tuple[list[Layer], list[str]]:
        """The layers that may be split, and why others may not."""
        chosen = [node for node in graph.nodes if context.selects(node)]
        matrices = {node: matrix for node in chosen if (matrix := read_matrix(node)) is not None}
        tables: dict[Node, np.ndarray] = {}
        if self.parameters:  # the other goals make a model faster, which narrow tables don't
            tables = {node: table for node in chosen if (table := read_table(node)) is not None}
        if not matrices and not tables:
            return [], rounded_layers(graph, context) or [_NO_LAYER]
        few = [] if self.energy else first_batches_of(fitted, _RANKED_ON)
        inputs = observe_inputs(graph, list(matrices), few or fitted, context, widest=0 if few else None)
        inputs |= count_rows(graph, list(tables), fitted, context)
        shifts = {node: it.mean * (bias_place(node) is not None) for node, it in inputs.items()}
        metrics = weight_metrics(graph, shifts, few, context)
        unranked = [node for node in inputs if node not in metrics and node in matrices]
        inputs |= observe_inputs(graph, unranked if few else [], fitted, context)
        matrices |= tables
        layers = [
            Layer.of(node, matrix, inputs.get(node), metrics.get(node), context.sizes)
            for node, matrix in matrices.items()
            if node in inputs or not fitted
        ]
        misses = [
            f"{node.location}: its input in the calibration data is empty, or not finite"
            for node in matrices
            if fitted and node not in inputs
        ]
        return layers, misses

    def _for_budget(
        self, graph: Graph, layers: Sequence[Layer], context: PassContext
    ) -> tuple[dict[Node, Cut], list[str]]:
        """The cuts that save the shares of the model that were asked for, and notes where less can be saved."""
        cost, notes = summarize(graph, context.sizes), list[str]()
        choices = {layer.node: layer.choices(None) for layer in layers}
        if self.flops:
            faster = {layer.node: layer.choices(_flops(layer, context)) for layer in layers}
            notes += _short(faster, self.flops, cost.flops, "operations")
            if not self.parameters:
                return allocate(faster, self.flops * cost.flops), notes
            worth = price(faster, self.flops * cost.flops)
            choices = {node: replace(it, losses=it.losses - worth * faster[node].saved) for node, it in choices.items()}
        notes += _short(choices, self.parameters, cost.parameters, "parameters")
        return allocate(choices, self.parameters * cost.parameters), notes

    def _slower(
        self, graph: Graph, context: PassContext, layers: Sequence[Layer], cuts: Mapping[Node, Cut]
    ) -> dict[Node, str]:
        """A sentence for each layer that takes longer in two; tables are narrowed for their size alone."""
        if context.profile is None or not context.profile_decides:
            return {}
        whole, copy = named(graph), named(graph)
        moved, moved_cuts = _moved(graph, copy, layers, cuts)
        if not self._split(copy, replace(context, counter=DebugCounter()), moved, moved_cuts).changed:
            return {}
        slow = slower_layers(context.profile, whole, copy)
        names = {node: node.outputs[0].name for node in cuts if node.operator != "Gather"}
        return {
            node: f"{node.location}: as two layers of rank {cuts[node].rank} it would take {slow[name]}"
            for node, name in names.items()
            if name in slow
        }

    def _within(self, graph: Graph, context: PassContext, layers: Sequence[Layer], judge: Judge) -> dict[Node, Cut]:
        """The cuts that save the most operations while the outputs stay within bounds."""
        scratch = replace(context, counter=DebugCounter())
        choices = {layer.node: layer.choices(_flops(layer, context)) for layer in layers}

        def split(cuts: Mapping[Node, Cut]) -> Graph:
            copy = graph.clone()
            self._split(copy, scratch, *_moved(graph, copy, layers, cuts))
            return copy

        def search(most: float) -> dict[Node, Cut]:
            found: dict[Node, Cut] = {}
            low, high = 0, _TRIALS if layers else 0
            while low < high:
                tried = (low + high + 1) // 2
                context.progress("factorize: judging", tried, _TRIALS)
                cuts = allocate(choices, most * tried / _TRIALS)
                if judge.drop(partial(split, cuts), context) <= self.max_drop:
                    found, low = cuts, tried
                else:
                    high = tried - 1
            return found

        most = most_saved(choices)
        found = search(most) or search(most / _TRIALS)  # what large layers don't give, a small one may
        before, after = (summarize(it, context.sizes) for it in (graph, split(found)))
        pairs = ((before.flops, after.flops), (before.parameters, after.parameters))
        return found if any(left <= (1 - _LEAST_SAVED) * whole for whole, left in pairs) else {}

    def _split(
        self, graph: Graph, context: PassContext, layers: Sequence[Layer], cuts: Mapping[Node, Cut]
    ) -> PassResult:
        misses: list[str] = []
        count, least = 0, 1 if self.rank or self.ratio else 1 - LEAST_GAIN
        for done, layer in enumerate(layers):
            context.progress(self.name, done, len(layers))
            cut = cuts.get(layer.node)
            if cut is None:
                misses.append(f"{layer.node.location}: it stays whole, since {self._why()}")
            elif cut.rank >= (most := least * layer.most(cut.form)):
                rows, columns = layer.parts[cut.form].shape
                misses.append(
                    f"{layer.node.location}: rank {cut.rank} of its {rows} x {columns} weight saves no time: "
                    f"only ranks below {ceil(most)} do"
                )
            elif context.applies("split", layer.node):
                layer.split(graph, cut)
                count += 1
        return PassResult({self.name: count}, misses)

    def _why(self) -> str:
        if self.flops or self.parameters:
            return "other layers save what was asked for at less loss"
        bound, least = f"no rank keeps the outputs within {self.max_drop:g} %", f"{100 * _LEAST_SAVED:g} %"
        return f"{bound}, other layers save more for that loss, or all layers would save less than {least} of the model"


def _flops(layer: Layer, context: PassContext) -> int:
    return flops(layer.node, context.sizes)


def _short(choices: Mapping[Node, Choices], wanted: float, whole: int, what: str) -> list[str]:
    """A note, where less can be saved than the share that is wanted."""
    most = most_saved(choices) / max(whole, 1)
    return [f"no more than {100 * most:.0f} % of the {what} can be removed"] if most < wanted else []


def _moved(
    graph: Graph, copy: Graph, layers: Sequence[Layer], cuts: Mapping[Node, Cut]
) -> tuple[list[Layer], dict[Node, Cut]]:
    """The layers and cuts of a graph's copy, from those of the graph."""
    twins = dict(zip(graph.nodes, copy.nodes, strict=True))
    return [replace(layer, node=twins[layer.node]) for layer in layers], {twins[it]: cut for it, cut in cuts.items()}
