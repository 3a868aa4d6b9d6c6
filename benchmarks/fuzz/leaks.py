"""Models that are optimized, compiled, called and dropped, over and over again: nothing of them may stay."""

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import planish

from .footprint import Footprint, compiler, growth, peak_growth, settled
from .models import batch, model, optimized

MOST_BYTES = 20_000
"""Bytes that a process may grow by in a cycle."""
_NARROWEST = 16
"""Channels of the narrowest model; others come in no order, so that none needs more than those before it by rule."""
_GROWTH = {"the process": growth, "the compiler": peak_growth}
"""How the growth of a process is told: the compiler is a new one now and then."""


@dataclass(frozen=True)
class Leaks:
    """What stayed of many cycles.

    Attributes:
        grown: the bytes that a process grows by in a cycle: the one that calls, and TVM's compiler where there is one.
        left: what else a process holds at the end and didn't before.
    """

    grown: Mapping[str, float]
    left: Sequence[str]

    @property
    def faults(self) -> list[str]:
        much = [f"{who} grows by {size:.0f} bytes a cycle" for who, size in self.grown.items() if size > MOST_BYTES]
        return [*much, *self.left]


def cycles(name: str, count: int) -> Leaks:
    """Many cycles in this process.

    Args:
        name: backend, element type, and whether the model is the `same` each time or a `new` one of another width.
        count: the number of cycles.
    """
    backend, dtype, which = name.split(":")
    held: dict[str, list[Footprint]] = {who: [] for who in _GROWTH}
    order = np.random.default_rng(0).permutation(count) if which == "new" else np.zeros(count, int)
    for more in order:
        _cycle(_NARROWEST + int(more), backend, dtype)
        gc.collect()
        held["the process"].append(Footprint.of(os.getpid()))
        if (other := compiler()) is not None:
            held["the compiler"].append(other)
    rows = {who: settled(row) for who, row in held.items() if row}
    grown = {who: _GROWTH[who]([footprint.memory for footprint in row]) for who, row in rows.items()}
    return Leaks(grown, [fault for who, row in rows.items() for fault in _left(who, row)])


def _cycle(width: int, backend: str, dtype: str) -> None:
    executable = planish.compile(optimized(model(width), dtype), backend)
    (result,) = executable(batch(3))
    del executable
    assert np.isfinite(result).all()  # it is read after the library is gone


def _left(who: str, row: Sequence[Footprint]) -> Iterator[str]:
    """What a process has more of in the second half of the cycles: at any one moment it may be cleaning up."""
    some = max(1, len(row) // 2)
    for what in row[0].counts:
        before, after = (min(footprint.counts[what] for footprint in part) for part in (row[:some], row[-some:]))
        if after > (0 if what == "libraries" else before):
            yield f"{who} has {after} {what} at the end, and had {before}"
