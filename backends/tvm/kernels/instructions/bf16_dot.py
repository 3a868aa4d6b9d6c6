"""Products of bfloat16 in pairs, held as int32, which are summed in float32 (VDPBF16PS)."""

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..machine import Machine
from ..prim_func import call_llvm
from ..vectors import BFLOAT16, spread
from .base import Instruction

_ADD_PAIRS = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @add_pairs(<16 x float> %sums, <16 x i32> %x, <16 x i32> %y) {
  %a = bitcast <16 x i32> %x to <32 x bfloat>
  %b = bitcast <16 x i32> %y to <32 x bfloat>
  %found = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sums, <32 x bfloat> %a, <32 x bfloat> %b)
  ret <16 x float> %found
}"""


@dataclass(frozen=True, slots=True)
class Bf16Dot(Instruction):
    """The instruction that adds the products of two pairs to each of 16 sums; subnormal numbers count as 0."""

    mnemonic = "vdpbf16ps"
    k_per_instruction = 2
    lhs_dtype, rhs_dtype, accumulator_dtype = BFLOAT16, "uint16", "float32"
    speed = 2.0

    @classmethod
    def fits(cls, weights: np.ndarray, machine: Machine) -> bool:
        """Whether weights `[K, N]` are bfloat16, and the machine has a kernel for them."""
        return weights.dtype.name == BFLOAT16 and machine.has_bfloat16 and weights.shape[1] >= machine.lanes

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """Pack weights that bfloat16 holds, as their bits."""
        # a class with slots is made anew, by which super() doesn't know it before Python 3.14
        return Instruction.pack(self, np.ascontiguousarray(weights, np.float32).view(np.uint32) >> 16)

    def broadcast_lhs(self, elements: tirx.Expr, lanes: int) -> list[tirx.Expr]:
        """Return a pair for all lanes; the last element of an odd number is paired with 0."""
        is_pair = elements.ty.dtype.lanes > 1
        return [spread(T.reinterpret(elements, dtype="int32") if is_pair else elements.astype("int32"), lanes)]

    def multiply_add(self, sums: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        pairs = right if str(right.ty.dtype) == "int32x16" else T.reinterpret(right, dtype="int32x16")
        return call_llvm("add_pairs", _ADD_PAIRS, "float32x16", sums, left, pairs)


BF16_DOT = Bf16Dot()
