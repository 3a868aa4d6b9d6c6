"""Files that others wrote, opened so that nothing but a regular file is read, and nothing beyond the folder that it may lie in."""

import os
import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

T = TypeVar("T")

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe that nobody writes into would never open
_LONGEST = 4096


class RefusedFileError(Exception):
    """A file that isn't opened; the message says why, without its path."""


def fit_name(given: T) -> T:
    """Pass on what a file may be called.

    Raises:
        ValueError: no system has such a name.
    """
    text = str(given)
    if "\0" in text or len(text) > 4096 or any(len(part.encode(errors="replace")) > 255 for part in text.split("/")):
        raise ValueError("no file can have such a name: it is too long, or holds a NUL")
    return given


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open the file that a user names, which may be a link to one.

    Raises:
        RefusedFileError: it isn't there, can't be read, or is a folder, a pipe or a device.
    """
    try:
        descriptor = os.open(path, _READ)
    except (OSError, ValueError) as error:  # the latter for a path with a NUL
        raise RefusedFileError(getattr(error, "strerror", None) or str(error)) from error
    return _checked(descriptor)


def open_within(folder: Path, location: str) -> BinaryIO:
    """Open a file that another file names by its place in a folder.

    Each part of the path is opened by itself and follows no symbolic link, so that nobody can exchange one in between. A
    file that has a second name (a hard link) may be anybody's and is refused as well.

    Args:
        folder: that the file must lie in; it may be reached by links.
        location: relative to the folder.

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
    if os.fstat(file.fileno()).st_nlink > 1:
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


def _checked(descriptor: int) -> BinaryIO:
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise RefusedFileError("Is a directory" if stat.S_ISDIR(mode) else "it is no regular file")
    return os.fdopen(descriptor, "rb")
