"""Lowerings of ATen operators on complex tensors, part by part."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

from ...ir.graph import Value
from ...ir.types import DType
from .complexes import Complex, by_parts, lowers_complex, view_as_complex
from .keep import keep
from .lower_create import full
from .lower_elementwise import identity
from .lower_nn import matmul
from .lower_reduce import mean, total
from .lower_shape import concat, pad, stack
from .lower_sort import cumsum, diff
from .lower_special import angle_of, length
from .lowering import LOWERINGS, Lowering

Operand = Complex | Value | complex


def _complex(op: Lowering, x: Operand) -> Complex:
    """An operand with both parts."""
    real, imag = _parts(op, x)
    return Complex(real, op.expand(op.cast(0.0, real.dtype), real.shape) if imag is None else imag)


def _parts(op: Lowering, x: Operand) -> tuple[Value, Value | None]:
    """An operand's parts in the result's element type; None for an imaginary part that isn't there."""
    dtype = op.result_type if op.result_type.is_float else DType.float32
    if isinstance(x, Complex):
        return op.cast(x.real, dtype), op.cast(x.imag, dtype)
    if isinstance(x, complex):
        return op.cast(x.real, dtype), op.cast(x.imag, dtype)
    return op.cast(x, dtype), None


def _spread(op: Lowering, real: Value, imag: Value) -> Complex:
    """Parts in the shape of the result."""
    return Complex(op.expand(real, op.result_shape), op.expand(imag, op.result_shape))


# -- between complex numbers and their parts


@lowers_complex("aten.view_as_real.default", "aten.view_as_real_copy.default")
def view_as_real(op: Lowering, z: Complex) -> Value:
    return op.Concat(op.Unsqueeze(z.real, [-1]), op.Unsqueeze(z.imag, [-1]), axis=-1)


@lowers_complex("aten.view_as_complex.default", "aten.view_as_complex_copy.default")
def view_pairs(op: Lowering, pairs: Value) -> Complex:
    return view_as_complex(op, pairs)


@lowers_complex("aten.real.default")
def real_part(op: Lowering, z: Complex) -> Value:
    return z.real


@lowers_complex("aten.imag.default")
def imaginary_part(op: Lowering, z: Complex) -> Value:
    return z.imag


@lowers_complex("aten.complex.default")
def from_parts(op: Lowering, real: Value, imag: Value) -> Complex:
    return _spread(op, real, imag)


@lowers_complex("aten.polar.default")
def polar(op: Lowering, size: Value, angle: Value) -> Complex:
    return _spread(op, op.Mul(size, op.Cos(angle)), op.Mul(size, op.Sin(angle)))


@lowers_complex("aten.abs.default")
def absolute(op: Lowering, z: Complex) -> Value:
    return length(op, z.real, z.imag)


@lowers_complex("aten.angle.default")
def angle(op: Lowering, z: Complex) -> Value:
    return angle_of(op, z.imag, z.real)


@lowers_complex("aten._to_copy.default", "aten.to.dtype", "aten.to.dtype_layout", "aten.to.device", "aten.to.other")
def convert(op: Lowering, x: Operand, *_ignored: Any, **_keywords: Any) -> Any:
    if op.result.is_complex():
        return _complex(op, x)
    return op.cast(x.real) if isinstance(x, Complex) else x


# -- arithmetic


@lowers_complex("aten.add.Tensor", "aten.add.Scalar", "aten.sub.Tensor", "aten.sub.Scalar")
def add(op: Lowering, a: Operand, b: Operand, *, alpha: complex = 1) -> Complex:
    if alpha != 1:
        b = multiply(op, b, alpha)
    operator = "Sub" if ".sub" in str(op.node.target) else "Add"
    (a_real, a_imag), (b_real, b_imag) = _parts(op, a), _parts(op, b)
    real = op(operator, a_real, b_real)
    if a_imag is None:
        a_imag = op.cast(0.0, real.dtype)
    return _spread(op, real, a_imag if b_imag is None else op(operator, a_imag, b_imag))


@lowers_complex("aten.rsub.Tensor", "aten.rsub.Scalar")
def subtract_from(op: Lowering, a: Operand, b: Operand, *, alpha: complex = 1) -> Complex:
    negative = multiply(op, a, -alpha)
    return add(op, negative, b)


@lowers_complex("aten.mul.Tensor", "aten.mul.Scalar")
def multiply(op: Lowering, a: Operand, b: Operand) -> Complex:
    (a_real, a_imag), (b_real, b_imag) = _parts(op, a), _parts(op, b)
    if a_imag is None:
        a_real, a_imag, b_real, b_imag = b_real, b_imag, a_real, a_imag
    if b_imag is None:
        product = op.Mul(a_real, b_real)
        return Complex(product, op.Mul(op.cast(0.0, product.dtype) if a_imag is None else a_imag, b_real))
    assert a_imag is not None  # or both were real
    real = op.Sub(op.Mul(a_real, b_real), op.Mul(a_imag, b_imag))
    return Complex(real, op.Add(op.Mul(a_real, b_imag), op.Mul(a_imag, b_real)))


@lowers_complex("aten.div.Tensor", "aten.div.Scalar", "aten.true_divide.Tensor", "aten.true_divide.Scalar")
def divide(op: Lowering, a: Operand, b: Operand) -> Complex:
    b_real, b_imag = _parts(op, b)
    if b_imag is None:
        z = _complex(op, a)
        return Complex(op.Div(z.real, b_real), op.Div(z.imag, b_real))
    scale = op.Max(op.Abs(b_real), op.Abs(b_imag))
    scaled = Complex(op.Div(b_real, scale), op.Neg(op.Div(b_imag, scale)))
    square = op.Add(op.Mul(scaled.real, scaled.real), op.Mul(scaled.imag, scaled.imag))
    numerator = multiply(op, a, scaled)
    return _spread(op, *(op.Div(op.Div(part, square), scale) for part in (numerator.real, numerator.imag)))


@lowers_complex("aten.reciprocal.default")
def reciprocal(op: Lowering, z: Complex) -> Complex:
    return divide(op, 1.0, z)


@lowers_complex("aten.neg.default", "aten._neg_view.default")
def negate(op: Lowering, z: Complex) -> Complex:
    return Complex(op.Neg(z.real), op.Neg(z.imag))


@lowers_complex(
    "aten._conj.default", "aten._conj_physical.default", "aten.conj_physical.default", "aten._conj_copy.default"
)
def conjugate(op: Lowering, z: Complex) -> Complex:
    return Complex(z.real, op.Neg(z.imag))


@lowers_complex("aten.exp.default")
def exponential(op: Lowering, z: Complex) -> Complex:
    size = op.Exp(z.real)
    return Complex(op.Mul(size, op.Cos(z.imag)), op.Mul(size, op.Sin(z.imag)))


@lowers_complex("aten.log.default")
def logarithm(op: Lowering, z: Complex) -> Complex:
    return Complex(op.Log(length(op, z.real, z.imag)), angle_of(op, z.imag, z.real))


@lowers_complex("aten.sgn.default")
def direction(op: Lowering, z: Complex) -> Complex:
    size = length(op, z.real, z.imag)
    is_zero = op.Equal(size, 0.0)
    divisor = op.Where(is_zero, op.cast(1.0, size.dtype), size)
    return Complex(op.Div(z.real, divisor), op.Div(z.imag, divisor))


@lowers_complex("aten.pow.Tensor_Scalar")
def power(op: Lowering, z: Operand, exponent: complex) -> Any:
    if not isinstance(exponent, int) or not 0 < exponent <= 4:
        return keep(op, z, exponent)
    return reduce(lambda y, _: multiply(op, y, z), range(exponent - 1), z)


@lowers_complex("aten.mm.default", "aten.bmm.default", "aten.matmul.default")
def product(op: Lowering, a: Operand, b: Operand) -> Complex:
    (a_real, a_imag), (b_real, b_imag) = _parts(op, a), _parts(op, b)
    real = matmul(op, a_real, b_real)
    cross = [matmul(op, left, right) for left, right in ((a_real, b_imag), (a_imag, b_real)) if left and right]
    if a_imag is not None and b_imag is not None:
        real = op.Sub(real, matmul(op, a_imag, b_imag))
    return Complex(real, reduce(op.Add, cross))


# -- reductions, joins, choices


@lowers_complex("aten.sum.dim_IntList", "aten.sum.default")
def sum_of_parts(op: Lowering, z: Operand, *arguments: Any, **keywords: Any) -> Complex:
    return by_parts(op, total, _complex(op, z), *arguments, **keywords)


@lowers_complex("aten.mean.dim", "aten.mean.default")
def mean_of_parts(op: Lowering, z: Operand, *arguments: Any, **keywords: Any) -> Complex:
    return by_parts(op, mean, _complex(op, z), *arguments, **keywords)


@lowers_complex("aten.cumsum.default")
def running_sum(op: Lowering, z: Operand, *arguments: Any, **keywords: Any) -> Complex:
    return by_parts(op, cumsum, _complex(op, z), *arguments, **keywords)


@lowers_complex("aten.diff.default")
def difference(op: Lowering, z: Operand, *arguments: Any, **keywords: Any) -> Complex:
    return by_parts(op, diff, _complex(op, z), *arguments, **keywords)


@lowers_complex("aten.cat.default")
def concatenate(op: Lowering, values: Sequence[Operand], axis: int = 0) -> Complex:
    return by_parts(op, concat, [_complex(op, value) for value in values], axis)


@lowers_complex("aten.stack.default")
def stacked(op: Lowering, values: Sequence[Operand], axis: int = 0) -> Complex:
    return by_parts(op, stack, [_complex(op, value) for value in values], axis)


@lowers_complex("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def where(op: Lowering, condition: Value, a: Operand, b: Operand) -> Complex:
    first, second = _complex(op, a), _complex(op, b)
    return Complex(op.Where(condition, first.real, second.real), op.Where(condition, first.imag, second.imag))


@lowers_complex("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(op: Lowering, z: Complex, mask: Value, value: Operand) -> Complex:
    return where(op, mask, value, z)


@lowers_complex("aten.eq.Tensor", "aten.eq.Scalar", "aten.ne.Tensor", "aten.ne.Scalar")
def equal(op: Lowering, a: Operand, b: Operand) -> Value:
    first, second = _complex(op, a), _complex(op, b)
    same = op.And(op.Equal(first.real, second.real), op.Equal(first.imag, second.imag))
    return op.Not(same) if ".ne." in str(op.node.target) else same


@lowers_complex("aten.isnan.default", "aten.isinf.default")
def is_special(op: Lowering, z: Complex) -> Value:
    operator = "IsNaN" if "nan" in str(op.node.target) else "IsInf"
    return op.Or(op(operator, z.real), op(operator, z.imag))


@lowers_complex("aten.constant_pad_nd.default", "aten.pad.default")
def padded(op: Lowering, z: Complex, widths: Sequence[Any], *arguments: Any, **keywords: Any) -> Any:
    if any(isinstance(argument, int | float | complex) and argument for argument in (*arguments, *keywords.values())):
        return keep(op, z, widths, *arguments, **keywords)
    return by_parts(op, pad, z, widths, *arguments, **keywords)


@lowers_complex("aten.nonzero.default", "aten.scatter.value", "aten.put.default", "aten.copy.default")
def looked_at(op: Lowering, *arguments: Any, **keywords: Any) -> Any:
    return keep(op, *arguments, **keywords)


@lowers_complex(
    "aten.resolve_conj.default",
    "aten.resolve_neg.default",
    *(name for name, function in LOWERINGS.items() if function is identity),
)
def same(op: Lowering, z: Complex, *_ignored: Any, **_keywords: Any) -> Complex:
    return z


@lowers_complex(*(name for name, function in LOWERINGS.items() if function is full))
def filled(op: Lowering, *arguments: Any, **_keywords: Any) -> Complex:
    number = complex(arguments[-1] if "full" in str(op.node.target) else int("ones" in str(op.node.target)))
    return Complex(op.filled(number.real), op.filled(number.imag))


@lowers_complex("aten.scalar_tensor.default")
def scalar(op: Lowering, number: complex, **_keywords: Any) -> Complex:
    return _complex(op, complex(number))
