"""Multiply-adds of float32, for which LLVM finds the instruction."""

from dataclasses import dataclass

from tvm import tirx

from .base import Instruction


@dataclass(frozen=True, slots=True)
class Fma(Instruction):
    """One multiply-add, in vectors of any number of lanes."""

    mnemonic = "fma"
    lhs_dtype = rhs_dtype = accumulator_dtype = "float32"
    fills_vectors = False

    def multiply_add(self, sums: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        return sums + left * right


FMA = Fma()
