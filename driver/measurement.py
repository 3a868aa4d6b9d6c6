"""Honest latency: several models in turn in one run, so that what disturbs the machine disturbs them alike."""

import gc
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ..backends.idle import wait_until_idle

ROUNDS = 25
FEWEST_ROUNDS = 7
BLOCK_SECONDS = 0.01
"""Each model runs for about as long in each round, so that short ones are resolved and caches are warm."""

MOST_CALLS = 200
"""The calls that a round has at the most."""

AGAIN_SECONDS = 0.04
"""How long calls are repeated that the system has interrupted for other processes."""

LONGEST_SECONDS = 20.0
PATIENT_SECONDS = 5.0
"""For how long models are timed whose ratio is to hold at another moment: that of short ones drifts within seconds."""

WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster one model is than another: the median over rounds, and its quartiles."""

    median: float
    lower: float
    upper: float

    @property
    def inverse(self) -> "Ratio":
        """How many times slower it is."""
        return Ratio(1 / self.median, 1 / self.upper, 1 / self.lower)

    def __str__(self) -> str:
        return f"{self.median:.2f}x ({self.lower:.2f}-{self.upper:.2f})"


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of one inference.

    Attributes:
        rounds: the median of each round, float[rounds].
    """

    rounds: np.ndarray

    @property
    def median(self) -> float:
        return float(np.median(self.rounds))

    def speedup_over(self, other: "Latency") -> Ratio:
        """How many times faster this one is than another of the same run, compared round by round."""
        lower, median, upper = np.quantile(other.rounds / self.rounds, (0.25, 0.5, 0.75)).tolist()
        return Ratio(median, lower, upper)


Settled: TypeAlias = Callable[[np.ndarray], bool]
"""A function that is told the median seconds of some rounds, float[models, rounds], and says whether these suffice."""


def interleaved(
    models: Sequence[Callable[[], object]], settled: Settled | None = None, *, patient: bool = False
) -> list[Latency]:
    """The latencies of some models, measured in turn, without rounds in which all calls of one model were disturbed.

    Disturbed rounds count only where there are too few others.

    Args:
        models: a function for each model that runs one inference on inputs of its own.
        settled: whether the seconds so far answer the caller's question, so that no more rounds are needed.
        patient: whether they are measured for some seconds at least; a number of rounds is enough otherwise.
    """
    calls = [_calls_per_block(run) for run in models]
    expected = sum(taken * (number + 1) for taken, number in calls)
    most = max(ROUNDS, PATIENT_SECONDS / expected) if patient else ROUNDS
    rounds = int(np.clip(LONGEST_SECONDS / expected, FEWEST_ROUNDS, most))
    medians = np.empty((len(models), rounds))
    disturbed = np.zeros(rounds, bool)
    gc.disable()
    try:
        for number in range(rounds):
            for turn in range(len(models)):
                index = (number + turn) % len(models)
                medians[index, number], is_disturbed = _block(models[index], calls[index][1])
                disturbed[number] |= is_disturbed
            if settled is not None and settled(medians[:, : number + 1]):
                rounds = number + 1
                break
    finally:
        gc.enable()
    kept = np.flatnonzero(~disturbed[:rounds])
    return [Latency(row[kept if len(kept) >= FEWEST_ROUNDS else slice(rounds)]) for row in medians]


def _calls_per_block(run: Callable[[], object]) -> tuple[float, int]:
    """Seconds of one call once warm, and how many calls make a block."""
    for _ in range(WARM_UP):
        run()
    start = time.perf_counter()
    run()
    seconds = max(time.perf_counter() - start, 1e-7)
    return seconds, int(np.clip(BLOCK_SECONDS / seconds, 1, MOST_CALLS))


def _block(run: Callable[[], object], calls: int) -> tuple[float, bool]:
    """The median seconds of some calls, and whether all of them were disturbed; where not, the undisturbed count.

    A disturbed call takes longer by the turns of other processes. Calls of several milliseconds are disturbed, shorter
    ones seldom: models that differ in speed would seem to differ more.
    """
    wait_until_idle()  # the worker threads of the model before
    run()  # brings caches and worker threads back
    every: list[float] = []
    undisturbed: list[float] = []
    begun = time.perf_counter()
    while len(every) < calls or (len(undisturbed) < calls and time.perf_counter() - begun < AGAIN_SECONDS):
        switches, start = _switches(), time.perf_counter()
        run()
        every.append(time.perf_counter() - start)
        if _switches() == switches:
            undisturbed.append(every[-1])
    return float(np.median(undisturbed or every)), not undisturbed


def _switches() -> int:
    """How often the system has taken a processor from this process for another one."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
