"""What passes compute on the way, kept until their step is done, so that a build which was killed goes on there."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ...ir.drafts import beside
from ...ir.errors import UsageError
from ...ir.files import writing
from ...ir.graph import Graph
from ...passes.base import Arrays, Pass
from ...passes.instrument import Instrument
from .keys import key

_WORTH = 0.25
"""Seconds of work that are worth keeping."""
_MOST_BYTES = 100e6
"""For each second of it."""


class KeptValues(Instrument):
    """Keeps arrays that passes compute, by the step and how many it has computed before.

    Args:
        folder: for a file of each.
        keys: of the graph after each step.
        done: the steps that are done.
    """

    def __init__(self, folder: Path, keys: Sequence[str], done: int) -> None:
        self._folder = folder
        self._keys = keys
        self._done = done
        self._place = [0, 0]  # of the pass in the step, and of the value in the pass, in another value, and so on
        self._files: list[Path] = []

    def before(self, step: Pass, graph: Graph) -> None:
        self._place = [self._place[0] + 1, 0]

    def reached(self, number: int, graph: Graph) -> None:
        self._done, self._place = number, [0, 0]
        self._erase_from(0)

    def remember(self, compute: Callable[[], Arrays]) -> Arrays:
        """What was computed in this place before, or is now."""
        path = self._folder / f"{key(self._keys[self._done], self._place)[:32]}.npz"
        self._files.append(path)
        held = _read(path)
        if held is None:
            start = time.monotonic()
            inner = len(self._files)
            self._place.append(0)
            held = compute()
            self._place.pop()
            seconds = time.monotonic() - start
            if seconds > _WORTH and sum(array.nbytes for array in held) < _MOST_BYTES * seconds:
                with suppress(UsageError):  # a disk that is full
                    _write(path, held)
                    self._erase_from(inner)
        self._place[-1] += 1
        return held

    def _erase_from(self, first: int) -> None:
        """Erase what nobody asks for any more: all that was asked for behind some."""
        for path in self._files[first:]:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        del self._files[first:]


def _read(path: Path) -> Arrays | None:
    """The arrays of a file; None if there is no whole one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in file.files]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def _write(path: Path, arrays: Arrays) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as draft:
            np.savez(draft / "arrays.npz", *arrays)
            (draft / "arrays.npz").replace(path)
