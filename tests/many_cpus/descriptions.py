"""CPUs as Linux describes them in `/proc/cpuinfo`: archspec's test cases, and some that hide or lack something."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import archspec.cpu

_X86, _AARCH64 = "x86_64", "aarch64"
_FLAGS = {_X86: "flags", _AARCH64: "Features"}


@dataclass(frozen=True, slots=True)
class Description:
    """A CPU.

    Attributes:
        name: the CPU's name for people.
        architecture: `x86_64` or `aarch64`.
        identity: the lines that say who made it and which one it is.
        flags: the CPU's abilities, as Linux calls them.
    """

    name: str
    architecture: str
    identity: Mapping[str, str]
    flags: frozenset[str]

    @property
    def text(self) -> str:
        """What Linux would say if it had two cores."""
        lines = {**self.identity, _FLAGS[self.architecture]: " ".join(sorted(self.flags))}
        rest = "".join(f"{key}\t: {value}\n" for key, value in lines.items())
        return "".join(f"processor\t: {core}\n{rest}\n" for core in range(2))

    def variant(
        self, name: str, *, without: str = "", more: str = "", identity: Mapping[str, str] = MappingProxyType({})
    ) -> "Description":
        """The same CPU with some flags hidden, others added, and lines of its identity replaced."""
        flags = self.flags - set(without.split()) | set(more.split())
        return Description(name, self.architecture, {**self.identity, **identity}, flags)


@cache
def descriptions() -> Mapping[str, Description]:
    """All of them, by name."""
    found = [*_measured(), *_recorded(), *_variants()]
    assert len({description.name for description in found}) == len(found)
    return {description.name: description for description in found}


@cache
def _measured() -> tuple[Description, ...]:
    """The machines whose `/proc/cpuinfo` archspec ships as test data, one of each kind."""
    folder = files("archspec") / "json" / "tests" / "targets"
    found = {file.name.split("-")[-1]: file for file in folder.iterdir() if file.name.startswith("linux-")}
    read = (parse(name, file.read_text(encoding="utf-8")) for name, file in sorted(found.items()))
    return tuple(description for description in read if description is not None)


def parse(name: str, text: str) -> Description | None:
    """The first core of `/proc/cpuinfo`; None for another architecture than planish compiles for."""
    pairs = [line.partition(":") for line in text.split("\n\n", maxsplit=1)[0].splitlines()]
    lines = {key.strip(): value.strip() for key, _, value in pairs}
    for architecture, key in _FLAGS.items():
        if key in lines:
            flags = frozenset(lines.pop(key).split())
            return Description(name, architecture, {key: lines[key] for key in _IDENTITY if key in lines}, flags)
    return None


_IDENTITY = (
    *("vendor_id", "cpu family", "model", "model name", "stepping"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision"),
)


def _recorded() -> Iterable[Description]:
    """CPUs of which archspec has no file, by what it says that they can do."""
    for name in ("core2", "nehalem", "sandybridge", "skylake", "icelake", "cannonlake", "zen2"):
        yield _from_archspec(name, _X86, {"vendor_id": archspec.cpu.TARGETS[name].vendor})
    for name in ("m3", "m4"):
        yield _from_archspec(name, _AARCH64, {"CPU implementer": "0x61", "CPU part": "0xfff"})


def _from_archspec(name: str, architecture: str, identity: Mapping[str, str]) -> Description:
    features: Any = archspec.cpu.TARGETS[name].features
    basis = f"{_BASIS} pni {'xsave' if 'avx' in features else ''}" if architecture == _X86 else ""
    return Description(name, architecture, identity, frozenset(features) | set(basis.split()))


LEAST = "sse2 alone"
_BASIS = "fpu cx8 cmov mmx fxsr sse sse2 syscall lm"
"""What every x86-64 machine has; systems save AVX's registers by XSAVE, which archspec doesn't always mention."""


def _variants() -> Iterable[Description]:
    known = {description.name: description for description in (*_measured(), *_recorded())}
    zen4, zen5, rapids = known["zen4"], known["zen5"], known["sapphirerapids"]
    cascade, haswell, alder = known["cascadelake"], known["haswell"], known["alderlake"]
    n1, v1, v2 = known["neoverse_n1"], known["neoverse_v1"], known["neoverse_v2"]
    a72, m1 = known["cortex_a72"], known["m1"]
    amx = "amx_bf16 amx_tile amx_int8"

    yield zen5.variant("zen5 without rdseed", without="rdseed")
    yield zen5.variant("zen5 without pku", without="pku ospke")
    yield rapids.variant("sapphirerapids without rdseed", without="rdseed")
    yield rapids.variant("sapphirerapids without pku", without="pku ospke")
    yield rapids.variant("sapphirerapids without amx", without=amx)
    yield rapids.variant("avx512 without vnni", without=f"avx512_vnni avx_vnni {amx}")
    yield rapids.variant("bf16 without vnni", without="avx512_vnni avx_vnni")
    yield rapids.variant("vnni without vbmi", without="avx512vbmi avx512_vbmi2")
    yield rapids.variant("vbmi without vnni", without="avx512_vnni avx_vnni avx512_bf16")
    yield zen4.variant("zen4 without bf16", without="avx512_bf16")
    yield zen5.variant("zen5 without avx_vnni", without="avx_vnni")
    for flag in ("vl", "bw", "dq", "cd"):
        yield rapids.variant(f"avx512 without {flag} alone", without=f"avx512{flag}")
    yield rapids.variant("avx512f alone", without=" ".join(flag for flag in _AVX512 & rapids.flags))
    yield cascade.variant("vnni without vl and bw", without="avx512vl avx512bw")
    yield rapids.variant("sapphirerapids without avx512", without=" ".join({"avx512f", *_AVX512}))
    yield haswell.variant("avx2 alone", without="fma f16c bmi1 bmi2 abm movbe")
    yield haswell.variant("avx2 without fma", without="fma")
    yield haswell.variant("avx alone", without="avx2 fma f16c bmi1 bmi2 abm movbe")
    yield haswell.variant("sse4.2 alone", without="avx avx2 fma f16c bmi1 bmi2 abm movbe xsave xsaveopt")
    yield alder.variant("avx_vnni without bmi", without="bmi1 bmi2 abm")
    yield Description(LEAST, _X86, {"vendor_id": "GenuineIntel"}, frozenset(_BASIS.split()))
    yield rapids.variant("avx10.2 with avx512", more="avx10_1 avx10_2")
    yield alder.variant("avx10.2 without avx512", more="avx10_1 avx10_2")
    yield zen5.variant("unknown vendor", identity={"vendor_id": "Unheard Of", "model name": "unheard of"})
    yield haswell.variant("zhaoxin", identity={"vendor_id": "CentaurHauls", "cpu family": "7", "model": "59"})
    bare = {"model name": "QEMU Virtual CPU", "cpu family": "15", "model": "107"}
    yield zen4.variant("virtual machine", identity=bare, without="rdseed pku")

    yield n1.variant("graviton 2", identity={"CPU variant": "0x3"})
    yield v1.variant("graviton 3", identity={"CPU variant": "0x1"})
    yield v2.variant("graviton 4", identity={"CPU variant": "0x0"})
    yield n1.variant("ampere altra", identity={"CPU variant": "0x3", "CPU revision": "1"})
    yield a72.variant("cortex-a53", identity={"CPU part": "0xd03", "CPU revision": "4"})
    yield a72.variant("cortex-a53 without crypto", identity={"CPU part": "0xd03"}, without="aes pmull sha1 sha2")
    yield a72.variant("cortex-a72 without crc32", without="crc32")
    yield n1.variant("neoverse-n1 without dot products", without="asimddp")
    yield v1.variant("neoverse-v1 without sve", without="sve svei8mm svebf16")
    yield v1.variant("neoverse-v1 without bf16 and i8mm", without="bf16 i8mm svei8mm svebf16")
    yield v2.variant("neoverse-v2 without half precision", without="fphp asimdhp asimdfhm")
    yield m1.variant("unknown implementer", identity={"CPU implementer": "0x7f", "CPU part": "0x001"})
    yield Description(
        "armv8.0 alone", _AARCH64, {"CPU implementer": "0x41", "CPU part": "0xfff"}, frozenset(("fp", "asimd"))
    )


_AVX512 = frozenset(
    (
        *("avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512ifma", "avx512vbmi", "avx512_vbmi2", "avx512_vnni"),
        *("avx512_bitalg", "avx512_vpopcntdq", "avx512_bf16", "avx512_fp16", "avx512_vp2intersect"),
    )
)
"""What extends AVX-512."""
