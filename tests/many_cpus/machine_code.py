"""Which instructions of a library a CPU hasn't: read by disassemblers that share nothing with the compiler."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import capstone
import iced_x86
from elftools.elf.elffile import ELFFile

Needs = tuple[str, frozenset[str]]
"""An instruction's text, and the flags of which a CPU must have all."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """An instruction that a CPU hasn't.

    Attributes:
        function: the function that the instruction stands in.
        text: the instruction, as a disassembler writes it.
        missing: the flags that the CPU lacks, as Linux calls them.
    """

    function: str
    text: str
    missing: frozenset[str]


def foreign_instructions(library: Path, flags: frozenset[str]) -> tuple[int, list[Foreign]]:
    """How many instructions a library or an object file has, and those that need other flags than the ones given."""
    count, found = 0, []
    for function, text, needed in instructions(library):
        count += 1
        if missing := needed - flags:
            found.append(Foreign(function, text, missing))
    return count, found


def instructions(library: Path) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Each instruction of each function, with the flags that it needs."""
    with library.open("rb") as file:
        elf = ELFFile(file)
        decode = _DECODERS[elf["e_machine"]]
        for name, code in _functions(elf):
            for text, needed in decode(code):
                yield name, text, needed


def _functions(elf: ELFFile) -> Iterator[tuple[str, bytes]]:
    """All code, cut where functions begin; what no symbol names, as loops that threads share, goes to the one before.

    What the linker writes, jumps to other libraries and what is run first and last, is left out.
    """
    table: Any = elf.get_section_by_name(".symtab")
    assert table is not None, "the library has no symbols"
    symbols = [symbol for symbol in table.iter_symbols() if symbol["st_info"]["type"] == "STT_FUNC"]
    for number, section in enumerate(elf.iter_sections()):
        if not section.name.startswith(".text"):
            continue
        here = [symbol for symbol in symbols if symbol["st_shndx"] == number]
        named = {symbol["st_value"] - section["sh_addr"]: symbol.name for symbol in here}
        code, starts = section.data(), sorted({0, *named})
        for start, end in zip(starts, [*starts[1:], len(code)], strict=True):
            yield named.get(start, ""), code[start:end]


def _x86(code: bytes) -> Iterator[Needs]:
    decoder = iced_x86.Decoder(64, code)
    formatter = iced_x86.Formatter(iced_x86.FormatterSyntax.INTEL)
    for instruction in decoder:
        if instruction.is_invalid:
            yield "not an instruction that the disassembler knows", frozenset(("unknown",))
            continue
        numbers = instruction.cpuid_features()
        yield formatter.format(instruction), frozenset(_x86_flag(number) for number in numbers) - {""}


@cache
def _x86_flag(number: int) -> str:
    """A flag as Linux calls it; none for what every x86-64 CPU has."""
    name = _x86_names()[number]
    return "" if name in _X86_BASIS or name.startswith("INTEL") else _X86_SPELLINGS.get(name, name.lower())


@cache
def _x86_names() -> Mapping[int, str]:
    features = vars(iced_x86.CpuidFeature)
    return {number: name for name, number in features.items() if name.isupper()}


_X86_BASIS = frozenset(
    (
        *("X64", "FPU", "FPU287", "FPU387", "CMOV", "CX8", "MMX", "SSE", "SSE2", "FXSR", "TSC", "CPUID", "SYSCALL"),
        *("PAUSE", "MULTIBYTENOP", "CLFSH"),
        "CET_IBT",  # `endbr64`, which CPUs that don't know it skip
    )
)
_X86_SPELLINGS: Mapping[str, str] = {
    "AVX512_IFMA": "avx512ifma",
    "AVX512_VBMI": "avx512vbmi",
    "CMPXCHG16B": "cx16",
    "D3NOW": "3dnow",
    "LZCNT": "abm",
    "PREFETCHW": "3dnowprefetch",
    "SHA": "sha_ni",
    "SSE3": "pni",
}
"""Where Linux's name isn't the disassembler's in small letters."""
X86_FLAGS = frozenset(map(_x86_flag, _x86_names())) - {""}
"""All flags that an instruction may need."""


def _aarch64(code: bytes) -> Iterator[Needs]:
    disassembler = capstone.Cs(capstone.CS_ARCH_AARCH64, capstone.CS_MODE_LITTLE_ENDIAN)
    disassembler.detail = True
    for start in range(0, len(code), 4):
        found = next(disassembler.disasm(code[start : start + 4], 0, 1), None)
        if found is None:
            yield "not an instruction that the disassembler knows", frozenset(("unknown",))
            continue
        groups = (disassembler.group_name(group) for group in found.groups)
        needed = frozenset(_aarch64_flag(group) for group in groups if group.startswith("Has"))
        yield f"{found.mnemonic} {found.op_str}", needed - {""}


def _aarch64_flag(group: str) -> str:
    """A flag as Linux calls it; none for what every AArch64 CPU that runs Linux has."""
    return "" if group in _AARCH64_BASIS else _AARCH64_FLAGS.get(group, group)


_AARCH64_BASIS = frozenset(
    ("HasFPARMv8", "HasNEON", "HasNEONandIsStreamingSafe", "HasNEONandIsSME2p2StreamingSafe", "HasNEONorSME")
)
_AARCH64_FLAGS: Mapping[str, str] = {
    "HasAES": "aes",
    "HasBF16": "bf16",
    "HasCRC": "crc32",
    "HasComplxNum": "fcma",
    "HasDotProd": "asimddp",
    "HasFP16FML": "asimdfhm",
    "HasFRInt3264": "frint",
    "HasFullFP16": "asimdhp",
    "HasJS": "jscvt",
    "HasLSE": "atomics",
    "HasMatMulInt8": "i8mm",
    "HasPAuth": "paca",
    "HasRCPC": "lrcpc",
    "HasRDM": "asimdrdm",
    "HasSHA2": "sha2",
    "HasSHA3": "sha3",
    "HasSVE": "sve",
    "HasSVEorSME": "sve",
    "HasSVE2": "sve2",
    "HasSVE2orSME": "sve2",
}
"""Features by LLVM's predicates, as capstone groups instructions; what isn't listed no CPU has, so that it is found."""

_DECODERS: Mapping[str, Callable[[bytes], Iterator[Needs]]] = {"EM_X86_64": _x86, "EM_AARCH64": _aarch64}
