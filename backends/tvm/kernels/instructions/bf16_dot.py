"""Products of bfloat16 in pairs, which are summed in float32 (VDPBF16PS)."""

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..bfloat16 import BFLOAT16
from ..machine import Machine
from ..vectors import spread
from .base import Instruction


@dataclass(frozen=True, slots=True)
class Bf16Dot(Instruction):
    """The instruction that adds the products of two pairs to each of 16 sums; subnormal numbers count as 0."""

    mnemonic = "vdpbf16ps"
    k_per_instruction = 2
    lhs_dtype = BFLOAT16
    rhs_dtype = "uint16"
    accumulator_dtype = "float32"
    speed = 2.0

    @classmethod
    def fits(cls, weights: np.ndarray, machine: Machine) -> bool:
        """Whether weights `[K, N]` are bfloat16, and the machine has a kernel for them."""
        return weights.dtype.name == BFLOAT16 and machine.has_bfloat16 and weights.shape[1] >= machine.lanes

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """Pack weights that bfloat16 holds, as their bits."""
        bits = np.ascontiguousarray(weights, np.float32).view(np.uint32) >> 16
        return bits.astype(self.rhs_dtype).reshape(*weights.shape[:-2], -1)

    def broadcast_lhs(self, elements: tirx.Expr, lanes: int) -> list[tirx.Expr]:
        """Return a pair for all lanes; the last element of an odd number is paired with 0."""
        is_pair = elements.ty.dtype.lanes > 1
        return [spread(T.reinterpret(elements, dtype="int32") if is_pair else elements.astype("int32"), lanes)]

    def multiply_add(self, sums: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        pairs = right if str(right.ty.dtype) == "int32x16" else T.reinterpret(right, dtype="int32x16")
        return T.call_extern("float32x16", "add_pairs", sums, left, pairs)


BF16_DOT = Bf16Dot()
