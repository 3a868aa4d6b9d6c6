"""Quantization to int8 of as many layers as accuracy bears: the fastest mix of integers and floats within a bound."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Le

from ...ir.errors import UsageError
from ...ir.graph import Constant, Graph, Node
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ...targets import Int8
from ..base import Effect, Feeds, Pass, PassContext, PassResult, Profile, Profiler
from ..debug_counter import DebugCounter
from ..judge import Judge, Verdict, divided
from ..profit import named
from ..quantization.calibrate import first_batches, first_batches_of
from ..quantization.image_means import pool_image_means
from ..quantization.quantize import Quantize, static_layers
from ..quantization.rounding import Losses, Rounding, name_of
from ..quantization.times import Times, element_counts
from ..selection import Selection
from ..units import show_seconds
from .search import Choice, Search
from .sensitivity import Sensitivities, estimate, find_sensitivities

_RANKED_ON = 32
"""Samples that layers are ranked on."""
_OFF = 0.1
"""The share by which a prediction may be off before boundaries are given another cost."""


@dataclass(frozen=True)
class MixedQuantization(Pass):
    """Compute as many layers in int8 as keep the model within a bound, so that it is as fast as possible.

    One pass over the data ranks layers by what their rounding adds to the loss; a few are measured one by one, and all
    where the two disagree. The model is timed in float and in int8 on the chosen backend, operator by operator, in
    place. An integer program takes the fastest mix within a budget of loss, and the mix is judged on batches that
    calibration has not seen; the budget is narrowed or widened by what they say (Dong et al., "HAWQ-V3: Dyadic Neural
    Network Quantization", ICML 2021). Layers that stay in float are named, with what they cost.

    Attributes:
        max_drop: the largest drop that is allowed. Where the calibration data have labels, it is in hundredths of the
            metric's own scale. Without labels, it is in percent: for an output of classes (what a softmax gives, or a
            linear layer in two dimensions), the share of rows whose largest element is elsewhere than the float
            model's; for other outputs, 100 (1 - cosine) with the float model's, of what varies among samples; for a
            sigmoid's numbers also 100 (1 - F1) of those beyond a half. The output that loses most counts.
        samples: the number of calibration samples that ranges are fixed by. The batches behind them judge; where these
            are fewer than a quarter, every fourth batch judges instead, and is left out of calibration.
        checks: the number of layers whose sensitivity is measured.
        attempts: the most choices of layers that are built and judged.
    """

    name: ClassVar[str] = "quantize-mixed"
    effect: ClassVar[Effect] = Effect.LOSSY
    destroys: ClassVar[frozenset[str]] = frozenset({"float"})
    after: ClassVar[tuple[str, ...]] = ("fold-constants", "fuse-batch-norm")
    max_drop: Annotated[float, Gt(0), Le(100)] = 0.5
    samples: Annotated[int, Ge(1)] = 128
    checks: Annotated[int, Ge(3)] = 6
    attempts: Annotated[int, Ge(1)] = 8

    required: bool = field(default=True, kw_only=True)

    def require(self, context: PassContext) -> None:
        if context.target.int8 is None:
            return
        first_batches(context, 1)
        if context.profile is None:
            raise UsageError(
                f"{self.name} needs the latency of each layer, which only ONNX Runtime reports, for the machine at "
                "hand: say `backend: onnxruntime` in the recipe, --lower-to onnxruntime, or backend='onnxruntime' from "
                "Python"
            )

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        self.require(context)
        int8, profile = context.target.int8, context.profile
        if int8 is None or profile is None:
            return PassResult(misses=[context.target.lacks_int8])
        mixing = _Mixing(self, graph, context, int8)
        if not mixing.layers:
            return PassResult(misses=mixing.misses)
        return mixing.run(graph, profile)


class _Mixing:
    """One run of the pass.

    Attributes:
        layers: the layers that may be quantized.
        misses: a sentence for each other layer, saying why it can't be.
    """

    def __init__(self, options: MixedQuantization, graph: Graph, context: PassContext, int8: Int8) -> None:
        self._options, self._context, self._int8 = options, context, int8
        self._operators = int8.profitable_operators(static=True)
        enough = len(first_batches_of(context.calibration, options.samples))
        self._fit, held_out, labelled = divided(context, enough)
        self._is_metric = labelled is not None
        self._unselected = {value.name for node in graph.nodes if not context.selects(node) for value in node.outputs}
        pooled = graph.clone()
        pool_image_means(pooled, self._operators)
        self._places = {name_of(node): node.location for node in pooled.nodes}
        self._source = named(pooled)
        selected = static_layers(pooled, self._operators, self._scratch(self._unselected))
        self.layers, self.misses = selected.layers, selected.misses
        self._everything = frozenset(name_of(layer.node) for layer in self.layers)
        self._judge = Judge(self._source, held_out, labelled)
        self._known: dict[frozenset[str], _Draft] = {}

    def run(self, graph: Graph, profile: Profiler) -> PassResult:
        """Choose, and quantize the graph in place."""
        self._bar_what_is_stored()
        everything = self._draft(self._everything)
        whole, full = everything.graph, everything.verdict
        rounding, batches = self._rounding()
        in_float, in_int8 = profile([self._source, whole])
        times = Times.of(rounding, element_counts(rounding.graph, self._fit[0]), in_float, in_int8)
        sensitivities = self._sensitivities(rounding, batches)
        search = Search(
            times,
            sensitivities.losses,
            lambda chosen: self._draft(chosen).verdict,
            self._options.max_drop,
            self._options.attempts,
            self._context,
        )
        order = 2 if self._judge.rows else 1
        choice = search.run(order)
        if choice is None or not choice.layers:
            return PassResult(misses=[*self.misses, search.obstacle(full)])
        choice, measured = self._fastest(choice, search, profile)
        if full.drop <= self._options.max_drop and _ratio(measured[2], measured[1]) > 1:
            choice = replace(choice, layers=self._everything, seconds=times.whole, verdict=full)
            measured = [*measured[:2], measured[1]]
        if _ratio(measured[2], measured[0]) >= 1:
            floats, mix = (show_seconds(measured[place].seconds) for place in (0, 2))
            reason = f"float alone takes {floats}, and the fastest mix of int8 and float takes {mix}"
            return PassResult(misses=[*self.misses, reason])
        counts = self._quantized(graph, choice.layers)
        left = self._everything - choice.layers
        islands = [self._island(name, times, sensitivities.losses) for name in self._places if name in left]
        notes = [self._lost(choice, full), str(sensitivities), _compared(choice.seconds / times.whole, *measured)]
        return PassResult(
            {**counts, "float": len(left)},
            [*islands, *self.misses],
            [*notes, *self._judge.doubts(self._options.max_drop)],
        )

    def _bar_what_is_stored(self) -> None:
        """Leave recurrent layers and tables, which aren't chosen one by one, in float if they alone lose too much."""
        stored = [node for node in self._source.nodes if _is_stored(node) and name_of(node) not in self._unselected]
        if not stored:
            return
        drop = self._draft(frozenset()).verdict.drop
        if drop <= self._options.max_drop:
            return
        self._known.clear()
        self._unselected |= {value.name for node in stored for value in node.outputs}
        self.misses = [
            *self.misses,
            *(
                f"{self._places[name_of(node)]}: {node.operator} stays in float: in int8, recurrent layers and tables "
                f"alone would lose {drop:.3g} %"
                for node in stored
            ),
        ]

    # -- making and measuring

    def _fastest(self, choice: Choice, search: Search, profile: Profiler) -> tuple[Choice, Sequence[Profile]]:
        """A choice, or a faster one if its time was mispredicted, with the profiles of float, int8 and that choice."""
        measured = self._measure(choice.layers, profile)
        whole = search.times.whole
        found = measured[2].seconds * whole / measured[1].seconds  # at the machine's speed when times were predicted
        other = search.again(choice, found) if abs(choice.seconds / found - 1) > _OFF else None
        if other is None:
            return choice, measured
        again = self._measure(other.layers, profile)
        return (other, again) if again[2].seconds < measured[2].seconds else (choice, measured)

    @property
    def _quantize(self) -> Quantize:
        return Quantize(samples=self._options.samples, if_slower="keep", required=False)

    def _draft(self, chosen: frozenset[str]) -> "_Draft":
        """The graph with the chosen layers quantized, and what its outputs lose."""
        if chosen not in self._known:
            graph = self._source.clone()
            context = self._scratch(self._unselected | (self._everything - chosen))
            counts = self._quantize.run(graph, replace(context, calibration=self._fit)).counts
            self._known[chosen] = _Draft(graph, self._judge.judge(graph), counts, context.counter.count)
        return self._known[chosen]

    def _quantized(self, graph: Graph, chosen: frozenset[str]) -> Mapping[str, int]:
        """Quantize the chosen layers of a graph in place: it becomes their draft, unless rewrites have a limit."""
        counter, draft = self._context.counter, self._draft(chosen)
        if counter.limit is None:
            graph.become(draft.graph)
            for node in graph.nodes:
                node.location = self._places.get(node.location.module, node.location)
            counter.count += draft.rewrites
            return draft.counts
        selection = self._context.selection.without(self._unselected | (self._everything - chosen))
        return self._quantize.run(graph, replace(self._context, calibration=self._fit, selection=selection)).counts

    def _rounding(self) -> tuple[Rounding, Sequence[Feeds]]:
        """The prepared graph before its rounding, and the batches that layers are ranked on."""
        graph = self._source.clone()
        context = self._scratch(self._unselected)
        batches = first_batches(replace(context, calibration=self._fit), _RANKED_ON)
        quantize = replace(self._quantize, samples=_RANKED_ON, gptq=False)  # only drafts are rounded by GPTQ
        layers = static_layers(graph, self._operators, context).layers
        context = replace(context, calibration=batches)
        prepared = quantize.prepare(graph, layers, self._int8, self._operators, context)
        return prepared.rounding(graph, self._operators, self._int8), batches

    def _sensitivities(self, rounding: Rounding, batches: Sequence[Feeds]) -> Sensitivities:
        near = Judge(rounding.graph, batches)
        losses = estimate(rounding, near.measures, batches, self._context)

        def measured(name: str) -> float:
            found = self._context.remember(lambda: [np.array(near.judge(rounding.quantized({name})).loss)])
            return float(found[0])

        return find_sensitivities(rounding, losses, measured, self._options.checks, self._context)

    def _scratch(self, barred: AbstractSet[str]) -> PassContext:
        """A context for graphs that are only made to be judged and timed, whose rewrites are counted apart."""
        counter = DebugCounter(last=self._context.counter.last)
        return replace(self._context, selection=Selection(barred=frozenset(barred)), counter=counter)

    def _measure(self, chosen: frozenset[str], profile: Profiler) -> Sequence[Profile]:
        """Time the float model, the int8 model and a choice in turn; a choice of all layers is the int8 model."""
        graphs = [self._source, self._draft(self._everything).graph, self._draft(chosen).graph]
        measured = profile(graphs[: 2 if chosen == self._everything else 3], by_layer=False)
        return [*measured[:2], measured[-1]]

    # -- telling

    def _island(self, name: str, times: Times, losses: Losses) -> str:
        rounding = times.rounding
        share = losses.of(rounding.plan({name}), {name}) / (
            losses.of(rounding.plan(self._everything), self._everything) or 1
        )
        cost = show_seconds(max(times.cost(name), 0.0))
        operator = rounding.layers[name].node.operator
        return (
            f"{self._places[name]}: {operator} stays in float, which costs {cost}: in int8, it alone would lose "
            f"{100 * share:.1f} % of what all layers in int8 lose"
        )

    def _lost(self, choice: Choice, full: Verdict) -> str:
        rows = self._judge.rows
        what = "of the metric's scale are lost" if self._is_metric else "is 1 - cosine with float's outputs"
        what = f"of {rows} rows choose another class than float" if rows else what
        if rows:
            low, high = _interval(round(choice.verdict.drop * rows / 100), rows)
            what += f" (95 % between {100 * low:.2g} and {100 * high:.2g} %)"
        mixed, whole = (f"{round(it.drop, 3):.3g} %" for it in (choice.verdict, full))
        return (
            f"{len(choice.layers)} of {len(self.layers)} layers in int8: {mixed} {what}, and {whole} with all of them; "
            f"{self._options.max_drop:g} % was allowed"
        )


def _is_stored(node: Node) -> bool:
    """Whether a node, recurrent or a lookup, has its weights stored in integers whatever layers are chosen."""
    is_lookup = node.operator == "Gather" and isinstance(node.inputs[0], Constant) and node.operand(0).dtype.is_float
    return is_lookup or has_trait(node.operator, Trait.RECURRENT)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A graph with some layers quantized, whose nodes have the names of their first outputs for modules.

    Attributes:
        graph: the graph after quantization.
        verdict: what its outputs lose.
        counts: how often each rewrite was applied, by its name.
        rewrites: the number of all rewrites that were granted.
    """

    graph: Graph
    verdict: Verdict
    counts: Mapping[str, int]
    rewrites: int


def _interval(count: int, rows: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share that holds for `count` of some rows (Wilson, 1927)."""
    from scipy import stats

    low, high = stats.binomtest(count, rows).proportion_ci(method="wilson")
    return float(low), float(high)


def _ratio(one: Profile, other: Profile) -> float:
    """How many times as long one model takes as another that was timed in turn with it."""
    return float(np.median(one.rounds / other.rounds))


def _compared(predicted: float, in_float: Profile, in_int8: Profile, mix: Profile) -> str:
    int8, mixed, ratio = _ratio(in_float, in_int8), _ratio(in_float, mix), _ratio(mix, in_int8)
    return (
        f"float takes {show_seconds(in_float.seconds)}, int8 {show_seconds(in_int8.seconds)} ({int8:.2f}x as fast), "
        f"and the mix {show_seconds(mix.seconds)} ({mixed:.2f}x as fast): {ratio:.3f} times int8's latency, where "
        f"{predicted:.3f} was predicted"
    )
