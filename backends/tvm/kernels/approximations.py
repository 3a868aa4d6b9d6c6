"""Approximations in float32 of functions for which LLVM would call the mathematics library lane by lane.

NaN stays NaN. The coefficients of `erf` and `tanh` are Eigen's (`MathFunctionsImpl.h`), those of `exp` Cephes'
(`expf.c`). The coarse functions, for results that are rounded at once to bfloat16 or to 8 bits, are minimax, by least
squares whose weights follow the error (Lawson's algorithm), and divide by an estimate of the inverse.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import TypeAlias

from tvm import tirx

from .vectors import greater, held, lesser, number, vector_type

Rational: TypeAlias = tuple[float, Sequence[float], Sequence[float]]
"""A bound on the size of `x`, and the coefficients of P and Q in x * P(x^2) / Q(x^2)."""
_WIDEST = 16
ROUNDING = 1.5 * 2**23
"""A number to which others are added to round them, ties to even: the integers are the sums' last bits."""
_LOG2_E = 1.44269504088896341
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_EXP = (1.98756915e-4, 1.39819995e-3, 8.33345191e-3, 4.16657959e-2, 0.166666655, 0.500000012)
_COARSE_EXP = (0.16566807, 0.50496378, 1.00016423, 0.99992806)
_TANH = (
    7.90531110763549805,
    (-2.76076848e-16, 2.0001879e-13, -8.60467152e-11, 5.12229709e-8, 1.48572236e-5, 6.37261929e-4, 4.89352456e-3),
    (1.19825839e-6, 1.18534706e-4, 2.26843463e-3, 4.89352519e-3),
)
_ERF = (
    4.0,
    (-2.72614226e-10, 2.77068142e-8, -2.10102402e-6, -5.69250639e-5, -7.3499063e-4, -2.95459981e-3, -1.60960333e-2),
    (-1.45660718e-5, -2.13374055e-4, -1.68282697e-3, -7.37332917e-3, -1.42647391e-2),
)
_COARSE_NORMAL = (4.0, (2.66818305e-3, 3.26589628e-2, 0.398877053), (4.46384784e-4, 2.3599520e-2, 0.247943476, 1.0))
_COARSE_BENT = (3.8, (2.43500431e-3, 2.92133735e-2, 0.398919425), (4.14365635e-4, 2.09900316e-2, 0.240529084, 1.0))
_COARSE_SIGMOID = (10.0, (1.02335264e-5, 6.35769846e-3, 0.249952532), (7.8994976e-4, 0.108626019, 1.0))


def coarse_exp(x: tirx.Expr) -> tirx.Expr:
    """Return e to the power of x for x <= 0, within a relative error of 1e-4; results below 1.7e-38 may be 0."""
    bounded = held(greater(-104.0, x))
    n = held(tirx.nearbyint(bounded * number(_LOG2_E, x)))
    return _scaled(held(_polynomial(_COARSE_EXP, held(bounded - n * number(math.log(2), x)))), n)


def exp(x: tirx.Expr) -> tirx.Expr:
    """Return e^x as 2^n times a polynomial of the rest, within 1 unit in the last place; below 1.7e-38 it may be 0."""
    bounded = held(greater(-104.0, lesser(89.0, x)))
    n = held(tirx.nearbyint(bounded * number(_LOG2_E, x)))
    rest = held(bounded - n * number(_LN2_HIGH, x) - n * number(_LN2_LOW, x))
    return _scaled(held(_polynomial(_EXP, rest) * rest * rest + rest + number(1.0, x)), n)


def _scaled(y: tirx.Expr, n: tirx.Expr) -> tirx.Expr:
    """Return `2^n * y`; vectors of 16 lanes, which only AVX-512 has, take its VSCALEFPS instruction.

    For others, adding `ROUNDING` brings `n` to the last bits, from where it is shifted to the exponent's place: as
    `2^(n - 1)`, since float32 has no 2^128. The result is 0 where `n` is less than -125.
    """
    if y.ty.dtype.lanes == _WIDEST:
        every, current = tirx.const(-1, "int16"), tirx.const(4, "int32")  # lanes, and the direction of rounding
        name = "llvm.x86.avx512.mask.scalef.ps.512"
        return held(tirx.call_llvm_pure_intrin(y.ty.dtype, name, y, n, y, every, current))
    integers = vector_type("int32", y)
    bits = tirx.reinterpret(integers, n + number(ROUNDING, y)) << tirx.const(23, integers)
    half = held(tirx.reinterpret(y.ty.dtype, bits + tirx.const(126 << 23, integers)))
    scaled = held((y + y) * half)
    return held(tirx.Select(n < number(-125, y), number(0.0, y), scaled))


def sigmoid(x: tirx.Expr) -> tirx.Expr:
    """Return the logistic function, within 3 units in the last place of normal numbers."""
    return held(number(1.0, x) / (number(1.0, x) + exp(number(0.0, x) - x)))


def tanh(x: tirx.Expr) -> tirx.Expr:
    """Return the hyperbolic tangent, within 7 units in the last place."""
    above, below = _fraction(x, _TANH)
    quotient = held(above / below)
    return held(tirx.Select(tirx.all(x < number(4e-4, x), x > number(-4e-4, x)), x, quotient))


def erf(x: tirx.Expr) -> tirx.Expr:
    """Return the error function, within 8 units in the last place."""
    above, below = _fraction(x, _ERF)
    return held(above / below)


def coarse_sigmoid(x: tirx.Expr) -> tirx.Expr:
    """Return the logistic function, within 1e-4."""
    return _coarse_step(x, _COARSE_SIGMOID)


def coarse_gelu(x: tirx.Expr, *, is_bent: bool) -> tirx.Expr:
    """Return GELU within 1e-4 of the size of `x`: the exact one, or the tanh approximation where `is_bent`."""
    return held(x * _coarse_step(x, _COARSE_BENT if is_bent else _COARSE_NORMAL))


def _coarse_step(x: tirx.Expr, coefficients: Rational) -> tirx.Expr:
    """Return 1/2 plus a fraction; vectors of 16 lanes take VRCP14PS, whose relative error is 2^-14, to divide."""
    above, below = map(held, _fraction(x, coefficients))
    inverse, every = number(1.0, x) / below, tirx.const(-1, "int16")
    if x.ty.dtype.lanes == _WIDEST:
        inverse = tirx.call_llvm_pure_intrin(x.ty.dtype, "llvm.x86.avx512.rcp14.ps.512", below, below, every)
    return held(above * inverse + number(0.5, x))


def _fraction(x: tirx.Expr, coefficients: Rational) -> tuple[tirx.Expr, tirx.Expr]:
    """Return x * P(x^2) and Q(x^2), x clamped."""
    bound, above, below = coefficients
    y = held(greater(-bound, lesser(bound, x)))
    square = held(y * y)
    return y * _polynomial(above, square), _polynomial(below, square)


def _polynomial(coefficients: Sequence[float], x: tirx.Expr) -> tirx.Expr:
    """Evaluate a polynomial by Horner's scheme; the coefficient of the highest power comes first."""
    first, *others = (number(value, x) for value in coefficients)
    return reduce(lambda y, other: y * x + other, others, first)
