"""Calls timed in turns in one process, so that what else the machine does disturbs all of them alike."""

import time
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def seconds_of(call: Callable[[], object], times: int = 1) -> float:
    """Return the seconds of a call, as the mean of so many calls one after the other."""
    calls, start = repeat(None, times), time.perf_counter()
    for _ in calls:
        call()
    return (time.perf_counter() - start) / times


def warm_seconds(call: Callable[[], object]) -> float:
    """Return the seconds of the second of two calls."""
    call()
    return seconds_of(call)


def in_turns(
    subjects: Sequence[T], timer: Callable[[T], float], rounds: int = 1, seconds: float = 0, *, shuffled: bool = False
) -> np.ndarray:
    """Return the seconds of each turn, float[subjects, rounds].

    Args:
        subjects: what takes turns.
        timer: a function that lets a subject take its turn, and returns the seconds of it.
        rounds: the least number of rounds.
        seconds: the least seconds of all rounds together.
        shuffled: whether each round has a random order of its own.
    """
    random, stop = np.random.default_rng(0), time.perf_counter() + seconds
    found: list[np.ndarray] = []
    while len(found) < rounds or time.perf_counter() < stop:
        taken = np.empty(len(subjects))
        for index in random.permutation(len(subjects)) if shuffled else range(len(subjects)):
            taken[index] = timer(subjects[index])
        found.append(taken)
    return np.transpose(found)
