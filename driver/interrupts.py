"""Interrupts that aren't lost: in a runtime's constructor or a finalizer they become other errors, or none."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

_NOTED: list[int] = []


@contextmanager
def noted() -> Generator[None]:
    """While this lasts, interrupts are remembered."""
    _NOTED.clear()
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def is_interrupted() -> bool:
    return bool(_NOTED)


def check() -> None:
    """Raise an interrupt again that somebody took for something else."""
    if _NOTED:
        raise KeyboardInterrupt


def _note(number: int, frame: FrameType | None) -> None:
    _NOTED.append(number)
    signal.default_int_handler(number, frame)
