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
        has_dots: whether it adds four products of 8-bit integers to each of as many sums of int32 at once.
        has_bfloat16: whether it multiplies bfloat16 in vectors of 512 bits.
        is_x86: whether it has that architecture's instructions.
        has_tables: whether it looks bytes up in vectors of 512 bits.
    """

    lanes: int
    registers: int
    threads: int
    has_dots: bool = False
    has_bfloat16: bool = False
    is_x86: bool = False
    has_tables: bool = False

    @classmethod
    def of(cls, target: Target) -> "Machine":
        known = {target.architecture, *target.features}
        lanes, registers, dots = next((sizes for name, sizes in _VECTORS if name in known), _LEAST)
        has_dots, has_bfloat16, has_tables = (name in target.features for name in (dots, "avx512_bf16", "avx512vbmi"))
        is_x86 = target.architecture == "x86_64"
        return cls(lanes, registers, target.threads, has_dots, has_bfloat16, is_x86, has_tables)

    @property
    def has_wide_dots(self) -> bool:
        """Whether it does so in vectors of 512 bits."""
        return self.has_dots and self.lanes == 16

    @property
    def has_integers(self) -> bool:
        """Whether it multiplies 8-bit integers faster than floats: without more, x86 does it in pairs."""
        return self.has_dots or self.is_x86


_VECTORS = (
    ("avx512f", (16, 32, "avx512_vnni")),
    ("avx2", (8, 16, "avx_vnni")),
    ("aarch64", (4, 32, "asimddp")),
)
"""Lanes, registers, and what multiplies 8-bit integers, by instruction set, or by architecture where all machines have them."""
_LEAST = (4, 16, "")
