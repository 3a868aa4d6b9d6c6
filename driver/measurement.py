"""Honest latency: several models in turn in one run, so that what disturbs the machine disturbs them alike."""

import gc
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..backends.idle import wait_until_idle
from ..passes.units import show_seconds

ROUNDS = 25
FEWEST_ROUNDS = 7
BLOCK_SECONDS = 0.01
"""Each model runs for about as long in each round, so that short ones are resolved and caches are warm."""

MOST_CALLS = 200
"""The calls that a round has at the most."""

BESIDE_OTHER_WORK = "measured beside other work"

LOOKS = 10
"""How often a block looks whether calls are disturbed, at the least; a look takes some 0.1 ms."""

MOST_WAITING = 0.02
"""The share of a call's time for which its threads may have waited for a processor in all."""

CALM_SECONDS = 5.0
"""How long undisturbed rounds are waited for."""

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
        rounds: the median of each round, float[rounds]; of the fastest rounds alone if other work disturbed nearly all.
        processor: the seconds that the processor worked in its least disturbed rounds, float[rounds], by which models
            that were measured beside other work are compared; None where enough rounds were undisturbed.
    """

    rounds: np.ndarray
    processor: np.ndarray | None = None

    @property
    def median(self) -> float:
        return float(np.median(self.rounds))

    def __str__(self) -> str:
        return show_seconds(self.median) + ("" if self.processor is None else f" ({BESIDE_OTHER_WORK})")

    @property
    def compared(self) -> np.ndarray:
        """The seconds by which models of the same run are compared, round by round."""
        return self.rounds if self.processor is None else self.processor

    def speedup_over(self, other: "Latency") -> Ratio:
        """How many times faster this one is than another of the same run, compared round by round."""
        lower, median, upper = np.quantile(other.compared / self.compared, (0.25, 0.5, 0.75)).tolist()
        return Ratio(median, lower, upper)


Settled: TypeAlias = Callable[[np.ndarray], bool]
"""A function that is told the median seconds of some rounds, float[models, rounds], and says whether these suffice."""


def interleaved(
    models: Sequence[Callable[[], object]], settled: Settled | None = None, *, patient: bool = False
) -> list[Latency]:
    """The latencies of some models, measured in turn, without rounds in which all calls of one model were disturbed.

    Where there are too few other rounds, more are measured for some seconds. If other work leaves no idle moment in
    them, the processor's time is what models are compared by, since it doesn't run while they wait for a processor.

    Args:
        models: a function for each model that runs one inference on inputs of its own.
        settled: whether the seconds so far answer the caller's question, so that no more rounds are needed.
        patient: whether they are measured for some seconds at least; a number of rounds is enough otherwise.
    """
    calls = [_calls_per_block(run) for run in models]
    expected = sum(taken * (number + 1) for taken, number in calls)
    most = max(ROUNDS, PATIENT_SECONDS / expected) if patient else ROUNDS
    rounds = int(np.clip(LONGEST_SECONDS / expected, FEWEST_ROUNDS, most))
    blocks: list[list[_Block]] = []
    calm, begun = 0, time.perf_counter()
    gc.disable()
    try:
        while len(blocks) < rounds or (calm < FEWEST_ROUNDS and time.perf_counter() - begun < CALM_SECONDS):
            blocks.append(_round(models, [number for _, number in calls], len(blocks)))
            calm += not any(block.is_disturbed for block in blocks[-1])
            if settled is not None and settled(np.array([[block.seconds for block in row] for row in blocks]).T):
                break
    finally:
        gc.enable()
    return [_latency(blocks, index) for index in range(len(models))]


def _round(models: Sequence[Callable[[], object]], calls: Sequence[int], number: int) -> "list[_Block]":
    """A block of each model, in the order of the models; who begins changes with the round's number."""
    places = [(number + turn) % len(models) for turn in range(len(models))]
    taken = {place: _block(models[place], calls[place]) for place in places}
    return [taken[place] for place in range(len(models))]


def _latency(rounds: "Sequence[Sequence[_Block]]", index: int) -> Latency:
    """The latency of a model by its blocks in the undisturbed rounds, or by its fastest ones where these are few."""
    calm = [row[index].seconds for row in rounds if not any(block.is_disturbed for block in row)]
    if len(calm) >= min(FEWEST_ROUNDS, len(rounds)):
        return Latency(np.array(calm))
    every = [(row[index].seconds, row[index].processor) for row in rounds]
    seconds, processor = np.sort(np.array(every), axis=0)[:FEWEST_ROUNDS].T
    return Latency(seconds, processor)


def _calls_per_block(run: Callable[[], object]) -> tuple[float, int]:
    """Seconds of one call once warm, and how many calls make a block."""
    for _ in range(WARM_UP):
        run()
    start = time.perf_counter()
    run()
    seconds = max(time.perf_counter() - start, 1e-7)
    return seconds, int(np.clip(BLOCK_SECONDS / seconds, 1, MOST_CALLS))


@dataclass(frozen=True, slots=True)
class _Block:
    """Some calls of a model.

    Attributes:
        seconds: the median of the undisturbed calls, or of all if there are none.
        processor: the least seconds that the processor worked in a call.
        is_disturbed: whether all calls were disturbed.
    """

    seconds: float
    processor: float
    is_disturbed: bool


def _block(run: Callable[[], object], calls: int) -> _Block:
    """Time some calls.

    A disturbed call takes longer by the turns of other processes. Calls of several milliseconds are disturbed, shorter
    ones seldom: models that differ in speed would seem to differ more. Very short calls are looked at several at once.
    """
    wait_until_idle()  # the worker threads of the model before
    run()  # brings caches and worker threads back
    every: list[float] = []
    undisturbed: list[float] = []
    processor: list[float] = []
    begun = time.perf_counter()
    while len(every) < calls or (len(undisturbed) < calls and time.perf_counter() - begun < AGAIN_SECONDS):
        before, taken = _disturbances(), list[float]()
        for _ in range(max(1, calls // LOOKS)):
            worked, start = time.process_time(), time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
            processor.append(time.process_time() - worked)
        every += taken
        switches, waited = (after - earlier for after, earlier in zip(_disturbances(), before, strict=True))
        if not switches and waited <= MOST_WAITING * sum(taken):
            undisturbed += taken
    return _Block(float(np.median(undisturbed or every)), min(processor), not undisturbed)


def _disturbances() -> tuple[int, float]:
    """How often the system has taken a processor from this process for another one, and what that has cost.

    As Linux tells, the cost is the seconds for which threads could run but had no processor. It alone counts there: a
    worker that wakes on a processor of another process waits without being interrupted, and the moment that the system
    takes for itself in most calls of many milliseconds costs nothing.
    """
    waited, tells = 0, False
    with suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError, ValueError, IndexError):  # a thread that has ended
                waited += int((task / "schedstat").read_bytes().split()[1])
                tells = True
    return (0, waited / 1e9) if tells else (resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw, 0.0)
