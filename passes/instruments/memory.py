"""`--instrument memory`: the most memory that the process holds while each pass runs."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, TextIO

from ...ir.errors import UsageError
from ...ir.graph import Graph
from ..allocator import give_back
from ..base import Pass, PassContext
from ..instrument import Instrument
from ..pipeline import format_pass
from ..units import show_bytes

STATUS = Path("/proc/self/status")
_SYSTEM = Path("/proc/meminfo")
_CLEAR = Path("/proc/self/clear_refs")
_PEAK = "5"
"""The text that resets the peak when it is written to that file, see proc_pid_clear_refs(5)."""


class Memory(Instrument):
    """Prints the peak of the resident memory in each pass, without the checks after it, and what it is above the start.

    Where the system doesn't let the peak be reset, it is that of the process so far.

    Args:
        stream: the stream to print to; stderr where none is given.
    """

    name: ClassVar[str] = "memory"

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._before = 0

    def start(self, graph: Graph, context: PassContext) -> None:
        if not STATUS.is_file():
            raise UsageError("memory is measured on Linux alone")

    def before(self, step: Pass, graph: Graph) -> None:
        give_back()
        with suppress(OSError):
            _CLEAR.write_text(_PEAK)
        self._before = resident("VmRSS")

    def ran(self, step: Pass, graph: Graph) -> None:
        peak = resident("VmHWM")
        growth = show_bytes(max(0, peak - self._before))
        print(f"memory in {format_pass(step)}: {show_bytes(peak)}, {growth} more", file=self._stream or sys.stderr)


def resident(key: str) -> int:
    """`VmRSS`, the resident bytes of this process now, or `VmHWM`, their peak."""
    return _read(STATUS, key)


def available() -> int:
    """The bytes that other processes could take without any being swapped out."""
    return _read(_SYSTEM, "MemAvailable")


def _read(file: Path, key: str) -> int:
    line = next(line for line in file.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024
