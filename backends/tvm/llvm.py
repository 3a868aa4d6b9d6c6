"""The targets that LLVM compiles for, whose features are all that kernels may make use of.

A CPU's name would turn on all features of its design, some of which systems hide: so the name only decides the order of
instructions, and instruction sets are turned on and off one by one.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from tvm.target import Target, codegen

from ...ir.errors import TargetError
from ...ir.suggestion import nearest
from ...targets import Target as Machine
from ...targets.cpu import architecture as this_architecture
from ...targets.features import FEATURES, closed

_ALWAYS: Mapping[str, frozenset[str]] = {
    "x86_64": frozenset({"64bit", "64bit-mode", "cmov", "cx8", "fxsr", "mmx", "sse", "sse2", "x87"}),
    "aarch64": frozenset({"fp-armv8", "neon"}),
}
"""The features that all machines of an architecture have."""
_TUNING = re.compile(
    # x86
    r"(allow-light|false-deps|faster|fast|idiv[lq]|lea|no-bypass|prefer|slow|tuning|use)-.*|branchfusion|branch-hint"
    r"|ermsb|fsrm|macrofusion|nopl|pad-short-functions|sbb-dep-breaking|vzeroupper"
    # AArch64: what is fused, made cheap or put into order, and the names of designs, which stand for such things
    r"|(addr|aggressive|alternate|alu|arith|avoid|balance|cmp|disable|enable|force|fuse|ldp|max|no-sve|no-zcz"
    r"|predictable|store-pair|stp|zcm|zcz)-.*|exynos.*|a\d+(ae|c|fx)?|(apple|c1|cortex|oryon)-.*"
    r"|(ampere|neoverse|thunderx).*"
    r"|carmel|falkor|fujitsu-monaka|kryo|olympus|saphira|tsv110|strict-align"
)
"""The names of LLVM features that say how fast something is, and not whether it exists."""


def triple(architecture: str) -> str:
    """Return a system's triple; machines other than this one are assumed to run Linux."""
    return f"{architecture}-linux-gnu"


def llvm_target(machine: Machine) -> Target:
    """Return TVM's target: a machine's instruction sets, and the CPU that instructions are ordered for.

    Raises:
        TargetError: LLVM doesn't know the CPU, or planish not the architecture.
        UsageError: planish doesn't know an instruction set.
    """
    if machine.architecture not in FEATURES:
        raise TargetError(f"{machine.name}: planish has no kernels for {machine.architecture} machines")
    if not codegen.llvm_is_valid_cpu(machine.mcpu, triple(machine.architecture)):
        kind = Target({"kind": "llvm", "mtriple": triple(machine.architecture)})
        known = (str(name) for name in codegen.llvm_get_cpu_archlist(kind))
        raise TargetError(f"{machine.name}: LLVM knows no CPU {machine.mcpu!r}{nearest(machine.mcpu, known)}")
    features = closed(machine.architecture, machine.features)
    return _told(machine.architecture, machine.mcpu, features, machine.threads)


def llvm_features(machine: Machine) -> frozenset[str]:
    """Return the instruction sets that LLVM itself says it may use on a machine, by LLVM's names."""
    return _enabled(llvm_target(machine))


@lru_cache
def _told(architecture: str, mcpu: str, features: frozenset[str], threads: int) -> Target:
    kind: dict[str, object] = {"kind": "llvm", "mcpu": mcpu, "num-cores": threads}
    if architecture != this_architecture():
        kind["mtriple"] = triple(architecture)
    table = FEATURES[architecture]
    wanted = _ALWAYS[architecture] | {table[name].llvm for name in features if table[name].llvm}
    removed = _enabled(Target(kind)) - wanted
    return Target(
        {**kind, "mattr": [*(f"-{name}" for name in sorted(removed)), *(f"+{name}" for name in sorted(wanted))]}
    )


@lru_cache
def _enabled(kind: Target) -> frozenset[str]:
    """Return the instruction sets of a target, without features that say how fast something is."""
    names = (str(name) for name in codegen.llvm_get_cpu_features(kind))
    return frozenset(name for name in names if not _TUNING.fullmatch(name))
