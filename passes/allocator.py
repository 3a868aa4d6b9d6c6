"""What the process does with memory that tensors have left."""

import ctypes
import platform
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""The parameters of glibc's `mallopt`: when free memory goes back to the system, and what is mapped by itself."""
_USUAL = 32 << 20
"""The greatest size to which glibc raises the latter by itself."""
_LOCK = threading.Lock()
_KEEPING = list[None]()
"""An entry for each `kept_memory` that is under way."""


@contextmanager
def kept_memory() -> Generator[None]:
    """Keep memory that is free for what is allocated next, and give it back at the end, of the outermost if nested.

    The C library would map a large tensor's memory anew each time, and the kernel would fill all of it with zeros: for
    a language model's logits, that takes as long as what is computed. Without glibc nothing changes.
    """
    with _LOCK:
        _KEEPING.append(None)
        _set(mapped=1 << 30, trimmed=(1 << 31) - 1)
    try:
        yield
    finally:
        with _LOCK:
            _KEEPING.pop()
            if not _KEEPING:
                _set(mapped=_USUAL, trimmed=2 * _USUAL)
                give_back()


def give_back() -> None:
    """Give memory that is free back to the system."""
    if (library := _library()) is not None:
        library.malloc_trim(0)


def _set(*, mapped: int, trimmed: int) -> None:
    if (library := _library()) is not None:
        library.mallopt(_MMAP_THRESHOLD, mapped)
        library.mallopt(_TRIM_THRESHOLD, trimmed)


@cache
def _library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
