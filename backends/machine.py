"""The check that this machine can run code compiled for another one, with the standard library alone."""

from collections.abc import Iterable

from ..ir.errors import TargetError
from ..targets.cpu import architecture, this_cpu


def check_machine(wanted: str, features: Iterable[str]) -> None:
    """Refuse to run code with instructions that this machine lacks.

    Where the system doesn't say what its CPU can do, only the architecture is compared.

    Raises:
        TargetError: the machine is of another architecture, or lacks instruction sets.
    """
    if wanted != (machine := architecture()):
        raise TargetError(
            f"the artifact is built for {wanted}, but this machine is {machine}: build it for a target like this"
        )
    cpu = this_cpu()
    missing = [] if cpu is None else sorted(set(features) - cpu.features)
    if missing:
        raise TargetError(
            f"the artifact uses {', '.join(missing)}, which this machine lacks: build it for a target like this"
        )


def runs_here(wanted: str, features: Iterable[str]) -> bool:
    """Whether `check_machine` has no objection."""
    try:
        check_machine(wanted, features)
    except TargetError:
        return False
    return True
