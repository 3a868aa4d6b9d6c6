# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportReturnType=none
"""Instructions that multiply uint8 with int8 and add the products to sums of int32, exactly.

Four neighbours along the depth are multiplied together, whatever the machine: VNNI does it by one instruction, and so does
AArch64's dot product, which takes int8 on both sides, so that 128 is taken from the left one. Other x86 machines multiply
pairs: by VPMADDUBSW, which adds them in 16 bits and saturates, where the weights are so small that it can't, else by VPMADDWD.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .machine import Machine
from .vectors import converted, held

DEPTH = 4
"""Products that are added to a sum at once."""
_MOST = 32767 // 255
"""What the weights of a pair may come to so that their products with bytes fit into 16 bits; likewise below 0."""


class Form(Enum):
    """How four products come into a sum."""

    DOTS = "dots"
    """All at once, of uint8 and int8."""
    SIGNED = "signed"
    """All at once, of int8 and int8."""
    BYTES = "bytes"
    """In pairs of uint8 and int8, whose sums have 16 bits; then by pairs of these."""
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
"""LLVM's, by form and lanes; that for AVX-512 is the same in vectors of 256 bits without it."""
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
    """What adds products to a vector of sums.

    Attributes:
        form: how.
        lanes: sums of a vector.
        together: products that are added to a sum at once.
        summed: the type of the sums.
    """

    form: Form
    lanes: int
    together: ClassVar[int] = DEPTH
    summed: ClassVar[str] = "int32"

    @classmethod
    def of(cls, machine: Machine, weights: np.ndarray) -> "Instruction":
        """The fastest one for weights `[..., depth]` of int8."""
        if machine.has_dots:
            return cls(Form.DOTS if machine.is_x86 else Form.SIGNED, machine.lanes)
        if not machine.is_x86:
            return cls(Form.SINGLE, machine.lanes)
        is_bytes = (Form.BYTES, machine.lanes) in _NAMES and _are_small(weights)
        return cls(Form.BYTES if is_bytes else Form.WORDS, machine.lanes)

    @property
    def spelled(self) -> str:
        """The instructions that make the products, by the machine's name of them."""
        return _MNEMONICS[self.form]

    @property
    def speed(self) -> float:
        """Against multiply-adds of float32. Measured on x86, and for AArch64 what its instructions are worth."""
        return _SPEEDS[self.form]

    @property
    def shift(self) -> int:
        """What is taken from uint8 before it is multiplied."""
        return 128 if self.form is Form.SIGNED else 0

    @property
    def run(self) -> int:
        """How many left operands of four uint8 that lie in a row are best loaded together: an instruction picks one of them."""
        return self.lanes if self.form is Form.SIGNED else 1

    @property
    def weights(self) -> str:
        """The type that it takes them in."""
        return "int16" if self.form in (Form.WORDS, Form.SINGLE) else "int8"

    def packed(self, weights: np.ndarray) -> np.ndarray:
        """Weights `[..., column, four products]`, of whole vectors of columns, as they are loaded, both axes as one."""
        *lead, columns, _ = weights.shape
        vectors = weights.astype(self.weights).reshape(*lead, columns // self.lanes, self.lanes, DEPTH)
        if self.form is Form.WORDS:  # those of even bytes, which a mask makes words of, and then those of odd ones
            vectors = np.moveaxis(vectors.reshape(*vectors.shape[:-1], 2, 2), -1, -3)
        if self.form is Form.SINGLE:
            vectors = np.moveaxis(vectors, -1, -2)
        return np.ascontiguousarray(vectors).reshape(*lead, columns * DEPTH)

    def lefts(self, octets: Any) -> list[Any]:
        """What `added` takes for every four of a vector of uint8: of `run` times as many, or of four."""
        lanes = self.lanes
        if self.form is Form.SINGLE:
            return [octets]
        count = octets.ty.dtype.lanes // DEPTH
        if count == 1:
            same = T.reinterpret(
                T.broadcast(T.reinterpret(octets, dtype="int32"), lanes), dtype=f"int8x{lanes * DEPTH}"
            )
            return [self._shifted(same)]
        signed = self._shifted(T.reinterpret(octets, dtype=f"int8x{count * DEPTH}"))
        quads = held(T.reinterpret(signed, dtype=f"int32x{count}"))
        return [
            T.reinterpret(tirx.Shuffle([quads], [index] * lanes), dtype=f"int8x{lanes * DEPTH}")
            for index in range(count)
        ]

    def added(self, sums: Any, left: Any, right: Any) -> Any:
        """Sums, and to each of them the products of the same four uint8 with four weights of its own."""
        sixteen = f"x{2 * self.lanes}"
        if self.form is Form.DOTS:
            return self._call(sums, left, right)
        if (
            self.form is Form.SIGNED
        ):  # LLVM knows the instruction that picks four numbers from a vector by its second factor
            return self._call(sums, right, left)
        if self.form is Form.BYTES:
            pairs = self._call(left, right, dtype=f"int16{sixteen}")
            return sums + Instruction(Form.WORDS, self.lanes)._call(pairs, tirx.const(1, f"int16{sixteen}"))
        parts = _parts(right, 2 if self.form is Form.WORDS else DEPTH)
        if self.form is Form.SINGLE:
            for index, part in enumerate(parts):
                octet = tirx.Shuffle([left], [index] * self.lanes)
                sums = sums + converted(octet, "int32") * converted(part, "int32")
            return sums
        words = T.reinterpret(left, dtype=f"uint16{sixteen}")
        eight = tirx.const(8, f"uint16{sixteen}")
        for word, part in zip((words & tirx.const(255, f"uint16{sixteen}"), words >> eight), parts, strict=True):
            sums = sums + self._call(T.reinterpret(word, dtype=f"int16{sixteen}"), part)
        return sums

    def _call(self, *operands: Any, dtype: str = "") -> Any:
        name = T.llvm_lookup_intrinsic_id(_NAMES[self.form, self.lanes])
        return T.call_llvm_pure_intrin(name, *operands, dtype=dtype or f"int32x{self.lanes}")

    def _shifted(self, octets: Any) -> Any:
        return octets ^ tirx.const(-self.shift, str(octets.ty.dtype)) if self.shift else octets


def _are_small(weights: np.ndarray) -> bool:
    """Whether no two neighbours along the last axis, times 255, exceed 16 bits."""
    padded = np.pad(weights, [*[(0, 0)] * (weights.ndim - 1), (0, weights.shape[-1] % 2)]).astype(np.int16)
    pairs = padded.reshape(-1, 2)
    return bool((np.maximum(pairs, 0).sum(1) <= _MOST).all() and (np.minimum(pairs, 0).sum(1) >= -_MOST).all())


def _parts(vector: Any, count: int) -> list[Any]:
    """A vector's parts in order, as vectors."""
    lanes = vector.ty.dtype.lanes // count
    return [tirx.Shuffle([vector], list(range(part * lanes, (part + 1) * lanes))) for part in range(count)]
