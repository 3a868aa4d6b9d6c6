"""Compiled kernels, kept between builds in a folder that processes may share.

A kernel is an object file `SYMBOL.o` with a digest at its end, and beside it `SYMBOL.checked` once its results were
compared with the interpreter's. Builds read the file's content, so that they don't depend on what becomes of the file
later.
"""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ....ir.cache_folder import cache_folder
from ....ir.drafts import replacing, sweep
from ....ir.files import writing

_KEPT = 30 * 24 * 3600
"""Seconds for which a kernel that nobody asks for is kept."""
_DIGEST = sha256().digest_size


@dataclass(frozen=True, slots=True)
class KernelCache:
    """A folder of kernels.

    Attributes:
        folder: the folder, which exists.
    """

    folder: Path

    @classmethod
    def of_user(cls) -> "KernelCache":
        """Return the cache that builds share.

        Raises:
            UsageError: its folder can't be made.
        """
        return cls(cache_folder("kernels"))

    def kernel(self, symbol: str, compile: Callable[[], bytes]) -> bytes:
        """Return a kernel's object file; `compile` makes one if there is none, or a damaged one.

        Raises:
            UsageError: the disk is full, or nothing may be written there.
        """
        path = self.folder / f"{symbol}.o"
        if (kept := _kept(path)) is not None:
            return kept
        content = compile()
        with replacing(path) as draft:
            draft.write_bytes(content + _digest(symbol, content))
        return content

    def unchecked(self, symbols: Iterable[str]) -> list[str]:
        """Return those kernels whose results nobody has compared with the interpreter's."""
        return [symbol for symbol in symbols if not self._mark(symbol).exists()]

    def mark_checked(self, symbols: Iterable[str]) -> None:
        for symbol in symbols:
            with writing(self._mark(symbol)):
                self._mark(symbol).touch()

    def drop_old(self) -> None:
        """Erase what nobody has asked for in a long time, and what builds that have died were writing."""
        self.drop_drafts()
        now = time.time()
        for path in self.folder.iterdir():
            with suppress(OSError):  # another process was faster
                age = now - path.stat().st_mtime
                if age < 0:  # a clock that was ahead
                    os.utime(path, (now, now))
                elif age > _KEPT:
                    path.unlink()

    def drop_drafts(self) -> None:
        """Erase what builds that have died were writing."""
        sweep(self.folder)

    def _mark(self, symbol: str) -> Path:
        return self.folder / f"{symbol}.checked"


def _kept(path: Path) -> bytes | None:
    """Return a kernel's object file if it is there and whole."""
    try:
        held = path.read_bytes()
    except OSError:
        return None
    content, digest = held[:-_DIGEST], held[-_DIGEST:]
    if digest != _digest(path.stem, content):
        return None
    with suppress(OSError):  # somebody else's
        path.touch()
    return content


def _digest(symbol: str, content: bytes) -> bytes:
    return sha256(symbol.encode() + b"\0" + content).digest()
