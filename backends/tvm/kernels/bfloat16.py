"""bfloat16 in kernels: rounding to it, and products of pairs that are summed in float32.

TVM computes with bfloat16 in float32 and removes the type from its kernels, while LLVM's instructions ask for it. So
kernels hold such numbers as uint16, pairs of them as int32, and call functions in LLVM IR that are compiled into the
kernels.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .machine import Machine
from .vectors import cast, vector_type

BFLOAT16 = "bfloat16"


def imported(machine: Machine, is_needed: bool) -> AbstractContextManager[object]:
    """Return a context for a kernel's code, which may call the functions below if that is needed."""
    return T.attr(0, "pragma_import_llvm", _functions(machine)) if is_needed else nullcontext()


def stored_as(dtype: str) -> str:
    """Return the element type in which a kernel's buffers hold numbers of a type."""
    return "uint16" if dtype == BFLOAT16 else dtype


def rounded(x: tirx.Expr) -> tirx.Expr:
    """Round a vector of float32 to the nearest bfloat16, ties to even.

    VCVTNEPS2BF16, which does it where a machine has products of bfloat16, makes 0 of subnormal numbers.
    """
    return T.call_extern(vector_type("uint16", x), f"round_{x.ty.dtype.lanes}", x)


def widened(x: tirx.Expr) -> tirx.Expr:
    """Widen a vector of bfloat16's bits to float32."""
    bits = cast(x, "uint32") << tirx.const(16, vector_type("uint32", x))
    return T.reinterpret(bits, dtype=vector_type("float32", x))


def loaded(x: tirx.Expr, dtype: str) -> tirx.Expr:
    """Convert what a kernel has read to what it computes with: bfloat16 to float32; all else stays as it is."""
    return widened(x) if dtype == BFLOAT16 else x


@cache
def _functions(machine: Machine) -> str:
    functions = [_rounding(lanes, machine) for lanes in range(1, machine.lanes + 1)]
    return "\n".join([*functions, _ADD_PAIRS] if machine.has_bfloat16 else functions)


def _rounding(lanes: int, machine: Machine) -> str:
    """Return an LLVM function that rounds floats to bfloat16.

    Without an instruction it works on the bits, where LLVM would call a library function for each element. NaN becomes
    quiet, of the same sign.
    """
    floats, integers, shorts, narrow, truths = (
        kind if lanes == 1 else f"<{lanes} x {kind}>" for kind in ("float", "i32", "i16", "bfloat", "i1")
    )
    if machine.has_bfloat16:
        body = f"%narrow = fptrunc {floats} %x to {narrow}\n %y = bitcast {narrow} %narrow to {shorts}"
    else:
        half, odd, sixteen, quiet = (
            str(number) if lanes == 1 else f"splat (i32 {number})" for number in (0x7FFF, 1, 16, 0x400000)
        )
        body = f"""%bits = bitcast {floats} %x to {integers}
 %upper = lshr {integers} %bits, {sixteen}
 %odd = and {integers} %upper, {odd}
 %more = add {integers} %odd, {half}
 %nearest = add {integers} %bits, %more
 %silent = or {integers} %bits, {quiet}
 %is_nan = fcmp uno {floats} %x, %x
 %chosen = select {truths} %is_nan, {integers} %silent, {integers} %nearest
 %shifted = lshr {integers} %chosen, {sixteen}
 %y = trunc {integers} %shifted to {shorts}"""
    return f"define {shorts} @round_{lanes}({floats} %x) {{\n {body}\n ret {shorts} %y\n}}"


_ADD_PAIRS = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @add_pairs(<16 x float> %sums, <16 x i32> %x, <16 x i32> %y) {
  %a = bitcast <16 x i32> %x to <32 x bfloat>
  %b = bitcast <16 x i32> %y to <32 x bfloat>
  %found = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sums, <32 x bfloat> %a, <32 x bfloat> %b)
  ret <16 x float> %found
}"""
