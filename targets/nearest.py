"""Which of the CPUs that archspec and LLVM know a CPU is the most like: instructions are ordered for that one."""

from functools import cache

import archspec.cpu
from archspec.cpu import Microarchitecture, detect
from archspec.cpu.schema import TARGETS_JSON

from .cpu import Cpu, available_threads
from .features import FEATURES, closed

_CLANG = "22.0"
"""The version of LLVM in TVM; archspec's flags for clang name LLVM's CPUs."""


def detected() -> Cpu:
    """The machine at hand where Linux doesn't describe it: by what archspec finds out from macOS or Windows."""
    seen, host = detect.detected_info(), archspec.cpu.host()
    features = frozenset(seen.features | host.features)
    return Cpu(host.family.name, seen.vendor, seen.cpu_part, features, available_threads())


def named(name: str) -> Cpu | None:
    """A CPU by archspec's name, such as `zen4`, with everything that its design has; None if none has that name."""
    if name not in names():
        return None
    found = archspec.cpu.TARGETS[name]
    return Cpu(found.family.name, found.vendor, found.cpu_part, features_of(found) | found.features)


def names() -> tuple[str, ...]:
    """The names of real CPUs in archspec, as far as planish knows their architecture."""
    known = archspec.cpu.TARGETS.items()
    return tuple(name for name, cpu in known if cpu.family.name in FEATURES and cpu.vendor != "generic")


def nearest_to(cpu: Cpu, features: frozenset[str]) -> Microarchitecture | None:
    """The design that differs from a CPU in the fewest instruction sets, among those of its vendor and generic ones.

    Args:
        cpu: the CPU that is described.
        features: its instruction sets, as far as `FEATURES` lists them.

    Returns:
        The design; None for an architecture that planish doesn't know.
    """
    vendor = TARGETS_JSON["conversions"]["arm_vendors"].get(cpu.vendor, cpu.vendor)
    kin = [known for known in archspec.cpu.TARGETS.values() if known.family.name == cpu.architecture]
    fitting = [known for known in kin if known.vendor in (vendor, "generic") and llvm_name(known) is not None]

    def likeness(known: Microarchitecture) -> tuple[bool, int, int, int]:
        is_same_part = bool(cpu.part) and known.cpu_part == cpu.part
        lacking = len(known.features - cpu.features)  # among what no compiler uses as well: timers, say
        return is_same_part, -len(features_of(known) ^ features), -lacking, len(known.ancestors)

    return max(fitting, key=likeness, default=None) if cpu.architecture in FEATURES else None


@cache
def features_of(known: Microarchitecture) -> frozenset[str]:
    """A design's instruction sets, as far as `FEATURES` lists them."""
    architecture = known.family.name
    return closed(architecture, known.features & FEATURES[architecture].keys())


def llvm_name(known: Microarchitecture) -> str | None:
    """LLVM's name of a design; None where LLVM knows a list of extensions alone, or nothing."""
    try:
        flags = known.optimization_flags("clang", _CLANG).split()
    except archspec.cpu.UnsupportedMicroarchitecture:
        return None
    named = dict(flag.split("=", 1) for flag in flags if "=" in flag)
    if known.family.name == "x86_64":
        return named.get("-march")
    if "-mcpu" in named or known.vendor != "generic":
        return named.get("-mcpu", known.name.replace("_", "-"))
    return "generic" if known == known.family else None
