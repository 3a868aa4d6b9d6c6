"""Structured pruning: whole channels are removed from all that computes and reads them, for a smaller dense model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import floor, gcd
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Interval, Unit

from ...ir.errors import UsageError
from ...ir.graph import Graph
from ..base import Effect, Feeds, Labelled, Pass, PassContext, PassResult
from ..debug_counter import DebugCounter
from ..judge import Judge, divided, require_held_out, split
from ..pipeline import format_pass
from ..quantization.calibrate import first_batches_of
from ..quantization.layers import NO_LAYER, rounded_layers
from .allocation import Candidate, Counts, Operations, Savings, Stage, allocate, evenly
from .comparison import compared, enough_to_draft, enough_to_fit
from .importance import Importance, rank
from .ratios import Ratios
from .repair import repair
from .scores import unscaled
from .shrink import moved, shrink, without
from .speedup import Clock, Trial, hunt

if TYPE_CHECKING:  # networkx and scipy come with it, which listing the passes must not import
    from ...ir.analysis.channels import ChannelGroup

_JUDGED_ON = 512
"""Held-out samples on which orders of removal are compared, where no bound has to be kept."""
_TRIALS = 32
"""Into how many equal shares of the operations a bound on the outputs is searched."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is removed.

    Attributes:
        removals: the groups, and which of their channels go.
        misses: why the channels of other groups stay.
        notes: what was measured.
        fitted: the batches that the layers which are left are fitted to.
    """

    removals: "Sequence[tuple[ChannelGroup, np.ndarray]]"
    misses: Sequence[str]
    notes: Sequence[str]
    fitted: Sequence[Feeds]


@dataclass(frozen=True)
class ChannelPruning(Pass):
    """Remove the least important channels of groups that stand or fall together, weights and activations alike.

    With calibration data, channels go whose loss the others can make up for (Kurtic et al., "ZipLM", NeurIPS 2023), and
    all layers that notice are fitted to what they computed before by least squares, the mean of what is gone being
    moved into their biases (He et al., "Channel Pruning", ICCV 2017). Without, those go whose filters have the least
    norm, times the scale of a batch norm behind them (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017).
    Groups are found as in Fang et al., "DepGraph", CVPR 2023.

    Normalizations and means over channels that are removed become those over the channels that are left.

    How much each group gives for a budget depends on what the model loses without some channels of that group alone:
    in small models this is measured on some of the data, in others it is estimated. Where equal shares of all groups
    lose less on held-out batches, these are removed instead.

    With none of `ratio`, `ratios`, `flops` and `speedup`, as much is removed as possible while the outputs stay within
    `max_drop` on held-out batches.

    Attributes:
        ratio: the share of each group's channels to remove; 0 leaves the amount to the other options.
        ratios: shares of the groups that some layers compute, as `stem*:0.25`; the first that matches counts, and all
            other groups give `ratio`.
        flops: the share of the model's operations to remove instead, with the channels that lose least for it; 0 leaves
            the amount to the other options.
        speedup: how many times as fast the model becomes instead, for one sample on the backend that it is built for.
            Layers are timed at several widths of each group, and the channels go that lose least for the time that they
            save; then the whole model is timed, and the allocation corrected until it is as fast within 5 %, or faster
            where that loses less on calibration data. 0 leaves the amount to the other options.
        max_drop: the most that may be lost on held-out batches. Where the calibration data have labels, it is the drop
            of the metric, in hundredths of its own scale. Where they have none, it is the loss of the output that loses
            most, in percent: for classes the share of rows whose largest element is elsewhere than before, for other
            outputs 100 (1 - cosine) of what varies among samples, and for a sigmoid's numbers also 100 (1 - F1) of
            those beyond a half.
        importance: what channels are ranked by. `loss` estimates what is lost without them. `l1` and `l2` are the norms
            of their filters, `fpgm` is the distance of their filters to the layer's others, `bn-scale` the scale of
            their batch norms, `taylor` the square of gradient times activation, and `wanda` the norm of what is read of
            them, times the weights that it is multiplied by. `auto` is `loss` with calibration data and `l1` without.
        round_to: the number that the channels left in a group are a multiple of, as suits vector units; in a group of
            fewer than eight times as many channels it is halved until it is at most an eighth of them.
        strict: whether `round_to` holds in groups of few channels, too: a convolution in ONNX Runtime takes up to twice
            as long if its channels are no multiple of the floats in a vector, 16 with AVX-512 and 8 with AVX2.
        repair: whether layers are fitted to what they computed before, where there are calibration data.
    """

    name: ClassVar[str] = "prune-channels"
    effect: ClassVar[Effect] = Effect.LOSSY
    needs: ClassVar[frozenset[str]] = frozenset({"float"})
    after: ClassVar[tuple[str, ...]] = ("fold-constants",)
    max_drift: ClassVar[float] = 10.0  # half of an untuned network's channels may be more than all of its output

    ratio: Annotated[float, Interval(ge=0, lt=1), Unit("1")] = 0.0
    ratios: tuple[str, ...] = ()
    flops: Annotated[float, Interval(ge=0, lt=1), Unit("1")] = 0.0
    speedup: Annotated[float, Ge(0)] = 0.0
    max_drop: Annotated[float, Interval(gt=0, le=100), Unit("%")] = 1.0
    importance: Importance = "auto"
    round_to: Annotated[int, Ge(1)] = 8
    strict: bool = False
    repair: bool = True
    required: bool = True

    def require(self, context: PassContext) -> None:
        if 0 < self.speedup <= 1:
            raise UsageError(f"{self.name}{{speedup={self.speedup:g}}} would be no faster: give more than 1")
        if self.speedup and context.timing is None:
            raise UsageError(
                f"{self.name}{{speedup=...}} measures the model on the backend that it is built for, on the machine at "
                "hand: say `backend:` in the recipe, --lower-to BACKEND, or backend=... from Python"
            )
        is_open = not (self._ratios.are_given or self.flops or self.speedup)
        if context.calibration:
            if is_open:
                require_held_out(self.name, "ratio=0.3", context)
            return
        if self.importance in ("loss", "taylor", "wanda"):
            raise UsageError(
                f"{self.name}{{importance={self.importance}}} needs calibration data; l1, l2, fpgm and bn-scale need "
                "none"
            )
        if is_open:
            raise UsageError(
                f"how much {self.name} may remove is not known: give calibration data, by which it keeps the outputs "
                "within max_drop, or say how much, as in prune-channels{ratio=0.3}, {flops=0.5} or {speedup=1.5}"
            )

    def doubts(self, graph: Graph, context: PassContext) -> list[str]:
        return [*super().doubts(graph, context), *self._ratios.doubts(graph)]

    def foresee(self, graph: Graph, context: PassContext) -> PassResult:
        chosen, misses = self._choose(graph, context)
        return PassResult({"groups": len(chosen)}, misses)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        plan = self.plan(graph, context)
        fits = self._remove(graph, plan.removals, plan.fitted, context) if plan.removals else 0
        channels = sum(len(channels) for _, channels in plan.removals)
        return PassResult({"groups": len(plan.removals), "channels": channels, "fits": fits}, plan.misses, plan.notes)

    def plan(self, graph: Graph, context: PassContext) -> "Plan":
        """Choose what is removed, and change nothing yet."""
        self.require(context)
        batches, held_out, labelled = divided(context)
        fitted = enough_to_fit(graph, batches)
        chosen, misses = self._choose(graph, context)
        ratios = self._ratios
        clock = None if ratios.are_given or not self.speedup or not chosen else self._clock(graph, chosen, context)
        candidates = self._ranked(graph, chosen, fitted, context)
        notes: list[str] = []
        if ratios.are_given:
            counts = ratios.counts(candidates)
        else:
            prune = partial(self._pruned, graph, candidates, context)
            exact = None
            if fitted and len(candidates) > 1:
                exact = compared(graph, candidates, fitted, prune, context, self._at_any_amount(context))
            candidates = exact or candidates
            judge = self._judge(graph, held_out, labelled)

            def savings() -> Savings:
                return Operations(graph, candidates, context.sizes) if clock is None else clock.latencies.anew()

            ways = [allocate(candidates, savings())]
            if judge is not None and judge.measures and len(candidates) > 1:
                ways.append(evenly(candidates, savings()))
            trials = [] if clock is None else hunt(self.speedup, candidates, clock, ways, is_exact=exact is not None)
            few = enough_to_draft(graph, fitted)
            draft = partial(prune, batches=few, is_draft=len(few) < len(fitted))
            if self.flops or self.speedup:
                counts = self._asked_for(ways, trials, judge, draft, context, notes)
            else:
                assert judge is not None
                notes += judge.doubts(self.max_drop)
                whole = partial(prune, batches=fitted) if len(few) < len(fitted) else None
                counts = self._within(ways, judge, draft, whole, context)
        removals: list[tuple[ChannelGroup, np.ndarray]] = []
        left: list[str] = []
        for number, candidate in enumerate(candidates):
            group = candidate.group
            if not counts.get(number):
                left.append(f"{_layers(group)}: the {group.size} channels stay, {self._why(candidate)}")
            elif context.applies("prune", *(node for node, _ in group.producers)):
                removals.append((group, candidate.ranking.order[: counts[number]]))
        return Plan(removals, [*left, *misses], notes, fitted)

    # -- which

    def _choose(self, graph: Graph, context: PassContext) -> tuple[list["ChannelGroup"], list[str]]:
        """The groups that may lose channels, and why others may not."""
        from ...ir.analysis.channels import channel_groups

        chosen: list[ChannelGroup] = []
        misses: list[str] = []
        for group in channel_groups(graph):
            if group.size == 1 or not _is_chosen(group, context):
                continue
            reason = group.frozen or (self.importance == "bn-scale" and unscaled(group))
            if reason:
                misses.append(f"{_layers(group)}: the {group.size} channels stay, because {reason}")
            else:
                chosen.append(group)
        misses += rounded_layers(graph, context)
        return chosen, misses if chosen or misses else [NO_LAYER]

    def _clock(self, graph: Graph, groups: Sequence["ChannelGroup"], context: PassContext) -> Clock:
        """The clock that measures speed-ups; an error if the one that was asked for can't be reached."""
        assert context.timing is not None
        clock = Clock(graph, groups, [self._step(group) for group in groups], context.timing, context)
        clock.refuse(self.speedup)
        return clock

    def _ranked(
        self, graph: Graph, groups: Sequence["ChannelGroup"], fitted: Sequence[Feeds], context: PassContext
    ) -> list[Candidate]:
        rankings = rank(graph, groups, self.importance, fitted, context, self._at_any_amount(context))
        return [Candidate(group, ranking, self._step(group)) for group, ranking in zip(groups, rankings, strict=True)]

    def _at_any_amount(self, context: PassContext) -> str:
        """The options that rankings depend on, as text: all but those that say how much is removed."""
        same = replace(self, ratio=0.0, ratios=(), flops=0.0, speedup=0.0, max_drop=100.0)
        return f"{format_pass(same)} of {context.selection.rows} but {sorted(context.selection.barred)}"

    # -- how many

    def _step(self, group: "ChannelGroup") -> int:
        """The number that the channels left in a group are a multiple of; each may be several rows of a weight."""
        rows = gcd(*(member.indices.shape[1] for _, member in (*group.producers, *group.consumers)))
        step = self.round_to // gcd(self.round_to, rows)
        while not self.strict and step > max(group.size / 8, 1):
            step = step // 2 if step % 2 == 0 else 1
        return step

    @property
    def _ratios(self) -> Ratios:
        return Ratios.read(self.ratios, self.ratio)

    def _why(self, candidate: Candidate) -> str:
        if self._ratios.are_given:
            return self._ratios.why_none(candidate)
        if self.flops or self.speedup:
            return "because other layers lose less for what they save"
        bound = f"fewer would lose more than {self.max_drop:g} % on held-out data"
        return f"because {bound}, or other layers lose less for what they save"

    def _judge(self, graph: Graph, held_out: Sequence[Feeds], labelled: Labelled | None) -> Judge | None:
        """The judge of what is lost; None without data. It takes some of them where no bound has to be kept."""
        if not held_out:
            return None
        if self.flops or self.speedup:
            return Judge(graph, first_batches_of(held_out, _JUDGED_ON))
        judge = Judge(graph, held_out, labelled)
        judge.require_rows(self.name, "ratio=0.3")
        return judge

    def _asked_for(
        self,
        ways: Sequence[Sequence[Stage]],
        trials: Sequence[Trial],
        judge: Judge | None,
        prune: Callable[[Counts], Graph],
        context: PassContext,
        notes: list[str],
    ) -> Counts:
        """How many channels of each group go, by the order of removal in which the amount asked for loses least."""
        if trials:
            found = trials[_least([trial.counts for trial in trials], judge, prune, context)]
            notes.append(str(found))
            return found.counts
        if ways[0] and ways[0][-1].saved < self.flops:
            notes.append(f"no more than {100 * ways[0][-1].saved:.0f} % of the operations can be removed")
        choices = [_taken(way, self.flops) for way in ways]
        return choices[_least(choices, judge, prune, context)]

    def _within(
        self,
        ways: Sequence[Sequence[Stage]],
        judge: Judge,
        draft: Callable[[Counts], Graph],
        whole: Callable[[Counts], Graph] | None,
        context: PassContext,
    ) -> Counts:
        """How many channels of each group go to save the most operations while the outputs stay within bounds.

        Args:
            ways: the orders of removal, each as its stages.
            judge: judges the outputs of graphs.
            draft: makes a graph without some channels quickly, to search with.
            whole: makes such a graph as it will be in the end; None where a draft is that already.
            context: the context that progress is reported to.
        """
        best, low = ways[0], 0
        for way in ways:
            high = floor(way[-1].saved * _TRIALS) if way else 0
            first = low + 1 if low else None  # what was found is to be beaten before anything else
            while low < high:
                tried = first or (low + high + 1) // 2
                first = None
                context.progress(f"{self.name}: judging", tried, _TRIALS)
                if judge.drop(partial(draft, _taken(way, tried / _TRIALS)), context) <= self.max_drop:
                    best, low = way, tried
                else:
                    high = tried - 1
        while whole and low and judge.drop(partial(whole, _taken(best, low / _TRIALS)), context) > self.max_drop:
            low -= 1
        return _taken(best, low / _TRIALS) if low else Counts()

    # -- doing it

    def _pruned(
        self,
        graph: Graph,
        candidates: Sequence[Candidate],
        context: PassContext,
        counts: Counts,
        batches: Sequence[Feeds],
        *,
        is_draft: bool = False,
    ) -> Graph:
        """A copy of a graph without the given numbers of each group's channels, fitted to some batches."""
        removals = [
            (candidates[number].group, candidates[number].ranking.order[:count]) for number, count in counts.items()
        ]
        copy = graph.clone()
        self._remove(copy, removals, batches, replace(context, counter=DebugCounter()), graph, is_draft=is_draft)
        return copy

    def _remove(
        self,
        graph: Graph,
        removals: Sequence[tuple["ChannelGroup", np.ndarray]],
        fitted: Sequence[Feeds],
        context: PassContext,
        source: Graph | None = None,
        *,
        is_draft: bool = False,
    ) -> int:
        """Remove channels, and fit what is left; returns how many layers were changed.

        Args:
            graph: edited in place.
            removals: the groups of `source`, and which of their channels go.
            fitted: the batches that layers are fitted to.
            context: the context that progress is reported to.
            source: the graph that `graph` is a copy of; None where the groups are those of `graph` itself.
            is_draft: whether little work goes into fitting.
        """
        kept = without(removals)
        if source is None:
            source = graph.clone()
            own, kept = kept, moved(kept, graph, source)
        else:
            own = moved(kept, source, graph)
        shrink(graph, own)
        if not self.repair or not fitted:
            return 0
        fit, judging = split(len(fitted), len(fitted))
        unseen = [] if judging == fit else [fitted[place] for place in judging]
        return len(repair(source, graph, kept, [fitted[it] for it in fit], unseen, context, is_draft=is_draft))


def _least(
    choices: Sequence[Counts], judge: Judge | None, prune: Callable[[Counts], Graph], context: PassContext
) -> int:
    """The index of the choice that loses least on held-out batches; the first where there are none."""
    if judge is None or all(counts == choices[0] for counts in choices):
        return 0
    (losses,) = context.remember(lambda: [np.array([judge.judge(prune(counts)).loss for counts in choices])])
    return int(np.argmin(np.nan_to_num(losses, nan=np.inf)))


def _taken(stages: Sequence[Stage], share: float) -> dict[int, int]:
    """How many channels of each candidate go to save about a share of the operations."""
    if not stages:
        return {}
    last = min(range(len(stages)), key=lambda place: abs(stages[place].saved - share))
    return {stage.candidate: stage.removed for stage in stages[: last + 1]}


def _is_chosen(group: "ChannelGroup", context: PassContext) -> bool:
    """Whether all layers that compute the channels of a group are selected."""
    layers = [node for node, _ in group.producers]
    return bool(layers) and all(map(context.selects, layers))


def _layers(group: "ChannelGroup") -> str:
    return ", ".join(dict.fromkeys(str(node.location) for node, _ in group.producers))
