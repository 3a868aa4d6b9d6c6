"""Compiled kernels, kept between builds in a folder that processes may share.

A kernel is there as `SYMBOL.o`, and beside it `SYMBOL.checked` once its results were held to the interpreter's.
"""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from ...ir.errors import TargetError, UsageError

VARIABLE = "PLANISH_CACHE"
"""Of the environment: the folder of caches, instead of the one that the system has for its user."""
_KEPT = 30 * 24 * 3600
"""Seconds for which a kernel is kept that nobody asks for."""


@dataclass(frozen=True, slots=True)
class KernelCache:
    """A folder of kernels.

    Attributes:
        folder: which exists.
    """

    folder: Path

    @classmethod
    def of_user(cls) -> "KernelCache":
        """The one that builds share.

        Raises:
            UsageError: its folder can't be made.
            TargetError: what knows where it lies isn't installed.
        """
        root = Path(os.environ.get(VARIABLE) or _default())
        folder = root / "kernels"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"the cache {root} can't be made: {error}; name another folder in {VARIABLE}") from error
        return cls(folder)

    def object_file(self, symbol: str, compile: Callable[[Path], None]) -> Path:
        """A kernel's object file, which `compile` writes if there is none."""
        path = self.folder / f"{symbol}.o"
        if path.is_file():
            with suppress(OSError):  # somebody else's
                path.touch()
            return path
        with NamedTemporaryFile(dir=self.folder, prefix=_draft(os.getpid()), suffix=".o", delete=False) as draft:
            try:
                compile(Path(draft.name))
                Path(draft.name).replace(path)
            except BaseException:
                Path(draft.name).unlink(missing_ok=True)
                raise
        return path

    def drop_drafts(self, process: int) -> None:
        """Erase what a process that has died was writing."""
        for path in self.folder.glob(f"{_draft(process)}*"):
            path.unlink(missing_ok=True)

    def unchecked(self, symbols: Iterable[str]) -> list[str]:
        """Those of some kernels whose results nobody has held to the interpreter's."""
        return [symbol for symbol in symbols if not self._mark(symbol).exists()]

    def mark_checked(self, symbols: Iterable[str]) -> None:
        for symbol in symbols:
            self._mark(symbol).touch()

    def drop_old(self) -> None:
        """Erase what nobody has asked for in a long time."""
        horizon = time.time() - _KEPT
        for path in self.folder.iterdir():
            with suppress(OSError):  # another process was faster
                if path.stat().st_mtime < horizon:
                    path.unlink()

    def _mark(self, symbol: str) -> Path:
        return self.folder / f"{symbol}.checked"


def _default() -> Path:
    try:
        import platformdirs
    except ImportError as error:
        raise TargetError("the cache of kernels needs platformdirs: pip install 'planish[tvm]'") from error
    return platformdirs.user_cache_path("planish")


def _draft(process: int) -> str:
    """What the names of files begin with that a process is writing."""
    return f".{process}-"
