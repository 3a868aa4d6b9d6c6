"""Folders in which something becomes whole before it takes its place, and what a killed process leaves of them.

A draft is locked for as long as its process is alive, whatever the process's number: whoever makes the next one in the
same folder erases those that nobody holds, and puts back what such a process had set aside.
"""

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from .errors import UsageError
from .files import writing

_BESIDE, _TEMPORARY = ".planish-draft-", "planish-work-"
"""What the names of drafts begin with: hidden ones beside what they become, and those among temporary files."""
_ASIDE = ".replaced"
"""The folder of a draft in which an older version waits, by its own name, until the new one is in its place."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_EXCHANGE, _HERE = 2, -100
"""Arguments of Linux's `renameat2`: the flag that exchanges two names, and paths relative to the working directory."""


@contextmanager
def beside(path: Path) -> Generator[Path]:
    """A folder beside a path, on the same disk, that is gone afterwards.

    Raises:
        UsageError: the disk is full, or nothing may be written there.
    """
    with _claimed(path.absolute().parent, _BESIDE) as folder:
        yield folder


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A draft that takes a file's place in one step at the end, or vanishes on failure.

    Raises:
        UsageError: the disk is full, or nothing may be written there.
    """
    with beside(path) as folder, writing(path):
        draft = folder / path.name
        yield draft
        draft.replace(path)


@contextmanager
def workspace() -> Generator[Path]:
    """A folder among temporary files that is gone afterwards.

    Raises:
        UsageError: the disk is full, or nothing may be written there.
    """
    try:
        parent = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise UsageError(f"{error.strerror}: name a folder that can be written in TMPDIR") from error
    with _claimed(parent, _TEMPORARY) as folder:
        yield folder


def put(draft: Path, place: Path) -> None:
    """Move a draft, made in a folder `beside` a place, there in one step; a folder that was there becomes the draft.

    Where the system can't exchange two folders, the older one is set aside first: `sweep` puts it back after a kill in
    between.
    """
    with alone(place.parent):
        try:
            draft.rename(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not _exchanged(draft, place):
                _set_aside(draft, place)


@contextmanager
def alone(folder: Path) -> Generator[None]:
    """Keep other processes from moving anything by `put` into a folder meanwhile, where the system can lock folders.

    A draft is its maker's alone, who has locked it already.
    """
    if folder.name.startswith((_BESIDE, _TEMPORARY)):
        yield
        return
    with ExitStack() as stack:
        with suppress(OSError):  # a folder that isn't there, or not ours to read, or a file system without locks
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sweep(parent: Path, prefix: str = _BESIDE) -> None:
    """Erase the drafts in a folder whose processes have died, after what they had set aside is back in its place."""
    with suppress(OSError):  # it isn't there, or not ours to read
        for entry in list(os.scandir(parent)):
            if entry.name.startswith(prefix) and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                _sweep_one(Path(entry.path))


def _sweep_one(folder: Path) -> None:
    with suppress(OSError):  # it is alive, or another process was faster
        lock = os.open(folder, _FOLDER)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (folder / _ASIDE).is_dir():
                _put_back(folder)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _put_back(folder: Path) -> None:
    with alone(folder.parent):
        for old in (folder / _ASIDE).iterdir():
            if not os.path.lexists(folder.parent / old.name):
                old.rename(folder.parent / old.name)


@contextmanager
def _claimed(parent: Path, prefix: str) -> Generator[Path]:
    sweep(parent, prefix)
    with writing(parent):
        folder, lock = _made(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _made(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new folder and its lock, which nobody was faster to take than its maker."""
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(6)}"
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            error.filename = str(parent)  # nobody has heard of the draft
            raise
        with suppress(FileNotFoundError, BlockingIOError):  # it is being swept
            lock = os.open(folder, _FOLDER)
            try:
                _lock(lock)
                folder.stat()
            except BaseException:
                os.close(lock)
                raise
            return folder, lock


def _lock(folder: int) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # this file system has no locks: what is left on it is never swept
        return


def _exchanged(draft: Path, place: Path) -> bool:
    """Whether the system has let two names change places; not all systems and file systems can."""
    rename = _renameat2()
    if rename is None:
        return False
    if rename(_HERE, os.fsencode(draft), _HERE, os.fsencode(place), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(place))


@cache
def _renameat2() -> Any:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function


def _set_aside(draft: Path, place: Path) -> None:
    """Two steps instead of one, in between which the place is empty."""
    aside = draft.parent / _ASIDE / place.name
    aside.parent.mkdir()
    try:
        place.rename(aside)
        draft.rename(place)
    except BaseException:
        if not place.exists() and aside.exists():
            aside.rename(place)
        raise
    aside.rename(draft)
