"""Numbers of bfloat16 as kernels hold them, as uint16: TVM computes with the type in float32, and removes it."""

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .prim_func import call_llvm, current_machine
from .vectors import BFLOAT16, cast, held, number, vector_type


def rounded(x: tirx.Expr) -> tirx.Expr:
    """Round a vector of float32 to the nearest bfloat16, ties to even.

    VCVTNEPS2BF16, which does it where a machine has products of bfloat16, makes 0 of subnormal numbers. Without it, the
    bits are worked on, where LLVM would call a library function for each element; NaN becomes quiet, of the same sign.
    """
    lanes, shorts = x.ty.dtype.lanes, vector_type("uint16", x)
    if current_machine().has_bfloat16:
        floats, narrow, integers = (
            type if lanes == 1 else f"<{lanes} x {type}>" for type in ("float", "bfloat", "i16")
        )
        body = f"%narrow = fptrunc {floats} %x to {narrow}\n%y = bitcast {narrow} %narrow to {integers}"
        definition = f"define {integers} @round_{lanes}({floats} %x) {{\n{body}\nret {integers} %y\n}}"
        return call_llvm(f"round_{lanes}", definition, shorts, x)
    bits = held(T.reinterpret(x, dtype=vector_type("uint32", x)))
    nearest = bits + ((bits >> number(16, bits)) & number(1, bits)) + number(0x7FFF, bits)
    return cast(tirx.Select(tirx.isnan(x), bits | number(0x400000, bits), nearest) >> number(16, bits), "uint16")


def widened(x: tirx.Expr) -> tirx.Expr:
    """Widen a vector of bfloat16's bits to float32."""
    bits = cast(x, "uint32") << tirx.const(16, vector_type("uint32", x))
    return T.reinterpret(bits, dtype=vector_type("float32", x))


def loaded(x: tirx.Expr, dtype: str) -> tirx.Expr:
    """Convert what a kernel has read to what it computes with: bfloat16 to float32; all else stays as it is."""
    return widened(x) if dtype == BFLOAT16 else x


def stored(x: tirx.Expr, dtype: str) -> tirx.Expr:
    """Convert float32 to what a kernel stores: bfloat16, or float32 as it is."""
    return rounded(x) if dtype == BFLOAT16 else x
