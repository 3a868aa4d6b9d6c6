"""What passes compute on the way, kept until their step is done, so that a build which was killed goes on there."""

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ...ir.blocks import blocks
from ...ir.drafts import replacing
from ...ir.errors import UsageError
from ...ir.files import writing
from ...ir.graph import Graph
from ...passes.base import Arrays, Pass
from ...passes.instrument import Instrument
from ...passes.manager import other_packages
from .keys import key

_WORTH = 0.02
"""Seconds of work that are worth keeping."""
_MOST_BYTES = 100e6
"""The most bytes that are kept for each second of that work."""


class KeptValues(Instrument):
    """Keeps arrays that passes compute, by the step and by all that was computed in it before.

    Args:
        folder: the folder for a file with each of these arrays.
        keys: the keys of the source and of the graph after each step.
        done: the number of steps that are done.
    """

    def __init__(self, folder: Path, keys: Sequence[str], done: int) -> None:
        self._folder = folder
        self._keys = keys
        self._done = done
        self._passes = 0  # how many were begun in the step
        self._next = ""  # the key of the next value
        self._files: list[Path] = []

    def before(self, step: Pass, graph: Graph) -> None:
        self._passes += 1
        self._step = step
        self._next = key(self._keys[self._done + 1], self._passes)

    def reached(self, number: int, graph: Graph) -> None:
        self._done, self._passes = number, 0
        self._erase_from(0)

    def remember(self, compute: Callable[[], Arrays]) -> Arrays:
        """The arrays that were computed in this place before, or are now; `compute` may remember arrays of its own."""
        path = self._path(self._next)
        self._files.append(path)
        return self._held(path, self._next, compute)

    def share(self, about: str, compute: Callable[[], Arrays]) -> Arrays:
        """The arrays that were computed of the same graph and text before, or are now; they stay when the step is done.

        Only the first pass of a step shares, since no key tells which graph a later one begins with, and only a pass of
        planish's own, whose code is part of all keys.
        """
        if self._passes > 1 or any(other_packages(self._step)):
            return self.remember(compute)
        own = key(self._keys[self._done], about)
        return self._held(self._path(own), own, compute)

    def _path(self, own: str) -> Path:
        return self._folder / f"{own[:32]}.npz"

    def _held(self, path: Path, own: str, compute: Callable[[], Arrays]) -> Arrays:
        """The arrays of a file, or else those computed now; arrays remembered meanwhile get keys of their own."""
        place = self._next
        held = _read(path)
        if held is None:
            inner, start = len(self._files), time.monotonic()
            self._next = key(own, "within")
            held = compute()
            seconds = time.monotonic() - start
            if seconds > _WORTH and sum(array.nbytes for array in held) < _MOST_BYTES * seconds:
                with suppress(UsageError):  # a disk that is full
                    _write(path, held)
                    self._erase_from(inner)
        self._next = key(place, _digest(held))
        return held

    def _erase_from(self, first: int) -> None:
        """Erase what nobody asks for any more: the files from some place in the list on."""
        for path in self._files[first:]:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        del self._files[first:]


def _digest(arrays: Arrays) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        for block in blocks(array):
            found.update(block)
    return found.hexdigest()


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
    with replacing(path) as draft:
        np.savez(draft, *arrays)
