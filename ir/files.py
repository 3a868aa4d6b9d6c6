"""Files that others wrote, opened so that only regular files are read, and only inside the folder they may lie in.

What the system refuses to write is told with the path that it is about.
"""

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import BinaryIO, TypeVar

from .errors import UsageError

T = TypeVar("T")

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe that nobody writes into would never open
_LONGEST = 4096
_FULL = {errno.ENOSPC, errno.EDQUOT}
NOT_OURS = {
    *_FULL,
    *(
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EBUSY,
        errno.EXDEV,
        errno.EFBIG,
        errno.EIO,
        errno.EMLINK,
        errno.EEXIST,
    ),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ESTALE),
}
"""What a disk, a folder or a name is to blame for."""
_ADVICE = dict.fromkeys(_FULL, "; make room there, or name another folder") | {
    errno.EBUSY: "; where a disk is mounted, name a folder in it"
}


class RefusedFileError(Exception):
    """A file that isn't opened; the message says why, without its path."""


def fit_name(given: T) -> T:
    """Return a name, unchanged, that a file may have.

    Raises:
        ValueError: no system has such a name.
    """
    text = str(given)
    if "\0" in text or len(text) > 4096 or any(len(part.encode(errors="replace")) > 255 for part in text.split("/")):
        raise ValueError("no file can have such a name: it is too long, or holds a NUL")
    return given


@contextmanager
def writing(path: str | os.PathLike[str]) -> Generator[None]:
    """Report what the system refuses to write in this context with the path that it names, or else with this one.

    Raises:
        UsageError: the disk is full, nothing may be written there, or the path makes no sense.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise
        raise UsageError(refusal(error, path)) from error


def write_text(path: Path, text: str) -> None:
    """Write a text to a file, whose folder is made if there is none.

    Raises:
        UsageError: the disk is full, nothing may be written there, or the path makes no sense.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode(errors="backslashreplace"))


def is_full(said: str) -> bool:
    """Whether somebody else's message is about a disk that is full."""
    return any(os.strerror(number) in said for number in _FULL)


def refusal(error: OSError, path: str | os.PathLike[str]) -> str:
    """What the system has refused to do, and where: at what it names, or else at a path that is known."""
    place = os.fsdecode(error.filename2 or error.filename or path)
    return f"{place} can't be written: {error.strerror}{_ADVICE.get(error.errno or 0, '')}"


def make_room(folder: Path, size: int) -> None:
    """Make sure that a disk can take so many bytes, for what would crash where they don't fit.

    Raises:
        UsageError: it can't.
    """
    with writing(folder), TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)


def file_in_memory(name: str) -> tuple[BinaryIO, Path] | None:
    """A file on no disk, and a path by which other processes can open it while it is open here.

    None where the system has no such files.
    """
    if not hasattr(os, "memfd_create") or not Path("/proc/self/fd").is_dir():
        return None
    number = os.memfd_create(name)
    return os.fdopen(number, "w+b"), Path(f"/proc/{os.getpid()}/fd/{number}")


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open the file that a user names, which may be a link to one.

    Raises:
        RefusedFileError: it isn't there, can't be read, or is a folder, a pipe or a device.
    """
    try:
        descriptor = os.open(path, _READ)
    except (OSError, ValueError) as error:  # the latter for a path with a NUL
        raise RefusedFileError(getattr(error, "strerror", None) or str(error)) from error
    return _checked(descriptor)


def open_within(folder: Path, location: str, *, may_have_names: bool = False) -> BufferedReader:
    """Open a file that another file names by its place in a folder.

    Each part of the path is opened by itself and follows no symbolic link, so that nobody can exchange one in between.
    A file that has a second name (a hard link) may be anybody's and is refused as well.

    Args:
        folder: the folder that the file must lie in; it may be reached by links.
        location: the file's path, relative to the folder.
        may_have_names: whether hard links are fine, as where it is known what the file holds.

    Raises:
        RefusedFileError: it would lie elsewhere, is reached by a link, isn't there, or is no regular file.
    """
    parts = PurePosixPath(location).parts
    if not parts or location.startswith("/") or ".." in parts or "\0" in location or "\\" in location:
        raise RefusedFileError("it must be a relative path without '..'")
    if len(location) > _LONGEST:
        raise RefusedFileError(f"its path has {len(location):,} characters")
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for index, part in enumerate(parts):
            kind = _READ if index == len(parts) - 1 else os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            try:
                inner = os.open(part, kind | os.O_NOFOLLOW, dir_fd=descriptor)
            except OSError as error:
                raise RefusedFileError(_reason(part, descriptor, error)) from error
            finally:
                os.close(descriptor)
            descriptor = inner
    except OSError as error:
        raise RefusedFileError(error.strerror or str(error)) from error
    file = _checked(descriptor)
    if not may_have_names and os.fstat(file.fileno()).st_nlink > 1:
        file.close()
        raise RefusedFileError("it is a hard link, whose other name may lie anywhere; give a copy of it")
    return file


def _reason(part: str, folder: int, error: OSError) -> str:
    """Why a part of a path wasn't opened; a link is one whatever the system's word for it is."""
    try:
        is_link = stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        is_link = False
    return f"{part!r} is a symbolic link; give a copy of what it names" if is_link else error.strerror or str(error)


def _checked(descriptor: int) -> BufferedReader:
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise RefusedFileError("Is a directory" if stat.S_ISDIR(mode) else "it is no regular file")
    return os.fdopen(descriptor, "rb")
