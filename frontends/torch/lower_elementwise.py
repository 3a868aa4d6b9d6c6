"""Lowerings of elementwise ATen operators: arithmetic, comparison, activation, casts."""

from typing import Any

import numpy as np

from ...ir.builder import Operand
from ...ir.graph import Constant, Value
from ...ir.types import DType
from .lowering import Lowering, lowers

_UNARY_FLOAT = {
    "acos": "Acos",
    "acosh": "Acosh",
    "asin": "Asin",
    "asinh": "Asinh",
    "atan": "Atan",
    "atanh": "Atanh",
    "cos": "Cos",
    "cosh": "Cosh",
    "erf": "Erf",
    "exp": "Exp",
    "log": "Log",
    "mish": "Mish",
    "reciprocal": "Reciprocal",
    "sigmoid": "Sigmoid",
    "silu": "Swish",
    "sin": "Sin",
    "sinh": "Sinh",
    "sqrt": "Sqrt",
    "tan": "Tan",
    "tanh": "Tanh",
}
_UNARY_SAME = {"abs": "Abs", "hardswish": "HardSwish", "relu": "Relu", "sgn": "Sign", "sign": "Sign"}
_ROUNDING = {"ceil": "Ceil", "floor": "Floor", "round": "Round"}
_COMPARISON = {"eq": "Equal", "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less"}
_LOGICAL = {"and": "And", "or": "Or", "xor": "Xor"}


def _unary(name: str, onnx: str, *, to_float: bool) -> None:
    @lowers(f"aten.{name}.default")
    def lower(op: Lowering, x: Value) -> Value:
        if to_float:
            return op(onnx, op.cast(x))
        if onnx == "Relu" and x.dtype.is_integer:  # which runtimes have no kernel for
            return op.Max(x, 0)
        return x if x.dtype is DType.bool or (x.dtype.is_unsigned and onnx == "Abs") else op(onnx, x)


def _rounding(name: str, onnx: str) -> None:
    @lowers(f"aten.{name}.default")
    def lower(op: Lowering, x: Value) -> Value:
        return op(onnx, x) if x.dtype.is_float else x


def _comparison(name: str, onnx: str) -> None:
    @lowers(f"aten.{name}.Tensor", f"aten.{name}.Scalar")
    def lower(op: Lowering, a: Value, b: Operand) -> Value:
        a, b = op.promoted(a, b)
        if a.dtype is DType.bool and onnx != "Equal":  # ONNX has no order of truth values
            a, b = op.cast(a, DType.uint8), op.cast(b, DType.uint8)
        return op(onnx, a, b)


def _logical(name: str, onnx: str) -> None:
    @lowers(f"aten.logical_{name}.default")
    def logical(op: Lowering, a: Value, b: Value) -> Value:
        return op(onnx, op.cast(a, DType.bool), op.cast(b, DType.bool))

    @lowers(
        *(f"aten.bitwise_{name}.{overload}" for overload in ("Tensor", "Scalar", "Scalar_Tensor")),
        *(f"aten.__{name}__.{overload}" for overload in ("Tensor", "Scalar")),
    )
    def bitwise(op: Lowering, a: Operand, b: Operand) -> Value:
        a, b = op.promoted(a, b)
        return op(onnx if a.dtype is DType.bool else f"Bitwise{onnx}", a, b)


for _name, _onnx in _UNARY_FLOAT.items():
    _unary(_name, _onnx, to_float=True)
for _name, _onnx in _UNARY_SAME.items():
    _unary(_name, _onnx, to_float=False)
for _name, _onnx in _ROUNDING.items():
    _rounding(_name, _onnx)
for _name, _onnx in _COMPARISON.items():
    _comparison(_name, _onnx)
for _name, _onnx in _LOGICAL.items():
    _logical(_name, _onnx)


def _arithmetic(op: Lowering, onnx: str, a: Operand, b: Operand) -> Value:
    return op(onnx, op.cast(a), op.cast(b))


@lowers("aten.add.Tensor", "aten.add.Scalar")
def add(op: Lowering, a: Value, b: Operand, *, alpha: float = 1) -> Value:
    if op.result_type is DType.bool:
        return op.Or(*op.promoted(a, b))
    if alpha != 1:
        b = op.Mul(op.cast(b), alpha)
    return op.cast(a) if _is_number(b, 0) else _arithmetic(op, "Add", a, b)


@lowers("aten.sub.Tensor", "aten.sub.Scalar")
def sub(op: Lowering, a: Value, b: Operand, *, alpha: float = 1) -> Value:
    if alpha != 1:
        b = op.Mul(op.cast(b), alpha)
    return _arithmetic(op, "Sub", a, b)


@lowers("aten.rsub.Scalar", "aten.rsub.Tensor")
def rsub(op: Lowering, a: Value, b: Operand, *, alpha: float = 1) -> Value:
    return _arithmetic(op, "Sub", b, a if alpha == 1 else op.Mul(op.cast(a), alpha))


@lowers("aten.mul.Tensor", "aten.mul.Scalar")
def mul(op: Lowering, a: Value, b: Operand) -> Value:
    if op.result_type is DType.bool:
        return op.And(*op.promoted(a, b))
    return op.cast(a) if _is_number(b, 1) else _arithmetic(op, "Mul", a, b)


@lowers("aten.div.Tensor", "aten.div.Scalar")
def div(op: Lowering, a: Value, b: Operand) -> Value:
    return _arithmetic(op, "Div", a, b)


@lowers("aten.div.Tensor_mode", "aten.div.Scalar_mode")
def div_mode(op: Lowering, a: Value, b: Operand, *, rounding_mode: str | None = None) -> Value:
    a, b = op.cast(a), op.cast(b)
    if rounding_mode == "floor":
        return floor_quotient(op, a, b)
    quotient = op.Div(a, b)
    return quotient if rounding_mode is None else truncate(op, quotient)


@lowers("aten.floor_divide.default", "aten.floor_divide.Scalar")
def floor_divide(op: Lowering, a: Value, b: Operand) -> Value:
    return div_mode(op, a, b, rounding_mode="floor")


def floor_quotient(op: Lowering, a: Value, b: Value) -> Value:
    """The quotient of values of one type, rounded down; of floats by the exact remainder, as torch has it."""
    if op.result_type.is_integer:
        return op.Div(op.Sub(a, op.Mod(a, b)), b)
    rest, is_opposite = _rest(op, a, b)
    whole = op.Round(op.Div(op.Sub(a, rest), b))
    whole = op.Where(is_opposite, op.Sub(whole, 1.0), whole)
    return whole if _is_finite_constant(b) else op.Where(op.Equal(b, 0.0), op.Div(a, b), whole)


def _rest(op: Lowering, a: Value, b: Value) -> tuple[Value, Value]:
    """The remainder of a division of floats towards zero, and whether its sign is the opposite of the divisor's."""
    rest = op.Mod(a, b, fmod=1)
    is_opposite = op.Xor(op.Less(rest, 0.0), op.Less(b, 0.0))
    return rest, op.And(is_opposite, op.Not(op.Equal(rest, 0.0)))


def _is_finite_constant(value: Value) -> bool:
    return isinstance(value, Constant) and bool(np.isfinite(value.data).all() and value.data.all())


@lowers("aten.trunc.default", "aten.fix.default")
def truncate(op: Lowering, x: Value) -> Value:
    return op.Mul(op.Sign(x), op.Floor(op.Abs(x))) if x.dtype.is_float else x


@lowers("aten.fmod.Tensor", "aten.fmod.Scalar")
def fmod(op: Lowering, a: Value, b: Operand) -> Value:
    return op.Mod(op.cast(a), op.cast(b), fmod=1)


@lowers("aten.remainder.Tensor", "aten.remainder.Scalar", "aten.remainder.Scalar_Tensor")
def remainder(op: Lowering, a: Operand, b: Operand) -> Value:
    a, b = op.cast(a), op.cast(b)
    if op.result_type.is_integer:
        return op.Mod(a, b)
    rest, is_opposite = _rest(op, a, b)
    return op.Where(is_opposite, op.Add(rest, b), rest)


@lowers("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.pow.Scalar")
def power(op: Lowering, a: Operand, b: Operand) -> Value:
    a = op.cast(a)
    if _is_number(b, 2):
        return op.Mul(a, a)
    if op.result_type.is_float:
        return op.Sqrt(a) if _is_number(b, 0.5) else op.Pow(a, op.cast(b))
    return _integer_power(op, a, b)


def _integer_power(op: Lowering, a: Value, b: Operand) -> Value:
    """Raise integers to a constant power by products, which are exact; a negative power is 0 but for 1 and -1."""
    if isinstance(b, int) and 0 < b < 64:
        half = a if b == 1 else _integer_power(op, op.Mul(a, a), b // 2)
        return half if b == 1 or b % 2 == 0 else op.Mul(half, a)
    wide = DType.int64 if a.dtype is DType.int64 else DType.int32
    a, b = op.cast(a, wide), op.cast(b, wide)
    is_lost = op.And(op.Less(b, 0), op.Not(op.Equal(op.Abs(a), 1)))
    return op.cast(op.Where(is_lost, op.cast(0, wide), op.Pow(a, op.Abs(b))))


@lowers("aten.rsqrt.default")
def rsqrt(op: Lowering, x: Value) -> Value:
    return op.Reciprocal(op.Sqrt(op.cast(x)))


@lowers("aten.neg.default")
def negative(op: Lowering, x: Value) -> Value:
    return op.Sub(0, x) if x.dtype.is_unsigned else op.Neg(x)


@lowers("aten.square.default")
def square(op: Lowering, x: Value) -> Value:
    x = op.cast(x)
    return op.Mul(x, x)


@lowers("aten.round.decimals")
def round_to(op: Lowering, x: Value, *, decimals: int = 0) -> Value:
    if decimals == 0 or not x.dtype.is_float:
        return op.Round(x) if x.dtype.is_float else x
    scale = 10.0 ** abs(decimals)
    if decimals > 0:
        return op.Div(op.Round(op.Mul(x, scale)), scale)
    return op.Mul(op.Round(op.Div(x, scale)), scale)


@lowers("aten.maximum.default", "aten.max.other")
def maximum(op: Lowering, a: Value, b: Value) -> Value:
    return op("Or" if op.result_type is DType.bool else "Max", *op.promoted(a, b))


@lowers("aten.minimum.default", "aten.min.other")
def minimum(op: Lowering, a: Value, b: Value) -> Value:
    return op("And" if op.result_type is DType.bool else "Min", *op.promoted(a, b))


@lowers("aten.ne.Tensor", "aten.ne.Scalar")
def not_equal(op: Lowering, a: Value, b: Operand) -> Value:
    return op.Not(op.Equal(*op.promoted(a, b)))


@lowers("aten.bitwise_not.default")
def bitwise_not(op: Lowering, x: Value) -> Value:
    return op.Not(x) if x.dtype is DType.bool else op.BitwiseNot(x)


@lowers("aten.logical_not.default")
def logical_not(op: Lowering, x: Value) -> Value:
    return op.Not(op.cast(x, DType.bool))


@lowers("aten.isnan.default", "aten.isinf.default", "aten.isposinf.default", "aten.isneginf.default")
def is_special(op: Lowering, x: Value) -> Value:
    name = str(op.node.target)
    if not x.dtype.is_float:
        return op.expand(op.cast(False, DType.bool), op.result_shape)
    if "nan" in name:
        return op.IsNaN(x)
    left_out = {"aten.isposinf.default": "detect_negative", "aten.isneginf.default": "detect_positive"}.get(name)
    return op.IsInf(x, **({left_out: 0} if left_out else {}))


@lowers("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def where(op: Lowering, condition: Value, a: Operand, b: Operand) -> Value:
    return op.choose(op.cast(condition, DType.bool), op.cast(a), op.cast(b))


@lowers("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(op: Lowering, x: Value, mask: Value, value: Operand) -> Value:
    return op.choose(op.cast(mask, DType.bool), op.cast(value), x)


@lowers("aten.clamp.default", "aten.clamp.Tensor")
def clamp(op: Lowering, x: Value, low: Operand = None, high: Operand = None) -> Value:
    bounds = [None if bound is None else op.cast(bound) for bound in (low, high)]
    x = op.cast(x)
    if all(bound is None or bound.type.rank == 0 for bound in bounds):
        return op.Clip(x, *bounds)
    x = x if bounds[0] is None else op.Max(x, bounds[0])
    return x if bounds[1] is None else op.Min(x, bounds[1])


@lowers("aten.clamp_min.default", "aten.clamp_min.Tensor")
def clamp_min(op: Lowering, x: Value, low: Operand) -> Value:
    return clamp(op, x, low)


@lowers("aten.clamp_max.default", "aten.clamp_max.Tensor")
def clamp_max(op: Lowering, x: Value, high: Operand) -> Value:
    return clamp(op, x, None, high)


@lowers("aten.view.dtype", "aten.view_copy.dtype")
def reinterpret(op: Lowering, x: Value, dtype: Any) -> Value:
    if x.dtype.bits != op.result_type.bits:
        op.refuse(f"{x.dtype} is read as {op.result_type}, which is of another width")
    return x if x.dtype is op.result_type else op.BitCast(x, to=op.result_type)


@lowers(
    "aten._to_copy.default",
    *(f"aten.to.{overload}" for overload in ("dtype", "dtype_layout", "device", "other")),
    "aten.type_as.default",
)
def to_copy(op: Lowering, x: Value, *_ignored: Any, **_keywords: Any) -> Value:
    return op.cast(x)


@lowers(
    "aten.clone.default",
    "aten.alias.default",
    "aten.detach.default",
    "aten.contiguous.default",
    "aten.lift_fresh_copy.default",
)
def identity(op: Lowering, x: Value, *_ignored: Any, **_keywords: Any) -> Value:
    return x


def _is_number(value: Operand, number: float) -> bool:
    return not isinstance(value, Value) and value == number
