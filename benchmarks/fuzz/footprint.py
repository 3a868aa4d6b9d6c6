"""What a process holds of the system."""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

_COMPILER = b"tvm.compiler.server"
_MOMENT = 0.05
"""Seconds between two looks at a process."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds at a moment.

    Attributes:
        memory: the bytes that are the process's own, and that it has written to.
        libraries: the number of artifacts' libraries that are mapped.
        files: the number of open files.
        threads: the number of threads.
    """

    memory: int
    libraries: int
    files: int
    threads: int

    @classmethod
    def of(cls, process: int | str = "self") -> "Footprint":
        """The footprint of a process, by its number.

        Raises:
            OSError: there is no such process.
        """
        folder = Path("/proc", str(process))
        lines = (line.split() for line in (folder / "smaps_rollup").read_text().splitlines())
        memory = sum(int(words[1]) << 10 for words in lines if words[0] == "Private_Dirty:")
        names = {line.split(maxsplit=5)[-1] for line in (folder / "maps").read_text().splitlines()}
        libraries = sum("model.so" in name for name in names)
        return cls(memory, libraries, *(len(list((folder / name).iterdir())) for name in ("fd", "task")))

    @property
    def counts(self) -> Mapping[str, int]:
        """The footprint without the memory."""
        return {name: count for name, count in asdict(self).items() if name != "memory"}


def compiler() -> Footprint | None:
    """The footprint of the process that TVM compiles in for this one, if there is one."""
    children = Path("/proc/self/task").glob("*/children")
    for process in (number for path in children for number in path.read_text().split()):
        if _COMPILER in Path("/proc", process, "cmdline").read_bytes():
            _await_rest(process)  # it answers first, and lets go of what it was given afterwards
            return Footprint.of(process)
    return None


def _await_rest(process: str) -> None:
    """Wait until no thread of a process is at work, and none has been for a moment."""
    before = None
    while (now := _threads(process)) != before or any(state in "RD" for state, _ in now.values()):
        before = now
        time.sleep(_MOMENT)


def _threads(process: str) -> Mapping[str, tuple[str, int]]:
    """The state of each thread of a process, as ps writes it, and the ticks of the processor that it has had."""
    threads: dict[str, tuple[str, int]] = {}
    for path in Path("/proc", process, "task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            words = path.read_text().rpartition(")")[2].split()
            threads[path.parent.name] = words[0], int(words[11]) + int(words[12])
    return threads


def growth(sizes: Iterable[int]) -> float:
    """The growth of sizes from one to the next: the median of the slopes between all pairs (Theil and Sen)."""
    values = np.fromiter(sizes, float)
    one, other = np.triu_indices(values.size, 1)
    return float(np.median((values[other] - values[one]) / (other - one)))


def peak_growth(sizes: Sequence[int]) -> float:
    """The growth of the largest size from one half to the other, per size: for sizes that fall now and then."""
    half = len(sizes) // 2
    return (max(sizes[half:]) - max(sizes[:half])) / half


def settled(footprints: Sequence[Footprint]) -> Sequence[Footprint]:
    """The last three quarters: what is loaded and made once has been by then."""
    return footprints[len(footprints) // 4 :]
