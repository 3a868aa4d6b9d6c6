"""Whether the machine at hand can run code that was compiled for another one; asked with the standard library alone."""

import platform
from collections.abc import Iterable
from pathlib import Path

from ..ir.errors import TargetError

_CPU = Path("/proc/cpuinfo")
_SPELLINGS = {"amd64": "x86_64", "arm64": "aarch64"}
_OTHER_NAMES = {"pni": "sse3"}
"""What Linux calls an instruction set, and what targets call it."""


def architecture() -> str:
    """Of the machine at hand, as targets call it."""
    machine = platform.machine().lower()
    return _SPELLINGS.get(machine, machine)


def check_machine(wanted: str, features: Iterable[str]) -> None:
    """Refuse to run code that this machine would stop at with an illegal instruction.

    Where the system doesn't say what its CPU can do, only the architecture is compared.

    Raises:
        TargetError: the machine is of another architecture, or lacks instruction sets.
    """
    if wanted != (machine := architecture()):
        raise TargetError(
            f"the artifact is built for {wanted}, but this machine is {machine}: build it for a target like this"
        )
    missing = sorted(set(features) - _features()) if _CPU.is_file() else []
    if missing:
        raise TargetError(
            f"the artifact uses {', '.join(missing)}, which this machine lacks: build it for a target like this"
        )


def runs_here(wanted: str, features: Iterable[str]) -> bool:
    """Whether `check_machine` has nothing to say."""
    try:
        check_machine(wanted, features)
    except TargetError:
        return False
    return True


def _features() -> set[str]:
    lines = _CPU.read_text(encoding="utf-8").splitlines()
    words = next(
        (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features"))), []
    )
    return {*words, *(_OTHER_NAMES[word] for word in words if word in _OTHER_NAMES)}
