"""What GEMMs and convolutions ask of an instruction, and the plainest one; others are files beside this one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import tirx

from ..vector_math import loaded
from ..vectors import spread


class Instruction(ABC):
    """An instruction, or a few, that add products to a vector of accumulators.

    The left factors are the same for all accumulators, the right ones are weights of their own.

    Attributes:
        k_per_instruction: products that are added to an accumulator at once; they are neighbours along K.
        rhs_dtype: the element type of packed weights.
        fills_vectors: whether it takes whole vectors of weights alone.
        unroll_k: groups of left factors in a row that are best loaded together.
        zero_point_bias: the number that is subtracted from left factors before they are multiplied.
        speed: the speed relative to multiply-adds of float32.
    """

    mnemonic: ClassVar[str]
    k_per_instruction: ClassVar[int] = 1
    lhs_dtype: ClassVar[str]
    rhs_dtype: ClassVar[str]
    accumulator_dtype: ClassVar[str]
    fills_vectors: ClassVar[bool] = True
    unroll_k: ClassVar[int] = 1
    zero_point_bias: ClassVar[int] = 0
    speed: ClassVar[float] = 1.0

    def __str__(self) -> str:
        return self.mnemonic

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """Pack weights `[..., column, k_per_instruction]`, of whole vectors of columns, merging these two axes."""
        *outer, columns, together = weights.shape
        return np.ascontiguousarray(weights, self.rhs_dtype).reshape(*outer, columns * together)

    def broadcast_lhs(self, elements: tirx.Expr, lanes: int) -> list[tirx.Expr]:
        """Return the left operands of `multiply_add` for neighbouring elements, one for each `k_per_instruction`."""
        return [spread(elements, lanes)]

    @abstractmethod
    def multiply_add(self, sums: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        """Add to each sum the products of the left factors with the weights of its lane."""


@dataclass(frozen=True, slots=True)
class Fma(Instruction):
    """One multiply-add of float32, in vectors of any number of lanes, for which LLVM finds the instruction."""

    mnemonic = "fma"
    lhs_dtype = rhs_dtype = accumulator_dtype = "float32"
    fills_vectors = False

    def broadcast_lhs(self, elements: tirx.Expr, lanes: int) -> list[tirx.Expr]:
        return [spread(loaded(elements), lanes)]

    def multiply_add(self, sums: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        return sums + left * right


FMA = Fma()
