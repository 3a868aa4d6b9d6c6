"""Lowerings of the functions between arithmetic and the special functions, right where a plain formula isn't.

That is near zero (`log1p`), where a sum overflows (`hypot`), and at infinities and negative zeros.
"""

import math
from functools import reduce

import numpy as np

from ...ir.builder import Operand
from ...ir.graph import Value
from ...ir.types import DType
from .keep import keep
from .lowering import Lowering, lowers


@lowers("aten.log1p.default")
def log1p(op: Lowering, x: Value) -> Value:
    """Kahan's correction of log(1 + x), which is x where the sum rounds to 1."""
    x = op.cast(x)
    total = op.Add(x, 1.0)
    is_plain = op.Or(op.Equal(total, 1.0), op.Equal(total, math.inf))
    step = op.Where(is_plain, op.cast(1.0, x.dtype), op.Sub(total, 1.0))
    return op.Where(is_plain, x, op.Mul(op.Log(total), op.Div(x, step)))


@lowers("aten.expm1.default")
def expm1(op: Lowering, x: Value) -> Value:
    """Kahan's correction of exp(x) - 1, as good as the function itself beyond a half."""
    x = op.cast(x)
    power = op.Exp(x)
    less = op.Sub(power, 1.0)
    is_near = op.And(op.Less(op.Abs(x), 0.5), op.Not(op.Equal(less, 0.0)))
    logarithm = op.Where(is_near, op.Log(power), op.cast(1.0, x.dtype))
    corrected = op.Where(is_near, op.Mul(less, op.Div(x, logarithm)), less)
    return op.Where(op.Equal(power, 1.0), x, corrected)


@lowers("aten.log2.default", "aten.log10.default")
def log_to_base(op: Lowering, x: Value) -> Value:
    """Compute a logarithm in double precision, so that powers of the base have whole logarithms."""
    base = 2 if "log2" in str(op.node.target) else 10
    return op.cast(op.Div(op.Log(op.cast(x, DType.float64)), math.log(base)))


@lowers("aten.exp2.default")
def exp2(op: Lowering, x: Value) -> Value:
    return op.Pow(op.cast(2.0), op.cast(x))


@lowers("aten.ldexp.Tensor")
def ldexp(op: Lowering, x: Value, exponent: Value) -> Value:
    power = op.Pow(op.cast(2.0), op.cast(exponent))
    return op.Mul(op.cast(x), power)


@lowers("aten.erfc.default")
def erfc(op: Lowering, x: Value) -> Value:
    """1 - erf(x), by a rational fit that keeps its relative precision where that is tiny (Numerical Recipes, 6.2)."""
    if op.result_type is DType.float64:
        return keep(op, x)
    x = op.cast(x, DType.float32)
    size = op.Abs(x)
    t = op.Reciprocal(op.Add(op.Mul(size, 0.5), 1.0))
    fit = (
        0.17087277,
        -0.82215223,
        1.48851587,
        -1.13520398,
        0.27886807,
        -0.18628806,
        0.09678418,
        0.37409196,
        1.00002368,
    )
    exponent = op.Sub(_polynomial(op, t, (*fit, -1.26551223)), op.Mul(size, size))
    tail = op.Mul(t, op.Exp(exponent))
    return op.cast(op.Where(op.Less(x, 0.5), op.Sub(1.0, op.Erf(x)), tail))


@lowers("aten.erfinv.default")
def erfinv(op: Lowering, x: Value) -> Value:
    """Giles' fit in single precision (Approximating the erfinv function, GPU Computing Gems 2, 2011)."""
    if op.result_type is DType.float64:
        return keep(op, x)
    x = op.cast(x, DType.float32)
    near = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503)
    near += (-0.00417768164, 0.246640727, 1.50140941)
    far = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613)
    far += (0.00943887047, 1.00167406, 2.83297682)
    w = op.Neg(op.Log(op.Mul(op.Sub(1.0, x), op.Add(x, 1.0))))
    is_near = op.Less(w, 5.0)
    inner = _polynomial(op, op.Sub(w, 2.5), near)
    outer = _polynomial(op, op.Sub(op.Sqrt(op.Max(w, 0.0)), 3.0), far)
    y = op.Mul(op.Where(is_near, inner, outer), x)
    at_end = op.Equal(op.Abs(x), 1.0)
    return op.cast(op.Where(at_end, op.Mul(x, math.inf), y))


def _polynomial(op: Lowering, x: Value, coefficients: tuple[float, ...]) -> Value:
    """Evaluate a polynomial by Horner's rule; the highest power's coefficient comes first."""
    first, *others = coefficients
    return reduce(lambda y, coefficient: op.Add(op.Mul(y, x), coefficient), others, op.cast(first, x.dtype))


@lowers("aten.sinc.default")
def sinc(op: Lowering, x: Value) -> Value:
    angle = op.Mul(op.cast(x), math.pi)
    is_zero = op.Equal(angle, 0.0)
    one = op.cast(1.0)
    return op.Where(is_zero, one, op.Div(op.Sin(angle), op.Where(is_zero, one, angle)))


def is_negative(op: Lowering, x: Value) -> Value:
    """Whether the sign is set, that of a zero too."""
    if not x.dtype.is_float:
        return op.Less(op.cast(x, DType.int64), 0)
    return op.Less(op.Where(op.Equal(x, 0.0), op.Reciprocal(x), x), 0.0)


@lowers("aten.signbit.default")
def signbit(op: Lowering, x: Value) -> Value:
    return is_negative(op, x)


@lowers("aten.copysign.Tensor", "aten.copysign.Scalar")
def copysign(op: Lowering, a: Value, b: Operand) -> Value:
    size = op.Abs(op.cast(a))
    return op.Where(is_negative(op, op.cast(b)), op.Neg(size), size)


@lowers("aten.atan2.default")
def atan2(op: Lowering, y: Value, x: Value) -> Value:
    return angle_of(op, op.cast(y), op.cast(x))


@lowers("aten.angle.default")
def angle_of_reals(op: Lowering, x: Value) -> Value:
    x = op.cast(x)
    flat = op.Where(op.Less(x, 0.0), op.cast(math.pi, x.dtype), op.cast(0.0, x.dtype))
    return op.Where(op.IsNaN(x), x, flat)


def angle_of(op: Lowering, y: Value, x: Value) -> Value:
    """The angle of a point, from the first octant, where the quotient is at most 1, to its own."""
    height, width = op.Abs(y), op.Abs(x)
    is_steep = op.Greater(height, width)
    less, more = op.Where(is_steep, width, height), op.Where(is_steep, height, width)
    quotient = op.Where(op.Equal(less, more), op.cast(1.0, x.dtype), op.Div(less, more))
    angle = op.Atan(op.Where(op.Equal(more, 0.0), less, quotient))
    angle = op.Where(is_steep, op.Sub(math.pi / 2, angle), angle)
    angle = op.Where(is_negative(op, x), op.Sub(math.pi, angle), angle)
    return op.Where(is_negative(op, y), op.Neg(angle), angle)


@lowers("aten.hypot.default")
def hypot(op: Lowering, a: Value, b: Value) -> Value:
    return length(op, op.cast(a), op.cast(b))


def length(op: Lowering, a: Value, b: Value) -> Value:
    """The root of the sum of squares, without overflow; infinite beside a NaN too."""
    a, b = op.Abs(a), op.Abs(b)
    is_less = op.Less(a, b)
    less, more = op.Where(is_less, a, b), op.Where(is_less, b, a)
    ratio = op.Div(less, op.Where(op.Equal(more, 0.0), op.cast(1.0, a.dtype), more))
    y = op.Mul(more, op.Sqrt(op.Add(op.Mul(ratio, ratio), 1.0)))
    is_infinite = op.Or(op.IsInf(a), op.IsInf(b))
    return op.Where(is_infinite, op.cast(math.inf, a.dtype), y)


@lowers("aten.xlogy.Tensor", "aten.xlogy.Scalar_Self", "aten.xlogy.Scalar_Other")
def x_log_y(op: Lowering, x: Operand, y: Operand) -> Value:
    x, y = op.cast(x), op.cast(y)
    return _zero_times(op, x, op.Log(y), y)


@lowers("aten.special_xlog1py.default", "aten.special_xlog1py.self_scalar", "aten.special_xlog1py.other_scalar")
def x_log1p_y(op: Lowering, x: Operand, y: Operand) -> Value:
    x, y = op.cast(x), op.cast(y)
    return _zero_times(op, x, log1p(op, y), y)


def _zero_times(op: Lowering, x: Value, logarithm: Value, y: Value) -> Value:
    """The product of x and the logarithm of y; 0 where x is 0, unless y is NaN."""
    is_zero = op.And(op.Equal(x, 0.0), op.Not(op.IsNaN(y)))
    return op.Where(is_zero, op.cast(0.0, x.dtype), op.Mul(x, logarithm))


@lowers("aten.special_entr.default")
def entropy(op: Lowering, x: Value) -> Value:
    x = op.cast(x)
    y = op.Neg(_zero_times(op, x, op.Log(x), x))
    return op.Where(op.Less(x, 0.0), op.cast(-math.inf, x.dtype), y)


@lowers("aten.fmax.default", "aten.fmin.default")
def extreme_number(op: Lowering, a: Value, b: Value) -> Value:
    """The larger or the smaller number, or if only one isn't NaN, that one."""
    kind = "Max" if "fmax" in str(op.node.target) else "Min"
    a, b = op.cast(a), op.cast(b)
    if op.result_type is DType.bool:
        return op("Or" if kind == "Max" else "And", a, b)
    if not op.result_type.is_float:
        return op(kind, a, b)
    return op.Where(op.IsNaN(a), b, op.Where(op.IsNaN(b), a, op(kind, a, b)))


@lowers("aten.heaviside.default")
def heaviside(op: Lowering, x: Value, at_zero: Value) -> Value:
    zero = op.cast(0, x.dtype)
    return op.Where(op.Equal(x, zero), at_zero, op.cast(op.Greater(x, zero), x.dtype))


@lowers("aten.nan_to_num.default")
def nan_to_num(
    op: Lowering, x: Value, nan: float | None = None, high: float | None = None, low: float | None = None
) -> Value:
    if not x.dtype.is_float:
        return x
    largest = x.dtype.largest
    replacements = (
        (op.IsNaN(x), 0.0 if nan is None else nan),
        (op.Equal(x, math.inf), largest if high is None else high),
        (op.Equal(x, -math.inf), -largest if low is None else low),
    )
    return reduce(lambda y, rule: op.Where(rule[0], op.cast(float(rule[1]), x.dtype), y), replacements, x)


@lowers(
    *(f"aten.bitwise_left_shift.{kind}" for kind in ("Tensor", "Tensor_Scalar", "Scalar_Tensor")),
    *(f"aten.__lshift__.{kind}" for kind in ("Tensor", "Scalar")),
)
def shift_left(op: Lowering, a: Operand, b: Operand) -> Value:
    """A product with a power of two; integers overflow in it as bits are shifted out."""
    a, b = op.cast(a), op.cast(b, DType.int64)
    bits = op.result_type.bits
    powers = np.asarray([*(1 << place for place in range(bits)), 0], np.uint64).astype(op.result_type.numpy)
    is_inside = op.And(op.GreaterOrEqual(b, 0), op.Less(b, bits))
    return op.Mul(a, op.Gather(powers, op.Where(is_inside, b, op.cast(bits, DType.int64)), axis=0))


@lowers(
    *(f"aten.bitwise_right_shift.{kind}" for kind in ("Tensor", "Tensor_Scalar", "Scalar_Tensor")),
    *(f"aten.__rshift__.{kind}" for kind in ("Tensor", "Scalar")),
)
def shift_right(op: Lowering, number: Operand, by: Operand) -> Value:
    """Two quotients by powers of two, rounded down, since the largest power is beyond signed integers."""
    a, b = op.cast(number), op.cast(by, DType.int64)
    most = op.result_type.bits - (op.result_type.name.startswith("int"))
    is_inside = op.And(op.GreaterOrEqual(b, 0), op.Less(b, most))
    b = op.Where(is_inside, b, op.cast(most, DType.int64))
    powers = np.asarray([1 << place for place in range(most // 2 + 2)], op.result_type.numpy)
    half = op.Div(b, 2)
    for places in (half, op.Sub(b, half)):
        divisor = op.Gather(powers, places, axis=0)
        a = op.Div(op.Sub(a, op.Mod(a, divisor)), divisor)
    return a
