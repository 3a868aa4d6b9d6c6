"""The CPU at hand, or another one, as its system describes it."""

import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path

from ..ir.errors import UsageError

VARIABLE = "PLANISH_CPUINFO"
"""The environment variable that names a file to read in place of `/proc/cpuinfo`."""
_CPUINFO = Path("/proc/cpuinfo")
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""What other systems than Linux call an architecture."""
_FEATURES = {"pni": "sse3"}
"""What Linux calls an instruction set, and what all others call it."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """A CPU with what its system lets programs use, which may be less than what was built into it.

    Attributes:
        architecture: `x86_64`, `aarch64`, or whatever Linux calls it.
        vendor: the vendor as the CPU says it: a name on x86, a number on AArch64; empty where nothing says it.
        part: the vendor's number of the design on AArch64.
        features: all features that the system names, instruction sets among them.
        threads: the number of threads that it runs side by side; 0 where nothing says it.
    """

    architecture: str
    vendor: str = ""
    part: str = ""
    features: frozenset[str] = frozenset()
    threads: int = 0


def architecture() -> str:
    """The architecture of the machine at hand."""
    machine = platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine)


def described_by(text: str) -> Cpu | None:
    """The CPU that a text in the form of `/proc/cpuinfo` describes; None if it names no features.

    Where its cores differ, it has what all of them have, and is called what the first one is called.
    """
    parted = (line.partition(":") for line in text.splitlines())
    entries = [(key.strip().lower(), value.strip()) for key, _, value in parted]
    fields = dict(reversed(entries))
    for key, its_architecture in (("flags", "x86_64"), ("features", "aarch64")):
        if key in fields:
            words = frozenset.intersection(*(frozenset(value.split()) for name, value in entries if name == key))
            return Cpu(
                its_architecture,
                fields.get("vendor_id", fields.get("cpu implementer", "")),
                fields.get("cpu part", ""),
                words | {_FEATURES[word] for word in words if word in _FEATURES},
                sum(name == "processor" for name, _ in entries),
            )
    return None


def this_cpu() -> Cpu | None:
    """The machine at hand as Linux describes it, or the file that `PLANISH_CPUINFO` names; None where nothing says it.

    Raises:
        UsageError: the file that is named isn't there, or describes no CPU.
    """
    stated = os.environ.get(VARIABLE)
    path = Path(stated or _CPUINFO)
    try:
        cpu = described_by(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        if stated:
            raise UsageError(f"{VARIABLE}: {path} can't be read: {error.strerror}") from error
        return None
    if cpu is None:
        if stated:
            raise UsageError(f"{VARIABLE}: {path} has no line of `flags` or `Features`, as /proc/cpuinfo has")
        return None
    return replace(cpu, threads=available_threads())


def available_threads() -> int:
    """How many threads this process may run side by side."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
