"""Codes in 4 bits, eight of them in a word, unpacked in registers and multiplied as floats or as bytes."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..vectors import cast, spread, vector_type
from .base import Instruction
from .fma import Fma
from .int8_dot import K_PER_DOT, Vpdpbusd

WORD = 8
"""Codes of a column in 32 bits."""
_ZERO = 8
"""What is subtracted from codes that are multiplied as floats."""


class Int4(Instruction):
    """An instruction whose right factors are unpacked from words of codes.

    Attributes:
        order: the rows of a word's codes, the one in the lowest bits first.
        zero_point_dtype: of the zero points, from which codes count.
    """

    rhs_dtype = "int32"
    order: ClassVar[Sequence[int]] = range(WORD)
    zero_point_dtype: ClassVar[str]

    def words(self, codes: np.ndarray) -> np.ndarray:
        """Pack codes `[K, N]` from 0 to 15 as words `[K / 8, N]`."""
        parts = codes.reshape(-1, WORD, codes.shape[1])[:, self.order].astype(np.uint32)
        shifts = 4 * np.arange(WORD, dtype=np.uint32)[:, None]
        return np.bitwise_or.reduce(parts << shifts, axis=1).view(np.int32)

    def zero_points(self, zero_points: np.ndarray) -> np.ndarray:
        """Return zero points from 0 to 15 in their type."""
        return zero_points.astype(self.zero_point_dtype)

    @abstractmethod
    def unpack(self, words: tirx.Expr, step: int) -> tirx.Expr:
        """Return the right factors of one of the steps of a vector of words."""


@dataclass(frozen=True, slots=True)
class Int4Fma(Int4, Fma):
    """Multiply-adds of codes as floats from -8 to 7.

    Attributes:
        has_lookup: whether the machine looks 16 floats up in a register (VPERMPS in 512 bits).
    """

    has_lookup: bool
    zero_point_dtype = "int8"

    def words(self, codes: np.ndarray) -> np.ndarray:
        """Pack codes less 8, whose sign is their highest bit."""
        return Int4.words(self, codes ^ _ZERO)

    def zero_points(self, zero_points: np.ndarray) -> np.ndarray:
        return zero_points.astype(np.int8) - np.int8(_ZERO)

    def unpack(self, words: tirx.Expr, step: int) -> tirx.Expr:
        if words.ty.dtype.lanes == 16 and self.has_lookup:  # of an index, 4 bits count
            shifted = words >> tirx.const(4 * step, "int32x16") if step else words
            table = tirx.Shuffle([T.float32((code + _ZERO) % 16 - _ZERO) for code in range(16)], list(range(16)))
            instruction = T.llvm_lookup_intrinsic_id("llvm.x86.avx512.permvar.sf.512")
            return T.call_llvm_pure_intrin(instruction, table, shifted, dtype="float32x16")
        wide = vector_type("int32", words)
        top = words << tirx.const(28 - 4 * step, wide) if step < WORD - 1 else words
        return cast(top >> tirx.const(28, wide), "float32")


@dataclass(frozen=True, slots=True)
class Int4Dot(Int4):
    """VNNI's products of codes with int8, in vectors of 16; low halves of bytes hold the first four rows."""

    mnemonic = Vpdpbusd.mnemonic
    k_per_instruction = K_PER_DOT
    lhs_dtype = "float32"
    accumulator_dtype = "int32"
    zero_point_dtype = "uint8"
    order = (0, 4, 1, 5, 2, 6, 3, 7)

    def unpack(self, words: tirx.Expr, step: int) -> tirx.Expr:
        low = spread(T.int32(0x0F0F0F0F), 16)
        return T.reinterpret((words >> spread(T.int32(4 * step), 16)) & low, dtype="int8x64")

    def broadcast_lhs(self, elements: tirx.Expr, lanes: int) -> list[tirx.Expr]:
        return Vpdpbusd(16).broadcast_lhs(elements, lanes)

    def multiply_add(self, sums: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        return Vpdpbusd(16).multiply_add(sums, right, left)
