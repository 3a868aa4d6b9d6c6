"""Which files and folders a piece of work reads, so that a later run can tell whether any of them has changed.

Python tells of every file that it opens and every folder that it lists (its audit events), whoever does it: a user's
factory, a module that is imported, numpy, torch. What a library opens by itself is not seen, which is why files beside
a recipe count whether they were seen or not. Files of installed packages don't count; their versions do, elsewhere.
"""

import hashlib
import importlib.util
import os
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ...ir.cache_folder import cache_folder

_DRAFT = f"{os.sep}.planish-draft-"
_LISTING = ("os.listdir", "os.scandir", "glob.glob")


@dataclass(slots=True)
class Reading:
    """What was read while a context lasted.

    Attributes:
        paths: the absolute paths of the files that were opened and the folders that were listed.
    """

    paths: set[str] = field(default_factory=set[str])


@dataclass(frozen=True, slots=True)
class Input:
    """A file or a folder as it was when it was read.

    Attributes:
        path: the absolute path.
        digest: the SHA-256 of a file's bytes, or of the names in a folder; empty where there is none.
    """

    path: str
    digest: str


_RUNNING: list[Reading] = []


@contextmanager
def reading() -> Generator[Reading]:
    """Note what is opened and listed while this lasts, in all threads."""
    _listen()
    noted = Reading()
    _RUNNING.append(noted)
    try:
        yield noted
    finally:
        _RUNNING.remove(noted)


def inputs(paths: Iterable[str]) -> Sequence[Input]:
    """The digests of files and folders, without those of packages, the system, caches and temporary drafts."""
    elsewhere = _elsewhere()
    return [Input(path, digest_of(Path(path))) for path in sorted(set(map(_source, paths))) if _counts(path, elsewhere)]


def are_unchanged(noted: Iterable[Input]) -> bool:
    """Whether files and folders are what they were."""
    return all(digest_of(Path(it.path)) == it.digest for it in noted)


def files_beside(folder: Path) -> list[str]:
    """The files in a folder, not in folders within it; hidden ones don't count."""
    with suppress(OSError):
        return [entry.path for entry in os.scandir(folder.absolute()) if entry.is_file() and entry.name[0] != "."]
    return []


def digest_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, or of the names in a folder; empty where there is neither."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            names = sorted(it.name for it in path.iterdir() if it.name != "__pycache__" and it.name[0] != ".")
            return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()
        if not stat.S_ISREG(mode):
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


@cache
def _listen() -> None:
    sys.addaudithook(_heard)  # which nobody can remove again


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if not _RUNNING:
        return
    if event == "open":
        path, mode, flags = arguments
        is_writing = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
        if is_writing or (isinstance(mode, str) and set(mode) & set("wax+")):
            return
    elif event in _LISTING and not _is_importing():
        path = arguments[0]
    else:
        return
    if isinstance(path, str | bytes | os.PathLike):
        text = str(Path(os.fsdecode(path)).absolute())
        for noted in _RUNNING:
            noted.paths.add(text)


def _is_importing() -> bool:
    """Whether a folder is looked through for modules or packages, where others may be added without harm."""
    asking = sys._getframe(2)  # pyright: ignore[reportPrivateUsage] -- who calls what tells of the event
    return str(asking.f_globals.get("__name__")).startswith("importlib")


def _source(path: str) -> str:
    """The source of a compiled module's file; any other path as it is."""
    if path.endswith(".pyc"):
        with suppress(ValueError):
            return importlib.util.source_from_cache(path)
    return path


def _counts(path: str, elsewhere: tuple[str, ...]) -> bool:
    temporary = tempfile.gettempdir()
    name = path.removeprefix(temporary).lstrip(os.sep)
    if path == temporary or (path.startswith(temporary) and name.startswith("planish-work-")) or _DRAFT in path:
        return False
    return not f"{path}{os.sep}".startswith(elsewhere) and os.path.lexists(path)


def _elsewhere() -> tuple[str, ...]:
    """The folders whose files don't count."""
    paths = sysconfig.get_paths()
    packages = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    ours = [*map(str, own_folders()), str(cache_folder(""))]
    system = ["/proc", "/sys", "/dev", "/etc", "/usr/lib", "/usr/local/lib"]
    return tuple(f"{folder.rstrip(os.sep)}{os.sep}" for folder in (*packages, *ours, *system))


def own_folders() -> list[Path]:
    """The folders of planish's own code."""
    root = Path(__file__).parents[2]
    return [root / name for name in ("backends", "driver", "frontends", "ir", "passes", "targets")]
