"""Instruction sets by architecture: the names that Linux, archspec and LLVM give each, and the sets it builds on.

Only sets that a compiler may choose for what a kernel computes are listed: AMX and timers, say, are used by nobody
here. The dependencies are those of LLVM's own tables, where turning on a set turns on what it builds on. SSE4a is the
exception: it needs no SSSE3, but without that, LLVM 22 takes elements out of a vector's upper half by EXTRQ, which
doesn't reach there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..ir.errors import UsageError
from ..ir.suggestion import nearest


@dataclass(frozen=True, slots=True)
class Feature:
    """An instruction set.

    Attributes:
        llvm: LLVM's name of it.
        needs: the sets that it builds on directly.
    """

    llvm: str
    needs: tuple[str, ...] = ()


_X86 = {
    "sse": Feature("sse"),
    "sse2": Feature("sse2", ("sse",)),
    "sse3": Feature("sse3", ("sse2",)),
    "ssse3": Feature("ssse3", ("sse3",)),
    "sse4_1": Feature("sse4.1", ("ssse3",)),
    "sse4_2": Feature("sse4.2", ("sse4_1",)),
    "sse4a": Feature("sse4a", ("ssse3",)),
    "popcnt": Feature("popcnt"),
    "abm": Feature("lzcnt"),
    "bmi1": Feature("bmi"),
    "bmi2": Feature("bmi2"),
    "tbm": Feature("tbm"),
    "movbe": Feature("movbe"),
    "cx16": Feature("cx16"),
    "lahf_lm": Feature("sahf"),
    "adx": Feature("adx"),
    "aes": Feature("aes"),
    "pclmulqdq": Feature("pclmul"),
    "sha_ni": Feature("sha"),
    "gfni": Feature("gfni"),
    "avx": Feature("avx", ("sse4_2",)),
    "f16c": Feature("f16c", ("avx",)),
    "fma": Feature("fma", ("avx",)),
    "fma4": Feature("fma4", ("avx", "sse4a")),
    "xop": Feature("xop", ("fma4",)),
    "avx2": Feature("avx2", ("avx",)),
    "vaes": Feature("vaes", ("aes", "avx2")),
    "vpclmulqdq": Feature("vpclmulqdq", ("pclmulqdq", "avx")),
    "avx_vnni": Feature("avxvnni", ("avx2",)),
    "avx_ifma": Feature("avxifma", ("avx2",)),
    "avx_ne_convert": Feature("avxneconvert", ("avx2",)),
    "avx_vnni_int8": Feature("avxvnniint8", ("avx2",)),
    "avx_vnni_int16": Feature("avxvnniint16", ("avx2",)),
    "avx512f": Feature("avx512f", ("avx2", "f16c", "fma")),
    "avx512bw": Feature("avx512bw", ("avx512f",)),
    "avx512cd": Feature("avx512cd", ("avx512f",)),
    "avx512dq": Feature("avx512dq", ("avx512f",)),
    "avx512vl": Feature("avx512vl", ("avx512f",)),
    "avx512ifma": Feature("avx512ifma", ("avx512f",)),
    "avx512vbmi": Feature("avx512vbmi", ("avx512bw",)),
    "avx512_vbmi2": Feature("avx512vbmi2", ("avx512bw",)),
    "avx512_vnni": Feature("avx512vnni", ("avx512f",)),
    "avx512_bitalg": Feature("avx512bitalg", ("avx512bw",)),
    "avx512_vpopcntdq": Feature("avx512vpopcntdq", ("avx512f",)),
    "avx512_vp2intersect": Feature("avx512vp2intersect", ("avx512f",)),
    "avx512_bf16": Feature("avx512bf16", ("avx512bw",)),
    "avx512_fp16": Feature("avx512fp16", ("avx512bw",)),
}
_AARCH64 = {
    "fp": Feature("fp-armv8"),
    "asimd": Feature("neon", ("fp",)),
    "aes": Feature("aes", ("pmull",)),
    "pmull": Feature(""),
    "sha1": Feature(""),
    "sha2": Feature("sha2", ("sha1",)),
    "sha3": Feature("sha3", ("sha2", "sha512")),
    "sha512": Feature(""),
    "crc32": Feature("crc"),
    "atomics": Feature("lse"),
    "fphp": Feature(""),
    "asimdhp": Feature("fullfp16", ("fphp",)),
    "asimdfhm": Feature("fp16fml", ("asimdhp",)),
    "asimdrdm": Feature("rdm"),
    "asimddp": Feature("dotprod"),
    "lrcpc": Feature("rcpc"),
    "ilrcpc": Feature("rcpc-immo", ("lrcpc",)),
    "jscvt": Feature("jsconv"),
    "fcma": Feature("complxnum"),
    "frint": Feature("fptoint"),
    "flagm": Feature("flagm"),
    "flagm2": Feature("altnzcv", ("flagm",)),
    "i8mm": Feature("i8mm"),
    "bf16": Feature("bf16"),
    "sve": Feature("sve", ("asimdhp",)),
    "sve2": Feature("sve2", ("sve",)),
    "svebitperm": Feature("sve-bitperm", ("sve2",)),
}
FEATURES: Mapping[str, Mapping[str, Feature]] = {"x86_64": _X86, "aarch64": _AARCH64}
"""All sets by architecture and by Linux's name; one whose name in LLVM is empty is part of another there."""


def usable(architecture: str, visible: Iterable[str]) -> frozenset[str]:
    """The instruction sets of a machine that a compiler may be told of: those whose whole foundation is visible too.

    Args:
        architecture: the architecture of the machine.
        visible: the names that its system shows, others than instruction sets among them.
    """
    table, shown = FEATURES.get(architecture, {}), frozenset(visible)
    return frozenset(name for name in table if closed(architecture, [name]) <= shown)


def closed(architecture: str, names: Iterable[str]) -> frozenset[str]:
    """Instruction sets with all that they build on.

    Args:
        architecture: the architecture that they belong to.
        names: the names of the sets.

    Raises:
        UsageError: a name is unknown; the nearest one is suggested.
    """
    table, found, waiting = FEATURES.get(architecture, {}), set[str](), list(names)
    while waiting:
        name = waiting.pop()
        if name not in table:
            raise UsageError(f"unknown feature {name!r} of {architecture}{nearest(name, table)}")
        if name not in found:
            found.add(name)
            waiting += table[name].needs
    return frozenset(found)
