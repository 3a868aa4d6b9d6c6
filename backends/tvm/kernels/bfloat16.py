# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none
"""bfloat16 in kernels: rounding to it, and products of pairs that are summed in float32.

TVM computes with bfloat16 in float32 and takes the type out of its kernels, while LLVM's instructions ask for it. So kernels hold
such numbers as uint16, pairs of them as int32, and call functions in LLVM's language that are compiled into them.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from tvm.script.ir_builder import tirx as T

BFLOAT16 = "bfloat16"


def imported(*dtypes: str) -> AbstractContextManager[Any]:
    """Around the code of a kernel on these element types: it may call what follows here."""
    return T.attr(0, "pragma_import_llvm", _functions()) if BFLOAT16 in dtypes else nullcontext()


def stored_as(dtype: str) -> str:
    """The element type of a buffer in which kernels see numbers of another one."""
    return "uint16" if dtype == BFLOAT16 else dtype


def rounded(x: Any) -> Any:
    """A vector of float32 to the nearest bfloat16, of two as near to the even one; what is subnormal may become 0."""
    lanes = x.ty.dtype.lanes
    return T.call_extern("uint16" if lanes == 1 else f"uint16x{lanes}", f"round_{lanes}", x)


def pairs_added(sums: Any, x: Any, y: Any) -> Any:
    """Vectors of 16 sums with the products of two pairs added to each; subnormal numbers count as 0 (VDPBF16PS)."""
    return T.call_extern("float32x16", "add_pairs", sums, x, y)


@cache
def _functions() -> str:
    roundings = [_ROUND_ONE, *(_ROUND.format(lanes=lanes) for lanes in range(2, 17))]
    return "\n".join([*roundings, _ADD_PAIRS])


_ROUND_ONE = """
define i16 @round_1(float %x) {
  %y = fptrunc float %x to bfloat
  %bits = bitcast bfloat %y to i16
  ret i16 %bits
}"""
_ROUND = """
define <{lanes} x i16> @round_{lanes}(<{lanes} x float> %x) {{
  %y = fptrunc <{lanes} x float> %x to <{lanes} x bfloat>
  %bits = bitcast <{lanes} x bfloat> %y to <{lanes} x i16>
  ret <{lanes} x i16> %bits
}}"""
_ADD_PAIRS = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @add_pairs(<16 x float> %sums, <16 x i32> %x, <16 x i32> %y) {
  %a = bitcast <16 x i32> %x to <32 x bfloat>
  %b = bitcast <16 x i32> %y to <32 x bfloat>
  %found = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sums, <32 x bfloat> %a, <32 x bfloat> %b)
  ret <16 x float> %found
}"""
