"""Codes in 4 bits, eight of them in a word, unpacked in registers and multiplied as floats or as bytes."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..vectors import cast, number
from .base import Fma, Instruction
from .int8_dot import Vpdpbusd

WORD = 8
"""Codes of a column in 32 bits."""


class Int4(Instruction):
    """An instruction whose right factors are unpacked from words of codes; `order` has the rows, lowest bits first."""

    rhs_dtype = "int32"
    order: ClassVar[Sequence[int]] = range(WORD)
    zero: ClassVar[int] = 0
    zero_point_dtype: ClassVar[str]

    def words(self, codes: np.ndarray) -> np.ndarray:
        """Pack codes `[K, N]` from 0 to 15 as words `[K / 8, N]`, less `zero`."""
        parts = codes.reshape(-1, WORD, codes.shape[1])[:, self.order].astype(np.uint32) ^ self.zero
        shifts = 4 * np.arange(WORD, dtype=np.uint32)[:, None]
        return np.bitwise_or.reduce(parts << shifts, axis=1).view(np.int32)

    def zero_points(self, zero_points: np.ndarray) -> np.ndarray:
        """Return zero points from 0 to 15, less `zero`."""
        return (zero_points.astype(np.int8) - self.zero).astype(self.zero_point_dtype)

    @abstractmethod
    def unpack(self, words: tirx.Expr, step: int) -> tirx.Expr:
        """Return the right factors of one of the steps of a vector of words."""


@dataclass(frozen=True, slots=True)
class Int4Fma(Int4, Fma):
    """Multiply-adds of codes as floats from -8 to 7, which may be looked up in a register (VPERMPS in 512 bits)."""

    has_lookup: bool
    zero = 8
    zero_point_dtype = "int8"

    def unpack(self, words: tirx.Expr, step: int) -> tirx.Expr:
        if words.ty.dtype.lanes == 16 and self.has_lookup:  # of an index, 4 bits count
            shifted = words >> number(4 * step, words) if step else words
            table = tirx.Shuffle([T.float32((code + 8) % 16 - 8) for code in range(16)], list(range(16)))
            return tirx.call_llvm_pure_intrin("float32x16", "llvm.x86.avx512.permvar.sf.512", table, shifted)
        top = words << number(28 - 4 * step, words) if step < WORD - 1 else words
        return cast(top >> number(28, words), "float32")


@dataclass(frozen=True, slots=True)
class Int4Dot(Int4, Vpdpbusd):
    """VNNI's products of codes with int8, in vectors of 16; low halves of bytes hold the first four rows."""

    lhs_dtype, rhs_dtype, zero_point_dtype = "float32", "int32", "uint8"
    order = (0, 4, 1, 5, 2, 6, 3, 7)

    def unpack(self, words: tirx.Expr, step: int) -> tirx.Expr:
        return self._vectors((words >> number(4 * step, words)) & number(0x0F0F0F0F, words))

    def multiply_add(self, sums: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        return Vpdpbusd.multiply_add(self, sums, right, left)
