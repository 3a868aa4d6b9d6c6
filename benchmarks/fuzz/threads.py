"""Threads that call one model side by side, with batches of all sizes: each gets what it gets alone, bit for bit."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from threading import Barrier

import numpy as np

import planish
from planish.backends import Executable

from .footprint import Footprint
from .models import batch, model, optimized

MOST_BYTES = 4 << 20
"""Bytes that a process may grow by from the second part of its calls to the last: one batch more in each thread."""
_WIDTH = 24
_SIZES = (1, 2, 3, 4, 7, 8, 16, 33)
_PARTS = 8
"""Parts of the calls, after each of which memory is looked at."""


@dataclass(frozen=True)
class Called:
    """What many calls gave.

    Attributes:
        calls: the number of calls.
        unequal: the number of calls in which something differed, by what it was.
        memory: bytes of the process after each part of the calls.
    """

    calls: int
    unequal: Mapping[str, int]
    memory: Sequence[int]

    @property
    def faults(self) -> list[str]:
        grown = self.memory[-1] - self.memory[1]
        much = [f"the process grows by {grown} bytes"] if grown > MOST_BYTES else []
        return [*(f"{what}, in {count} calls" for what, count in self.unequal.items()), *much]


def calls(name: str, threads: int, count: int) -> Called:
    """Many calls in this process.

    Args:
        name: the backend and the element type.
        threads: the number of threads that call.
        count: the number of calls of each thread.
    """
    backend, dtype = name.split(":")
    executable = planish.compile(optimized(model(_WIDTH), dtype), backend)
    inputs = [batch(size, seed) for size in _SIZES for seed in range(4)]
    expected = [executable(x)[0] for x in inputs]
    unequal: dict[str, int] = {}
    memory: list[int] = []
    with ThreadPoolExecutor(threads) as pool:
        for part in range(_PARTS):
            barrier = Barrier(threads)
            share = count * (part + 1) // _PARTS - count * part // _PARTS

            def work(thread: int, part: int = part, share: int = share, barrier: Barrier = barrier) -> list[str]:
                barrier.wait()  # or the first ones would take the work of all
                return _unequal(executable, inputs, expected, Random(f"{part} {thread}"), share)

            for fault in (fault for faults in pool.map(work, range(threads)) for fault in faults):
                unequal[fault] = unequal.get(fault, 0) + 1
            memory.append(Footprint.of().memory)
    return Called(threads * count, unequal, memory)


def _unequal(
    executable: Executable, inputs: Sequence[np.ndarray], expected: Sequence[np.ndarray], random: Random, count: int
) -> list[str]:
    """What differs in some calls."""
    found: list[str] = []
    for _ in range(count):
        number = random.randrange(len(inputs))
        try:
            (result,) = executable(inputs[number])
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
            continue
        if result.tobytes() != expected[number].tobytes():
            found.append(f"a batch of {len(inputs[number])} gives other numbers")
    return found
