"""What a kernel needs to know of the machine that it is generated for."""

from dataclasses import dataclass

from ....targets import Target
from ..llvm import llvm_features
from .costs import AVX512, Costs


@dataclass(frozen=True, slots=True)
class Machine:
    """A CPU as kernels see it, with what work costs on it.

    Attributes:
        lanes: float32 elements of a vector register.
        has_dots: whether it adds four products of 8-bit integers to each of as many sums of int32 at once.
        has_bfloat16: whether it multiplies bfloat16 in vectors of 512 bits.
        has_tables: whether it looks bytes up in vectors of 512 bits.
    """

    lanes: int
    registers: int
    threads: int
    has_dots: bool = False
    has_bfloat16: bool = False
    is_x86: bool = False
    has_tables: bool = False
    costs: Costs = AVX512

    @classmethod
    def of(cls, target: Target) -> "Machine":
        """Return the machine as LLVM is told of it: kernels ask for no instruction that LLVM may not emit."""
        known = llvm_features(target)
        lanes, registers, dots = next(sizes for needed, sizes in _VECTORS if needed <= known)
        is_widest = lanes == 16
        return cls(
            lanes,
            registers,
            target.threads,
            has_dots=dots in known,
            has_bfloat16=is_widest and "avx512bf16" in known,
            is_x86=target.architecture == "x86_64",
            has_tables=is_widest and "avx512vbmi" in known,
        )

    @property
    def plain(self) -> "Machine":
        """The machine without instructions that only some machines with the same vectors have."""
        return Machine(self.lanes, self.registers, self.threads, costs=self.costs)

    @property
    def has_wide_dots(self) -> bool:
        """Whether the machine has dot products of 8-bit integers in vectors of 512 bits."""
        return self.has_dots and self.lanes == 16

    @property
    def has_integers(self) -> bool:
        """Whether 8-bit integers are multiplied faster than floats: x86 without dot products does so in pairs."""
        return self.has_dots or self.is_x86


_VECTORS = (
    (frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"}), (16, 32, "avx512vnni")),
    (frozenset({"avx2"}), (8, 16, "avxvnni")),
    (frozenset({"neon"}), (4, 32, "dotprod")),
    (frozenset[str](), (4, 16, "")),
)
"""Lanes, registers and the dot product of 8-bit integers, by the features that they need, in LLVM's names."""
