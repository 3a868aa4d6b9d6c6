# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportReturnType=none
"""Instructions that multiply pairs of 8-bit integers and add the products to sums of int32, exactly.

With VNNI, there is one that takes four pairs for each of 16 sums.
"""

from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from .machine import Machine
from .vectors import converted, spread

LANES = 16
"""Sums of an instruction."""
DEPTH = 4
"""Products that go into each of them."""


def with_dots(sums: Any, quad: Any, factors: Any) -> Any:
    """Sums of int32, and to each of them the products of the same four uint8 with four int8 of its own."""
    same = T.reinterpret(T.broadcast(T.reinterpret(quad, dtype="int32"), LANES), dtype="int8x64")
    return with_products(sums, same, factors)


def with_products(sums: Any, left: Any, right: Any) -> Any:
    """Sums of int32, and to each of them the products of four uint8, whose bits are given as int8, with four int8."""
    instruction = T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512")
    return T.call_llvm_pure_intrin(instruction, sums, left, right, dtype="int32x16")


@dataclass(frozen=True, slots=True)
class Instruction:
    """What adds products to a vector of sums.

    Attributes:
        name: LLVM's, of what multiplies and adds pairs of int16; empty where there is none, and where there is VNNI.
        depth: how many products go into each sum.
        weights: the type that it takes them in, which is as wide as a sum in all.
    """

    name: str
    depth: int
    weights: str

    @classmethod
    def of(cls, machine: Machine) -> "Instruction":
        if machine.has_vnni:
            return cls("", DEPTH, "int8")
        return cls(_PAIRS[machine.lanes], 2, "int16") if machine.is_x86 else cls("", 1, "int32")

    def added(self, sums: Any, left: Any, right: Any) -> Any:
        """The sums with products added: of as many uint8, and of weights for each sum."""
        if self.depth == DEPTH:
            return with_dots(sums, left, right)
        lanes = sums.ty.dtype.lanes
        if self.depth == 1:
            return sums + spread(left.astype("int32"), lanes) * right
        pair = T.reinterpret(converted(left, "int16"), dtype="int32")
        factors = T.reinterpret(T.broadcast(pair, lanes), dtype=f"int16x{2 * lanes}")
        instruction = T.llvm_lookup_intrinsic_id(self.name)
        return sums + T.call_llvm_pure_intrin(instruction, factors, right, dtype=f"int32x{lanes}")


_PAIRS = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
"""By lanes; products of 16-bit integers don't saturate, unlike those of 8 bits that are added in 16."""
