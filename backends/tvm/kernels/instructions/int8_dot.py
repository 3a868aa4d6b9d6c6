"""Instructions that multiply uint8 with int8 and add the products to int32 accumulators, exactly.

Four neighbours along K are multiplied together on every machine ("Bytes on other machines" in docs/tvm.md says with
what). Speeds are measured on x86, for AArch64 they are what its instructions are worth.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..machine import Machine
from ..vectors import cast, held
from .base import Instruction

K_PER_DOT = 4
"""Products that are added to an accumulator at once."""
_MOST = 32767 // 255
"""The limit on a pair of weights' sum, on either side of 0, so that its products with bytes fit into 16 bits."""


@dataclass(frozen=True, slots=True)
class Int8Dot(Instruction):
    """An instruction for four products of bytes with weights, in vectors of some lanes, which may be cut into parts.

    Intrinsics are LLVM's by lanes; in vectors of 256 bits, the one named for AVX-512 serves AVX-VNNI too.
    """

    lanes: int
    k_per_instruction = K_PER_DOT
    lhs_dtype, rhs_dtype, accumulator_dtype = "uint8", "int8", "int32"
    parts: ClassVar[int] = 1
    intrinsics: ClassVar[Mapping[int, str]] = {}

    @staticmethod
    def of(machine: Machine, weights: np.ndarray) -> "Int8Dot":
        """Choose the fastest instruction for int8 weights `[..., K]`."""
        if machine.has_dots:
            return Vpdpbusd(machine.lanes) if machine.is_x86 else Sdot(machine.lanes)
        if not machine.is_x86:
            return Mul(machine.lanes)
        is_bytes = machine.lanes in Vpmaddubsw.intrinsics and _are_small(weights)
        return Vpmaddubsw(machine.lanes) if is_bytes else Vpmaddwd(machine.lanes)

    @staticmethod
    def fits(weights: np.ndarray, machine: Machine) -> bool:
        """Whether the machine multiplies integers faster than floats, and weights `[K, N]` fill instructions."""
        k, n = weights.shape
        return machine.has_integers and k % K_PER_DOT == 0 and n >= machine.lanes

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """Pack weights so that those of a part of the products lie behind each other."""
        *outer, columns, together = weights.shape
        vectors = weights.reshape(*outer, columns // self.lanes, self.lanes, together // self.parts, self.parts)
        return Instruction.pack(self, np.moveaxis(vectors, -1, -3).reshape(weights.shape))

    def broadcast_lhs(self, elements: tirx.Expr, lanes: int) -> list[tirx.Expr]:
        return [self._vectors(T.broadcast(T.reinterpret(elements, dtype="int32"), lanes))]

    def _vectors(self, quads: tirx.Expr) -> tirx.Expr:
        """Return the bytes of a vector of int32."""
        return T.reinterpret(quads, dtype=f"int8x{quads.ty.dtype.lanes * K_PER_DOT}")

    def _call(self, *operands: tirx.Expr, dtype: str = "") -> tirx.Expr:
        name = self.intrinsics[self.lanes]
        return tirx.call_llvm_pure_intrin(dtype or f"int32x{self.lanes}", name, *operands)


class Vpdpbusd(Int8Dot):
    """VNNI: four products of uint8 and int8 at once."""

    mnemonic = "vpdpbusd"
    speed = 4.0
    intrinsics = {8: "llvm.x86.avx512.vpdpbusd.256", 16: "llvm.x86.avx512.vpdpbusd.512"}

    def multiply_add(self, sums: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        return self._call(sums, left, right)


class Sdot(Int8Dot):
    """AArch64's dot product: four products of int8 and int8 at once; it picks the left ones from a vector."""

    mnemonic = "sdot"
    speed = 4.0
    unroll_k = 4
    zero_point_bias = 128
    intrinsics = {4: "llvm.aarch64.neon.sdot.v4i32.v16i8"}

    def broadcast_lhs(self, elements: tirx.Expr, lanes: int) -> list[tirx.Expr]:
        count = elements.ty.dtype.lanes // K_PER_DOT
        if count == 1:
            return [self._signed(same) for same in Int8Dot.broadcast_lhs(self, elements, lanes)]
        signed = self._signed(T.reinterpret(elements, dtype=f"int8x{count * K_PER_DOT}"))
        quads = held(T.reinterpret(signed, dtype=f"int32x{count}"))
        return [self._vectors(tirx.Shuffle([quads], [index] * lanes)) for index in range(count)]

    def multiply_add(self, sums: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        # LLVM knows the instruction that picks four numbers from a vector by its second factor.
        return self._call(sums, right, left)

    def _signed(self, elements: tirx.Expr) -> tirx.Expr:
        return elements ^ tirx.const(-self.zero_point_bias, str(elements.ty.dtype))


class Vpmaddwd(Int8Dot):
    """Pairs of 16-bit integers: those of even bytes, which a mask makes words of, and then those of odd ones."""

    mnemonic = "pmaddwd"
    speed = 1.4
    rhs_dtype = "int16"
    parts = 2
    intrinsics = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}

    def multiply_add(self, sums: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        type = f"uint16x{2 * self.lanes}"
        words, low = T.reinterpret(left, dtype=type), tirx.const(255, type)
        for word, part in zip((words & low, words >> tirx.const(8, type)), _parts(right, self.parts), strict=True):
            sums = sums + self._call(T.reinterpret(word, dtype=f"int16x{2 * self.lanes}"), part)
        return sums


class Vpmaddubsw(Int8Dot):
    """Pairs of uint8 and int8 with sums of 16 bits, which are then added in pairs."""

    mnemonic = "vpmaddubsw, vpmaddwd"
    speed = 2.0
    intrinsics = {8: "llvm.x86.avx2.pmadd.ub.sw", 16: "llvm.x86.avx512.pmaddubs.w.512"}

    def multiply_add(self, sums: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        type = f"int16x{2 * self.lanes}"
        pairs = self._call(left, right, dtype=type)
        return sums + Vpmaddwd(self.lanes)._call(pairs, tirx.const(1, type))


class Mul(Int8Dot):
    """Multiplications in int32, one by one, where a machine has nothing else."""

    mnemonic = "multiplication in int32"
    speed = 0.5
    rhs_dtype = "int16"
    parts = K_PER_DOT

    def broadcast_lhs(self, elements: tirx.Expr, lanes: int) -> list[tirx.Expr]:
        return [elements]

    def multiply_add(self, sums: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        for index, part in enumerate(_parts(right, self.parts)):
            element = tirx.Shuffle([left], [index] * self.lanes)
            sums = sums + cast(element, "int32") * cast(part, "int32")
        return sums


def _are_small(weights: np.ndarray) -> bool:
    """Whether no sum of two neighbours along the last axis, times 255, exceeds 16 bits."""
    beyond = [*[(0, 0)] * (weights.ndim - 1), (0, weights.shape[-1] % 2)]
    padded = np.pad(weights, beyond).astype(np.int16).reshape(-1, 2)
    return all(np.maximum(pairs, 0).sum(-1).max(initial=0) <= _MOST for pairs in (padded, -padded))


def _parts(vector: tirx.Expr, count: int) -> list[tirx.Expr]:
    """Split a vector into equal parts, in order."""
    lanes = vector.ty.dtype.lanes // count
    return [tirx.Shuffle([vector], list(range(part * lanes, (part + 1) * lanes))) for part in range(count)]
