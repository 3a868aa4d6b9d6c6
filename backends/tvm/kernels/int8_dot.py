"""Instructions that multiply uint8 with int8 and add the products to int32 accumulators, exactly.

Four neighbours along the depth K are multiplied together on every machine. VNNI does so in one instruction, as does
AArch64's dot product, which takes int8 on both sides, so that 128 is subtracted from the left operand. Other x86
machines multiply pairs: by VPMADDUBSW, whose sums of 16 bits saturate, if the weights are so small that no sum can,
else by VPMADDWD.
"""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .machine import Machine
from .vectors import cast, held

K_PER_DOT = 4
"""Products that are added to an accumulator at once."""
_MOST = 32767 // 255
"""The limit on a pair of weights' sum, on either side of 0, so that its products with bytes fit into 16 bits."""


class Form(Enum):
    """How four products are added to an accumulator."""

    DOTS = "dots"
    """All at once, of uint8 and int8."""
    SIGNED = "signed"
    """All at once, of int8 and int8."""
    BYTES = "bytes"
    """In pairs of uint8 and int8 with sums of 16 bits, which are then added in pairs."""
    WORDS = "words"
    """In pairs of 16-bit integers."""
    SINGLE = "single"
    """One by one."""


_NAMES = {
    (Form.DOTS, 8): "llvm.x86.avx512.vpdpbusd.256",
    (Form.DOTS, 16): "llvm.x86.avx512.vpdpbusd.512",
    (Form.SIGNED, 4): "llvm.aarch64.neon.sdot.v4i32.v16i8",
    (Form.BYTES, 8): "llvm.x86.avx2.pmadd.ub.sw",
    (Form.BYTES, 16): "llvm.x86.avx512.pmaddubs.w.512",
    (Form.WORDS, 4): "llvm.x86.sse2.pmadd.wd",
    (Form.WORDS, 8): "llvm.x86.avx2.pmadd.wd",
    (Form.WORDS, 16): "llvm.x86.avx512.pmaddw.d.512",
}
"""LLVM's intrinsics by form and lanes; in vectors of 256 bits, the one named for AVX-512 serves AVX-VNNI too."""
_MNEMONICS = {
    Form.DOTS: "vpdpbusd",
    Form.SIGNED: "sdot",
    Form.BYTES: "vpmaddubsw, vpmaddwd",
    Form.WORDS: "pmaddwd",
    Form.SINGLE: "multiplication in int32",
}
_SPEEDS = {Form.DOTS: 4.0, Form.SIGNED: 4.0, Form.BYTES: 2.0, Form.WORDS: 1.4, Form.SINGLE: 0.5}


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction, or a few, that add products to a vector of accumulators.

    Attributes:
        form: how the products are added.
        lanes: sums of a vector.
        together: products that are added to a sum at once.
        summed: the type of the sums.
    """

    form: Form
    lanes: int
    k_per_instruction: ClassVar[int] = K_PER_DOT
    accumulator_dtype: ClassVar[str] = "int32"

    @classmethod
    def of(cls, machine: Machine, weights: np.ndarray) -> "Instruction":
        """Choose the fastest instruction for int8 weights `[..., depth]`."""
        if machine.has_dots:
            return cls(Form.DOTS if machine.is_x86 else Form.SIGNED, machine.lanes)
        if not machine.is_x86:
            return cls(Form.SINGLE, machine.lanes)
        is_bytes = (Form.BYTES, machine.lanes) in _NAMES and _are_small(weights)
        return cls(Form.BYTES if is_bytes else Form.WORDS, machine.lanes)

    @property
    def spelled(self) -> str:
        """The machine's mnemonics of the instructions that make the products."""
        return _MNEMONICS[self.form]

    @property
    def speed(self) -> float:
        """The speed relative to float32 multiply-adds: measured on x86, for AArch64 what its instructions are worth."""
        return _SPEEDS[self.form]

    @property
    def shift(self) -> int:
        """What is subtracted from uint8 before it is multiplied."""
        return 128 if self.form is Form.SIGNED else 0

    @property
    def run(self) -> int:
        """Left operands of four uint8 in a row that are best loaded together: an instruction picks one of them."""
        return self.lanes if self.form is Form.SIGNED else 1

    @property
    def weights(self) -> str:
        """The element type in which the instruction takes weights."""
        return "int16" if self.form in (Form.WORDS, Form.SINGLE) else "int8"

    def packed(self, weights: np.ndarray) -> np.ndarray:
        """Pack weights `[..., column, four products]`, of whole vectors of columns, merging these two axes."""
        *batch_dims, columns, _ = weights.shape
        vectors = weights.astype(self.weights).reshape(*batch_dims, columns // self.lanes, self.lanes, K_PER_DOT)
        if self.form is Form.WORDS:  # those of even bytes, which a mask makes words of, and then those of odd ones
            vectors = np.moveaxis(vectors.reshape(*vectors.shape[:-1], 2, 2), -1, -3)
        if self.form is Form.SINGLE:
            vectors = np.moveaxis(vectors, -1, -2)
        return np.ascontiguousarray(vectors).reshape(*batch_dims, columns * K_PER_DOT)

    def broadcast_lhs(self, octets: tirx.Expr) -> list[tirx.Expr]:
        """Return a left operand of `added` for every four of a vector of uint8: for `run` of them, or one."""
        lanes = self.lanes
        if self.form is Form.SINGLE:
            return [octets]
        count = octets.ty.dtype.lanes // K_PER_DOT
        if count == 1:
            same = T.reinterpret(
                T.broadcast(T.reinterpret(octets, dtype="int32"), lanes), dtype=f"int8x{lanes * K_PER_DOT}"
            )
            return [self._shifted(same)]
        signed = self._shifted(T.reinterpret(octets, dtype=f"int8x{count * K_PER_DOT}"))
        quads = held(T.reinterpret(signed, dtype=f"int32x{count}"))
        return [
            T.reinterpret(tirx.Shuffle([quads], [index] * lanes), dtype=f"int8x{lanes * K_PER_DOT}")
            for index in range(count)
        ]

    def multiply_add(self, sums: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        """Add to each sum the products of four uint8, the same for all sums, with four weights of its own."""
        sixteen = f"x{2 * self.lanes}"
        if self.form is Form.DOTS:
            return self._call(sums, left, right)
        if self.form is Form.SIGNED:
            # LLVM knows the instruction that picks four numbers from a vector by its second factor.
            return self._call(sums, right, left)
        if self.form is Form.BYTES:
            pairs = self._call(left, right, dtype=f"int16{sixteen}")
            return sums + Instruction(Form.WORDS, self.lanes)._call(pairs, tirx.const(1, f"int16{sixteen}"))
        parts = _parts(right, 2 if self.form is Form.WORDS else K_PER_DOT)
        if self.form is Form.SINGLE:
            for index, part in enumerate(parts):
                octet = tirx.Shuffle([left], [index] * self.lanes)
                sums = sums + cast(octet, "int32") * cast(part, "int32")
            return sums
        words = T.reinterpret(left, dtype=f"uint16{sixteen}")
        eight = tirx.const(8, f"uint16{sixteen}")
        for word, part in zip((words & tirx.const(255, f"uint16{sixteen}"), words >> eight), parts, strict=True):
            sums = sums + self._call(T.reinterpret(word, dtype=f"int16{sixteen}"), part)
        return sums

    def _call(self, *operands: tirx.Expr, dtype: str = "") -> tirx.Expr:
        name = T.llvm_lookup_intrinsic_id(_NAMES[self.form, self.lanes])
        return T.call_llvm_pure_intrin(name, *operands, dtype=dtype or f"int32x{self.lanes}")

    def _shifted(self, octets: tirx.Expr) -> tirx.Expr:
        return octets ^ tirx.const(-self.shift, str(octets.ty.dtype)) if self.shift else octets


def _are_small(weights: np.ndarray) -> bool:
    """Whether no sum of two neighbours along the last axis, times 255, exceeds 16 bits."""
    padded = np.pad(weights, [*[(0, 0)] * (weights.ndim - 1), (0, weights.shape[-1] % 2)]).astype(np.int16)
    pairs = padded.reshape(-1, 2)
    return bool((np.maximum(pairs, 0).sum(1) <= _MOST).all() and (np.minimum(pairs, 0).sum(1) >= -_MOST).all())


def _parts(vector: tirx.Expr, count: int) -> list[tirx.Expr]:
    """Split a vector into equal parts, in order."""
    lanes = vector.ty.dtype.lanes // count
    return [tirx.Shuffle([vector], list(range(part * lanes, (part + 1) * lanes))) for part in range(count)]
