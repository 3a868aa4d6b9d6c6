"""A folder of objects, named by their SHA-256, and of records, named by a key, that processes may share.

Records are JSON and say which objects they are made of. All files appear whole or not at all; objects are hashed when
they are read, so that a damaged one counts as missing, and what misses an object is made again. What was asked for
least recently goes first when the folder has outgrown its bound.
"""

import hashlib
import json
import os
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.cache_folder import cache_folder
from ...ir.drafts import replacing, sweep
from ...ir.errors import UsageError
from ...ir.files import writing
from ...passes import units

VARIABLE = "PLANISH_CACHE_SIZE"
"""The environment variable of the most that builds keep, such as `20GB`; 0 keeps nothing."""
DEFAULT_SIZE = 10e9
"""Bytes that builds keep at the most, unless the variable says otherwise."""

Bytes = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Store:
    """The objects and records in a folder.

    Attributes:
        folder: the folder, which exists.
        bound: the most bytes that `trim` leaves there.
    """

    folder: Path
    bound: float

    @classmethod
    def of_user(cls) -> "Store | None":
        """Return the store that builds share; None where nothing is to be kept.

        Raises:
            UsageError: its folder can't be made, or its bound makes no sense.
        """
        given = os.environ.get(VARIABLE)
        bound = DEFAULT_SIZE if given is None else parse_size(given, VARIABLE)
        return cls(cache_folder("builds"), bound) if bound else None

    @property
    def checkpoints(self) -> Path:
        """The folder for checkpoints that passes go on from after a kill; passes make and erase these themselves."""
        return self.folder / "checkpoints"

    def put(self, blocks: Iterable[Bytes]) -> str:
        """Keep an object, given in blocks; return its SHA-256.

        Raises:
            UsageError: the disk is full, or nothing may be written there.
        """
        blocks = list(blocks)
        found = hashlib.sha256()
        for block in blocks:
            found.update(block)
        name = found.hexdigest()
        path = self._object(name)
        if not _touched(path):
            with _replacing(path) as draft, draft.open("wb") as file:
                file.writelines(blocks)
        return name

    def get(self, name: str) -> np.ndarray | None:
        """The bytes of an object, mapped into memory; None if there is no whole one."""
        path = self._object(name)
        with suppress(OSError, ValueError):  # the latter for an empty file, which can't be mapped
            mapped = np.memmap(path, np.uint8, mode="c") if path.stat().st_size else np.empty(0, np.uint8)
            if hashlib.sha256(mapped.data).hexdigest() == name:
                _touched(path)
                return mapped.view(np.ndarray)
            path.unlink()  # damaged
        return None

    def put_json(self, value: Any) -> str:
        """Keep plain values as an object; return its SHA-256.

        Raises:
            UsageError: the disk is full, or nothing may be written there.
        """
        return self.put([json.dumps(value, separators=(",", ":")).encode()])

    def get_json(self, name: str) -> Any:
        """The plain values of an object; None if there is no whole one."""
        held = self.get(name)
        return None if held is None else json.loads(held.tobytes())

    def write(self, kind: str, key: str, record: Any) -> None:
        """Keep a record of plain values under a key; an older one is replaced.

        Raises:
            UsageError: the disk is full, or nothing may be written there.
        """
        text = json.dumps(record)
        path = self._record(kind, key)
        with _replacing(path) as draft:
            draft.write_text(json.dumps({"sha256": _digest(text), "record": text}), encoding="utf-8")

    def read(self, kind: str, key: str) -> Any:
        """The record of a key; None if there is no whole one."""
        path = self._record(kind, key)
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            text = held["record"]
            if _digest(text) != held["sha256"]:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        _touched(path)
        return json.loads(text)

    def count(self) -> dict[str, tuple[int, int]]:
        """How many files there are and the bytes that they take, by what they hold: objects, and kinds of records."""
        found: dict[str, tuple[int, int]] = {}
        for path, status in self._files():
            kind = path.relative_to(self.folder).parts[0]
            number, size = found.get(kind, (0, 0))
            found[kind] = (number + 1, size + status.st_size)
        return found

    def trim(self, bound: float | None = None) -> int:
        """Erase what was asked for least recently until the rest fits a bound; return the bytes that are gone."""
        files = sorted(self._files(), key=lambda item: item[1].st_mtime)
        surplus = sum(status.st_size for _, status in files) - (self.bound if bound is None else bound)
        erased = 0
        for path, status in files:
            if erased >= surplus:
                break
            with suppress(OSError):  # another process was faster
                path.unlink()
                erased += status.st_size
        return erased

    def _files(self) -> Iterable[tuple[Path, os.stat_result]]:
        now = time.time()
        for folder, names, files in os.walk(self.folder):
            sweep(Path(folder))  # drafts of processes that have died
            names[:] = [name for name in names if not name.startswith(".")]
            for name in files:
                path = Path(folder, name)
                with suppress(OSError):  # another process was faster
                    if path.stat().st_mtime > now:  # a clock that was ahead
                        os.utime(path, (now, now))
                    yield path, path.stat()

    def _object(self, name: str) -> Path:
        return self.folder / "objects" / name[:2] / name

    def _record(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.json"


def parse_size(text: str, name: str) -> float:
    """Bytes from a text such as `20GB`, or 0.

    Args:
        text: what the user has written.
        name: the flag or environment variable that it was written for.

    Raises:
        UsageError: it is no size.
    """
    try:
        return 0.0 if text == "0" else units.parse(text, units.BYTES)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from error


@contextmanager
def _replacing(path: Path) -> Generator[Path]:
    """A draft that takes a file's place at the end; the file's folder is made where it isn't there."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        yield draft


def _touched(path: Path) -> bool:
    """Mark a file as asked for just now; return whether it is there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:  # somebody else's
        return path.exists()
    return True


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
