"""Codes in 2, 4 or 8 bits, in words of 32, unpacked in registers and multiplied as floats or as bytes."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..vectors import cast, number
from .base import Fma, Instruction
from .int8_dot import K_PER_DOT, Vpdpbusd

_WORD_BITS = 32


class FewBits(Instruction):
    """An instruction whose right factors are unpacked from words of codes, each of some bits."""

    rhs_dtype = "int32"
    zero_point_dtype: ClassVar[str]
    bits: int

    @property
    def word(self) -> int:
        """Codes of a column in a word."""
        return _WORD_BITS // self.bits

    @property
    @abstractmethod
    def order(self) -> Sequence[int]:
        """The rows whose codes are in a word, lowest bits first."""

    @property
    @abstractmethod
    def zero(self) -> int:
        """What is taken from codes before they are multiplied, the middle one or 0."""

    def words(self, codes: np.ndarray) -> np.ndarray:
        """Pack codes `[K, N]` as words `[K / word, N]`, less `zero`."""
        parts = codes.reshape(-1, self.word, codes.shape[1])[:, self.order].astype(np.uint32) ^ self.zero
        shifts = self.bits * np.arange(self.word, dtype=np.uint32)[:, None]
        return np.bitwise_or.reduce(parts << shifts, axis=1).view(np.int32)

    def zero_points(self, zero_points: np.ndarray) -> np.ndarray:
        """Return zero points, which are codes, less `zero`."""
        return (zero_points.astype(np.int16) - self.zero).astype(self.zero_point_dtype)

    @abstractmethod
    def unpack(self, words: tirx.Expr, step: int) -> tirx.Expr:
        """Return the right factors of one of the steps of a vector of words."""


@dataclass(frozen=True, slots=True)
class FewBitsFma(FewBits, Fma):
    """Multiply-adds of codes as floats around 0; 4 bits may be looked up in a register (VPERMPS in 512 bits)."""

    bits: int
    has_lookup: bool
    zero_point_dtype = "int8"

    @property
    def order(self) -> Sequence[int]:
        return range(self.word)

    @property
    def zero(self) -> int:
        return 2 ** (self.bits - 1)

    def unpack(self, words: tirx.Expr, step: int) -> tirx.Expr:
        if self.bits == 4 and words.ty.dtype.lanes == 16 and self.has_lookup:  # of an index, 4 bits count
            shifted = words >> number(4 * step, words) if step else words
            table = tirx.Shuffle([T.float32((code + 8) % 16 - 8) for code in range(16)], list(range(16)))
            return tirx.call_llvm_pure_intrin("float32x16", "llvm.x86.avx512.permvar.sf.512", table, shifted)
        above = _WORD_BITS - self.bits
        top = words << number(above - self.bits * step, words) if step < self.word - 1 else words
        return cast(top >> number(above, words), "float32")


@dataclass(frozen=True, slots=True)
class FewBitsDot(FewBits, Vpdpbusd):
    """VNNI's products of codes with int8, in vectors of 16; the low bits of a word's bytes hold the first four rows."""

    bits: int
    lhs_dtype, rhs_dtype, zero_point_dtype = "float32", "int32", "uint8"

    @property
    def order(self) -> Sequence[int]:
        return [K_PER_DOT * step + byte for byte in range(K_PER_DOT) for step in range(8 // self.bits)]

    @property
    def zero(self) -> int:
        return 0

    def unpack(self, words: tirx.Expr, step: int) -> tirx.Expr:
        if self.bits == 8:
            return self._vectors(words)
        shifted = words >> number(self.bits * step, words)
        return self._vectors(shifted & number(0x01010101 * (2**self.bits - 1), words))

    def multiply_add(self, sums: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        return Vpdpbusd.multiply_add(self, sums, right, left)
