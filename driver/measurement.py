"""Honest latency: several models in turn in one run, so that what disturbs the machine disturbs them alike."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

ROUNDS = 25
FEWEST_ROUNDS = 7
BLOCK_SECONDS = 0.01
"""Each model runs for about as long in each round, so that short ones are resolved and caches are warm."""

MOST_CALLS = 200
"""The calls that a round has at the most."""

PAUSE_SECONDS = 0.003
"""The pause between models: the worker threads of a runtime spin for a while and would slow the next one."""

LONGEST_SECONDS = 20.0
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
"""Told the median seconds of some rounds, float[models, rounds]."""


def interleaved(models: Sequence[Callable[[], object]], settled: Settled | None = None) -> list[Latency]:
    """The latencies of some models, measured in turn.

    Args:
        models: each runs one inference on inputs of its own.
        settled: whether a question is answered by the seconds so far, so that no more rounds are needed.
    """
    calls = [_calls_per_block(run) for run in models]
    expected = sum(seconds * (number + 1) for seconds, number in calls)
    rounds = int(np.clip(LONGEST_SECONDS / expected, FEWEST_ROUNDS, ROUNDS))
    medians = np.empty((len(models), rounds))
    gc.disable()
    try:
        for number in range(rounds):
            for turn in range(len(models)):
                index = (number + turn) % len(models)
                medians[index, number] = _block(models[index], calls[index][1])
            if settled is not None and settled(medians[:, : number + 1]):
                return [Latency(row[: number + 1]) for row in medians]
    finally:
        gc.enable()
    return [Latency(row) for row in medians]


def _calls_per_block(run: Callable[[], object]) -> tuple[float, int]:
    """Seconds of one call once warm, and how many calls make a block."""
    for _ in range(WARM_UP):
        run()
    start = time.perf_counter()
    run()
    seconds = max(time.perf_counter() - start, 1e-7)
    return seconds, int(np.clip(BLOCK_SECONDS / seconds, 1, MOST_CALLS))


def _block(run: Callable[[], object], calls: int) -> float:
    time.sleep(PAUSE_SECONDS)
    run()  # brings caches and worker threads back
    seconds: list[float] = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))
