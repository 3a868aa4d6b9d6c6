"""What a kernel needs to know of the machine that it is generated for."""

from dataclasses import dataclass

from ....targets import Target


@dataclass(frozen=True, slots=True)
class Machine:
    """A CPU, seen by a kernel.

    Attributes:
        lanes: float32 elements of a vector register.
        registers: vector registers.
        threads: that share a kernel's work.
        has_vnni: whether it multiplies 8-bit integers in vectors of 512 bits.
        has_bfloat16: whether it multiplies bfloat16 in such vectors.
        is_x86: whether it has that architecture's instructions.
        has_tables: whether it looks bytes up in such.
    """

    lanes: int
    registers: int
    threads: int
    has_vnni: bool = False
    has_bfloat16: bool = False
    is_x86: bool = False
    has_tables: bool = False

    @classmethod
    def of(cls, target: Target) -> "Machine":
        known = {target.architecture, *target.features}
        lanes, registers = next((sizes for name, sizes in _VECTORS if name in known), _LEAST)
        names = ("avx512_vnni", "avx512_bf16", "avx512vbmi")
        has_vnni, has_bfloat16, has_tables = (name in target.features for name in names)
        is_x86 = target.architecture == "x86_64"
        return cls(lanes, registers, target.threads, has_vnni, has_bfloat16, is_x86, has_tables)


_VECTORS = (("avx512f", (16, 32)), ("avx2", (8, 16)), ("aarch64", (4, 32)))
"""Lanes and registers by instruction set, or by architecture where all machines have them."""
_LEAST = (4, 16)
