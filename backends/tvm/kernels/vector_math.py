"""Elementwise operators on vectors of float32, as kernels compute them in registers.

Kernels hold bfloat16 as uint16: TVM computes with the type in float32, and removes it.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .approximations import ROUNDING, coarse_gelu, coarse_sigmoid, erf, exp, sigmoid, tanh
from .prim_func import call_llvm, current_machine
from .vectors import BFLOAT16, cast, greater, held, lesser, number, vector_type

Attributes: TypeAlias = tuple[tuple[str, Any], ...]
"""The attributes of an operator, by name: numbers, names and tables of bytes."""
Get: TypeAlias = Callable[..., Any]
"""A function from an attribute's name, and perhaps a default, to its value."""
Element: TypeAlias = Callable[..., tirx.Expr]
"""A function from an operator's attributes and operands to its result; None is an operand that is left out."""


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


def loaded(x: tirx.Expr) -> tirx.Expr:
    """Convert what a kernel has read to what it computes with: bfloat16's bits to float32; all else stays as it is."""
    if not str(x.ty.dtype).startswith("uint16"):
        return x
    bits = cast(x, "uint32") << tirx.const(16, vector_type("uint32", x))
    return T.reinterpret(bits, dtype=vector_type("float32", x))


def stored(x: tirx.Expr, dtype: str) -> tirx.Expr:
    """Convert float32 to what a kernel stores: bfloat16, or float32 as it is."""
    return rounded(x) if dtype == BFLOAT16 else x


def _gelu(get: Get, x: tirx.Expr) -> tirx.Expr:
    if get("approximate", "none") == "tanh":
        bent = held(x + x * x * x * number(0.044715, x))
        spread = tanh(held(bent * number(math.sqrt(2 / math.pi), x)))
    else:
        spread = erf(held(x * number(math.sqrt(0.5), x)))
    half = x * number(0.5, x)
    return half * spread + half


def _hard_sigmoid(get: Get, x: tirx.Expr) -> tirx.Expr:
    y = held(x * number(get("alpha", 0.2), x) + number(get("beta", 0.5), x))
    return lesser(1.0, held(greater(0.0, y)))


def _clip(get: Get, x: tirx.Expr, low: tirx.Expr | None = None, high: tirx.Expr | None = None) -> tirx.Expr:
    y = x if low is None else held(greater(low, x))
    return y if high is None else lesser(high, y)


def _quantize(get: Get, x: tirx.Expr) -> tirx.Expr:
    """Quantize to int32; bounds come first, so that rounding by addition is right, and NaN becomes the lower one."""
    scale, zero_point = np.float32(get("scale")), get("zero_point")
    low, high = (float(np.float32(limit - zero_point) * scale) for limit in get("limits"))
    above = held(tirx.Select(x > number(low, x), x, number(low, x)))
    shifted = held(held(lesser(high, above)) * number(float(1 / scale), x) + number(ROUNDING, x))
    zero = int(np.float32(ROUNDING).view(np.int32)) - zero_point
    return tirx.reinterpret(vector_type("int32", x), shifted) - tirx.const(zero, vector_type("int32", x))


def _dequantize(get: Get, x: tirx.Expr) -> tirx.Expr:
    """Dequantize integers of any width."""
    wide = cast(x, "int32")
    shifted = wide - tirx.const(get("zero_point"), vector_type("int32", x)) if get("zero_point") else wide
    floats = cast(shifted, "float32")
    return floats * number(get("scale"), floats)


def _table(get: Get, x: tirx.Expr) -> tirx.Expr:
    """Look bytes up in both halves of a table, between which the first bits of codes decide; return int32."""
    lanes = x.ty.dtype.lanes
    codes = T.reinterpret(cast(x, "uint8"), dtype=vector_type("int8", x))
    whole = held(T.broadcast(codes, 64) if lanes == 1 else tirx.Shuffle([codes] * -(-64 // lanes), list(range(64))))
    parts = np.frombuffer(get("codes"), np.int8).reshape(4, 64).tolist()
    quarters = [tirx.Shuffle([tirx.const(code, "int8") for code in part], list(range(64))) for part in parts]
    halves = ((quarters[0], whole, quarters[1]), (quarters[2], whole, quarters[3]))
    name = "llvm.x86.avx512.vpermi2var.qi.512"
    low, high = (held(tirx.call_llvm_pure_intrin("int8x64", name, *half)) for half in halves)
    found = tirx.Shuffle([tirx.Select(whole < tirx.const(0, "int8x64"), high, low)], list(range(lanes)))
    return cast(found if get("is_signed") else T.reinterpret(found, dtype=vector_type("uint8", x)), "int32")


ELEMENTS: Mapping[str, Element] = {
    "Add": lambda get, a, b: a + b,
    "Cast": lambda get, x: rounded(x) if str(x.ty.dtype).startswith("float") else cast(loaded(x), "float32"),
    "Clip": _clip,
    "DequantizeLinear": _dequantize,
    "Div": lambda get, a, b: a / b,
    "Elu": lambda get, x: tirx.Select(x < number(0.0, x), number(get("alpha", 1.0), x) * (exp(x) - number(1.0, x)), x),
    "Erf": lambda get, x: erf(x),
    "Exp": lambda get, x: exp(x),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": lambda get, x: tirx.Select(x < number(0.0, x), x * number(get("alpha", 0.01), x), x),
    "Mul": lambda get, a, b: a * b,
    "Neg": lambda get, x: number(0.0, x) - x,
    "PRelu": lambda get, x, slope: tirx.Select(x < number(0.0, x), x * slope, x),
    "QuantizeLinear": _quantize,
    "Relu": lambda get, x: greater(0.0, x),
    "Sigmoid": lambda get, x: sigmoid(x),
    "Sub": lambda get, a, b: a - b,
    "Table": _table,
    "Tanh": lambda get, x: tanh(x),
}

COARSE: Mapping[str, Element] = {
    **ELEMENTS,
    "Gelu": lambda get, x: coarse_gelu(x, is_bent=get("approximate", "none") == "tanh"),
    "Sigmoid": lambda get, x: coarse_sigmoid(x),
}
"""The same operators for results that are rounded to 8 bits or so in the end."""
