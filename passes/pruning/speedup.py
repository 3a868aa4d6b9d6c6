"""How many channels of each group go, for the whole model to be so many times as fast: predicted, then measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...ir.errors import BudgetError
from ...ir.graph import Graph
from ..base import PassContext, Timing
from .allocation import Candidate, Counts, Stage
from .latency import measure
from .shrink import shrunk

if TYPE_CHECKING:  # networkx and scipy come with it, which listing the passes must not import
    from ...ir.analysis.channels import ChannelGroup

_TOLERANCE = 0.05
"""How far from the speed-up that was asked for the measured one may be, relative to it."""
_NEAR = 0.02
"""How near is good enough to look no further."""
_ROUNDS = 8
"""Allocations that are measured at the most."""
_TIMES = 3
"""How often what was found is measured anew."""


class Clock:
    """Measures what a model gains without some channels of its groups.

    Args:
        graph: the graph to prune.
        groups: its groups of coupled channels.
        steps: the number that the channels left of each group are a multiple of.
        timing: measures graphs and their layers.
        context: the context that progress is reported to.
    """

    def __init__(
        self,
        graph: Graph,
        groups: "Sequence[ChannelGroup]",
        steps: Sequence[int],
        timing: Timing,
        context: PassContext,
    ) -> None:
        self._graph, self._groups, self._timing = graph, groups, timing
        self.latencies = measure(graph, groups, steps, timing, context)

    def speedups(self, counts: Counts, times: int = 1) -> list[float]:
        """How many times as fast the whole model is without some channels of each group, no matter which.

        Args:
            counts: how many channels of each group go.
            times: how often the model is measured, compiled anew each time.
        """
        fewer = shrunk(self._graph, [(self._groups[number], np.arange(gone)) for number, gone in counts.items()])
        rounds = [self._timing.rounds([self._graph, fewer]) for _ in range(times)]
        return [float(np.median(before / after)) for before, after in rounds]

    def refuse(self, wanted: float) -> None:
        """Refuse a speed-up that the model hasn't even with as few channels as may be left.

        Raises:
            BudgetError: the speed-up can't be reached; the error tells which one can.
        """
        choices = {number: self.latencies.choices(number, 0) for number in range(len(self._groups))}
        (most,) = self.speedups({number: gone[-1] for number, gone in choices.items() if gone})
        if most < wanted * (1 - _TOLERANCE):
            raise BudgetError(
                f"speedup={wanted:g} can't be reached: with as few channels as may be left, the model is {most:.2f} "
                "times as fast"
            )


@dataclass(frozen=True, slots=True)
class Trial:
    """An allocation that was measured.

    Attributes:
        counts: how many channels of each group are gone.
        predicted: how many times as fast the model was predicted to be, by its layers.
        measurements: how many times as fast the whole model is: one number, or several where it was measured anew after
            it was found, since the allocation that is measured nearest to a goal is so partly by chance.
    """

    counts: Counts
    predicted: float
    measurements: Sequence[float]

    @property
    def measured(self) -> float:
        """The median of the measurements."""
        return float(np.median(self.measurements))

    @property
    def is_certain(self) -> bool:
        """Whether the allocation was measured anew after it was found."""
        return len(self.measurements) > 1

    def __str__(self) -> str:
        return (
            f"the model is {self.measured:.2f} times as fast as before ({min(self.measurements):.2f} to "
            f"{max(self.measurements):.2f}), where latencies of layers had predicted {self.predicted:.2f}"
        )


_AS_IT_IS = Trial({}, 1.0, [1.0])


def hunt(
    wanted: float, candidates: Sequence[Candidate], clock: Clock, ways: Sequence[Sequence[Stage]], *, is_exact: bool
) -> list[Trial]:
    """Look for an allocation with the speed-up in each of some orders of removal; some have none.

    Args:
        wanted: the speed-up that is wanted.
        candidates: the groups with their rankings.
        clock: predicts and measures speed-ups.
        ways: the orders of removal, each as its stages.
        is_exact: whether losses are the model's own, so that an allocation that is faster and loses less is better.

    Raises:
        BudgetError: nothing near the speed-up was found in any order.
    """
    found: list[Trial] = []
    failures: list[BudgetError] = []
    for stages in ways:
        try:
            found.append(Hunt(wanted, candidates, clock, stages, is_exact=is_exact).run())
        except BudgetError as error:
            failures.append(error)
    if not found:
        raise failures[0]
    return found


class Hunt:
    """Looks for the allocation with a speed-up.

    Args:
        wanted: the speed-up that is wanted.
        candidates: the groups with their rankings.
        clock: predicts and measures speed-ups.
        stages: the stages in which channels go.
        is_exact: whether a faster allocation may be taken if it loses less.
    """

    def __init__(
        self,
        wanted: float,
        candidates: Sequence[Candidate],
        clock: Clock,
        stages: Sequence[Stage],
        *,
        is_exact: bool,
    ) -> None:
        self._wanted, self._candidates, self._clock, self._stages = wanted, candidates, clock, stages
        self._is_exact = is_exact
        self._latencies = clock.latencies
        counts = range(len(stages) + 1)
        self._path = [{stage.candidate: stage.removed for stage in stages[:count]} for count in counts]
        self._trials: list[Trial] = []

    def run(self) -> Trial:
        """Measure the stage that is predicted to be nearest to the wanted speed-up, then others, and some near them.

        Predictions are corrected by what was measured: between two stages of which one is too slow and the other too
        fast, the quotient of prediction and measurement is interpolated. What is found is measured anew.

        Raises:
            BudgetError: nothing near the speed-up was found.
        """
        while True:
            found, following = self._found, self._following()
            if following is not None:
                self._try(following)
            elif found is not None and not found.is_certain:
                self._measure_again(found)
            else:
                break
        best = min(self._trials, key=self._off, default=_AS_IT_IS)
        if found is None:
            raise BudgetError(
                f"a speed-up of {self._wanted:g} was not met within {100 * _TOLERANCE:.0f} %: the nearest of "
                f"{len(self._trials)} allocations of channels that were measured is {best.measured:.2f} times as fast; "
                "ask for that, or give a smaller round_to"
            )
        return found

    @property
    def _found(self) -> Trial | None:
        """The nearest trial that is near enough; where losses are exact, the near or faster one that loses least."""
        near = [it for it in self._trials if self._off(it) <= _TOLERANCE]
        if not self._is_exact:
            return min(near, key=self._off, default=None)
        faster = [it for it in self._trials if it.measured > self._wanted]
        return min((*near, *faster), key=lambda it: self._lost(it.counts), default=None)

    def _following(self) -> Counts | None:
        """The allocation to try next: a stage, or one near a stage that is too slow; None where none is worth it."""
        found = self._found
        if len(self._trials) >= _ROUNDS or (found is not None and not self._is_exact and self._off(found) <= _NEAR):
            return None
        goal, path = self._corrected(), self._path
        tried = {path.index(trial.counts): trial for trial in self._trials if trial.counts in path}
        low = max((place for place, it in tried.items() if it.measured < self._wanted), default=0)
        high = min((place for place, it in tried.items() if it.measured >= self._wanted), default=len(path))
        if high - low > 1 and not any(self._off(it) <= _NEAR for it in tried.values()):
            predicted = {place: self._latencies.speedup(path[place]) for place in range(low + 1, high)}
            return path[min(predicted, key=lambda place: abs(np.log(predicted[place] / goal)))]
        beside = self._beside(path[low], self._stages[low:], goal)
        loses_more = self._is_exact and found and beside and self._lost(beside) >= self._lost(found.counts)
        return None if loses_more else beside

    def _measure_again(self, trial: Trial) -> None:
        """Replace the measurement that a trial was chosen by with new ones."""
        again = Trial(trial.counts, trial.predicted, self._clock.speedups(trial.counts, _TIMES))
        self._trials[self._trials.index(trial)] = again

    def _try(self, counts: Counts) -> None:
        self._trials.append(Trial(counts, self._latencies.speedup(counts), self._clock.speedups(counts)))

    def _off(self, trial: Trial) -> float:
        return abs(trial.measured / self._wanted - 1)

    def _corrected(self) -> float:
        """The prediction at which the wanted speed-up should be measured."""
        trials = [_AS_IT_IS, *self._trials]
        slower = max((it for it in trials if it.measured < self._wanted), key=lambda it: it.measured)
        faster = min((it for it in trials if it.measured >= self._wanted), key=lambda it: it.measured, default=None)
        if faster is None or faster.predicted <= slower.predicted:
            return slower.predicted * self._wanted / slower.measured
        share = np.log(self._wanted / slower.measured) / np.log(faster.measured / slower.measured)
        return float(slower.predicted * (faster.predicted / slower.predicted) ** share)

    def _beside(self, counts: Counts, following: Sequence[Stage], goal: float) -> Counts | None:
        """The allocation near a too slow one that is predicted to be as fast as is wanted, and loses least.

        Either one group is changed; or the group of which the next stage takes too much, and others as later stages
        take them.
        """
        numbers = range(len(self._candidates))
        moves = [(number, gone) for number in numbers for gone in (0, *self._latencies.choices(number, 0))]
        changed = [{**counts, number: gone} for number, gone in moves]
        jump = following[0].candidate if following else None
        for held in [it for it, (number, _) in zip(changed, moves, strict=True) if number == jump]:
            later = dict(held)
            for stage in following:
                if stage.candidate != jump:
                    later[stage.candidate] = stage.removed
                    changed.append(dict(later))
        most = _TOLERANCE if self._is_exact else _NEAR
        near = [it for it in changed if abs(self._latencies.speedup(it) / goal - 1) <= most]
        some = [{number: gone for number, gone in it.items() if gone} for it in near]
        tried = [trial.counts for trial in self._trials]
        return min((it for it in some if it not in tried), key=self._lost, default=None)

    def _lost(self, counts: Counts) -> float:
        return sum(float(self._candidates[number].ranking.losses[gone]) for number, gone in counts.items())
