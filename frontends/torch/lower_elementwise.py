"""Lowerings of elementwise ATen operators: arithmetic, comparison, activation, casts."""

import math
from typing import Any

from ...ir.builder import Operand
from ...ir.graph import Value
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
_UNARY_SAME = {
    "abs": "Abs",
    "hardswish": "HardSwish",
    "neg": "Neg",
    "relu": "Relu",
    "sign": "Sign",
}
_ROUNDING = {"ceil": "Ceil", "floor": "Floor", "round": "Round"}
_COMPARISON = {"eq": "Equal", "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less"}
_LOGICAL = {"and": "And", "or": "Or", "xor": "Xor"}


def _unary(name: str, onnx: str, *, to_float: bool) -> None:
    @lowers(f"aten.{name}.default")
    def lower(op: Lowering, x: Value) -> Value:
        return op(onnx, op.cast(x, op.result_type) if to_float else x)


def _rounding(name: str, onnx: str) -> None:
    @lowers(f"aten.{name}.default")
    def lower(op: Lowering, x: Value) -> Value:
        return op(onnx, x) if x.dtype.is_float else x


def _comparison(name: str, onnx: str) -> None:
    @lowers(f"aten.{name}.Tensor", f"aten.{name}.Scalar")
    def lower(op: Lowering, a: Value, b: Operand) -> Value:
        return op(onnx, *op.promoted(a, b))


def _logical(name: str, onnx: str) -> None:
    @lowers(f"aten.logical_{name}.default")
    def logical(op: Lowering, a: Value, b: Value) -> Value:
        return op(onnx, op.cast(a, DType.bool), op.cast(b, DType.bool))

    @lowers(f"aten.bitwise_{name}.Tensor", f"aten.bitwise_{name}.Scalar")
    def bitwise(op: Lowering, a: Value, b: Operand) -> Value:
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
    return op(onnx, op.cast(a, op.result_type), op.cast(b, op.result_type))


@lowers("aten.add.Tensor", "aten.add.Scalar")
def add(op: Lowering, a: Value, b: Operand, *, alpha: float = 1) -> Value:
    if op.result_type is DType.bool:
        return op.Or(*op.promoted(a, b))
    if alpha != 1:
        b = op.Mul(op.cast(b, op.result_type), alpha)
    return op.cast(a, op.result_type) if _is_number(b, 0) else _arithmetic(op, "Add", a, b)


@lowers("aten.sub.Tensor", "aten.sub.Scalar")
def sub(op: Lowering, a: Value, b: Operand, *, alpha: float = 1) -> Value:
    if alpha != 1:
        b = op.Mul(op.cast(b, op.result_type), alpha)
    return _arithmetic(op, "Sub", a, b)


@lowers("aten.rsub.Scalar", "aten.rsub.Tensor")
def rsub(op: Lowering, a: Value, b: Operand, *, alpha: float = 1) -> Value:
    return _arithmetic(op, "Sub", b, a if alpha == 1 else op.Mul(op.cast(a, op.result_type), alpha))


@lowers("aten.mul.Tensor", "aten.mul.Scalar")
def mul(op: Lowering, a: Value, b: Operand) -> Value:
    if op.result_type is DType.bool:
        return op.And(*op.promoted(a, b))
    return op.cast(a, op.result_type) if _is_number(b, 1) else _arithmetic(op, "Mul", a, b)


@lowers("aten.div.Tensor", "aten.div.Scalar")
def div(op: Lowering, a: Value, b: Operand) -> Value:
    return _arithmetic(op, "Div", a, b)


@lowers("aten.div.Tensor_mode", "aten.div.Scalar_mode")
def div_mode(op: Lowering, a: Value, b: Operand, *, rounding_mode: str | None = None) -> Value:
    a, b = op.cast(a, op.result_type), op.cast(b, op.result_type)
    if rounding_mode is None:
        return op.Div(a, b)
    if op.result_type.is_integer:
        quotient = op.Div(a, b)
        return quotient if rounding_mode == "trunc" else op.Div(op.Sub(a, op.Mod(a, b)), b)
    quotient = op.Div(a, b)
    return op.Floor(quotient) if rounding_mode == "floor" else truncate(op, quotient)


@lowers("aten.floor_divide.default")
def floor_divide(op: Lowering, a: Value, b: Operand) -> Value:
    return div_mode(op, a, b, rounding_mode="floor")


@lowers("aten.trunc.default")
def truncate(op: Lowering, x: Value) -> Value:
    return op.Mul(op.Sign(x), op.Floor(op.Abs(x))) if x.dtype.is_float else x


@lowers("aten.fmod.Tensor", "aten.fmod.Scalar")
def fmod(op: Lowering, a: Value, b: Operand) -> Value:
    return op.Mod(op.cast(a, op.result_type), op.cast(b, op.result_type), fmod=1)


@lowers("aten.remainder.Tensor", "aten.remainder.Scalar", "aten.remainder.Scalar_Tensor")
def remainder(op: Lowering, a: Operand, b: Operand) -> Value:
    a, b = op.cast(a, op.result_type), op.cast(b, op.result_type)
    if op.result_type.is_integer:
        return op.Mod(a, b)
    return op.Sub(a, op.Mul(op.Floor(op.Div(a, b)), b))


@lowers("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.pow.Scalar")
def power(op: Lowering, a: Operand, b: Operand) -> Value:
    a = op.cast(a, op.result_type)
    if _is_number(b, 2):
        return op.Mul(a, a)
    if _is_number(b, 0.5):
        return op.Sqrt(a)
    return op.Pow(a, op.cast(b, op.result_type))


@lowers("aten.rsqrt.default")
def rsqrt(op: Lowering, x: Value) -> Value:
    return op.Reciprocal(op.Sqrt(op.cast(x, op.result_type)))


@lowers("aten.square.default")
def square(op: Lowering, x: Value) -> Value:
    return op.Mul(x, x)


@lowers("aten.log1p.default")
def log1p(op: Lowering, x: Value) -> Value:
    return op.Log(op.Add(op.cast(x, op.result_type), 1.0))


@lowers("aten.expm1.default")
def expm1(op: Lowering, x: Value) -> Value:
    return op.Sub(op.Exp(op.cast(x, op.result_type)), 1.0)


@lowers("aten.log2.default", "aten.log10.default")
def log_to_base(op: Lowering, x: Value) -> Value:
    base = 2 if "log2" in str(op.node.target) else 10
    return op.Mul(op.Log(op.cast(x, op.result_type)), 1 / math.log(base))


@lowers("aten.exp2.default")
def exp2(op: Lowering, x: Value) -> Value:
    return op.Exp(op.Mul(op.cast(x, op.result_type), math.log(2)))


@lowers("aten.softplus.default")
def softplus(op: Lowering, x: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    if (beta, threshold) == (1, 20):  # from there on the result and x are the same in float32
        return op.Softplus(x)
    scaled = op.Mul(x, float(beta))
    return op.Where(op.Greater(scaled, float(threshold)), x, op.Div(op.Softplus(scaled), float(beta)))


@lowers("aten.hardsigmoid.default")
def hardsigmoid(op: Lowering, x: Value) -> Value:
    return op.HardSigmoid(x, alpha=1 / 6)


@lowers("aten.maximum.default", "aten.max.other")
def maximum(op: Lowering, a: Value, b: Value) -> Value:
    return op.Max(*op.promoted(a, b))


@lowers("aten.minimum.default", "aten.min.other")
def minimum(op: Lowering, a: Value, b: Value) -> Value:
    return op.Min(*op.promoted(a, b))


@lowers("aten.ne.Tensor", "aten.ne.Scalar")
def not_equal(op: Lowering, a: Value, b: Operand) -> Value:
    return op.Not(op.Equal(*op.promoted(a, b)))


@lowers("aten.bitwise_not.default")
def bitwise_not(op: Lowering, x: Value) -> Value:
    return op.Not(x) if x.dtype is DType.bool else op.BitwiseNot(x)


@lowers("aten.logical_not.default")
def logical_not(op: Lowering, x: Value) -> Value:
    return op.Not(op.cast(x, DType.bool))


@lowers("aten.isnan.default")
def isnan(op: Lowering, x: Value) -> Value:
    return op.IsNaN(x)


@lowers("aten.isinf.default")
def isinf(op: Lowering, x: Value) -> Value:
    return op.IsInf(x)


@lowers("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def where(op: Lowering, condition: Value, a: Operand, b: Operand) -> Value:
    return op.Where(condition, op.cast(a, op.result_type), op.cast(b, op.result_type))


@lowers("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(op: Lowering, x: Value, mask: Value, value: Operand) -> Value:
    return op.Where(mask, op.cast(value, op.result_type), x)


@lowers("aten.clamp.default", "aten.clamp.Tensor")
def clamp(op: Lowering, x: Value, low: Operand = None, high: Operand = None) -> Value:
    bounds = [None if bound is None else op.cast(bound, op.result_type) for bound in (low, high)]
    x = op.cast(x, op.result_type)
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


@lowers("aten.hardtanh.default")
def hardtanh(op: Lowering, x: Value, low: float = -1.0, high: float = 1.0) -> Value:
    return clamp(op, x, low, high)


@lowers("aten.relu6.default")
def relu6(op: Lowering, x: Value) -> Value:
    return clamp(op, x, 0.0, 6.0)


@lowers("aten.gelu.default")
def gelu(op: Lowering, x: Value, *, approximate: str = "none") -> Value:
    return op.Gelu(x, approximate=None if approximate == "none" else approximate)


@lowers("aten.elu.default")
def elu(op: Lowering, x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    if (scale, input_scale) == (1.0, 1.0):
        return op.Elu(x, alpha=float(alpha))
    return op.Selu(x, alpha=float(alpha), gamma=float(scale))


@lowers("aten.leaky_relu.default")
def leaky_relu(op: Lowering, x: Value, slope: float = 0.01) -> Value:
    return op.LeakyRelu(x, alpha=float(slope))


@lowers("aten._prelu_kernel.default")
def prelu(op: Lowering, x: Value, weight: Value) -> Value:
    return op.PRelu(x, weight)


@lowers("aten._softmax.default", "aten.softmax.int", "aten._log_softmax.default", "aten.log_softmax.int")
def softmax(op: Lowering, x: Value, axis: int, _dtype: Any = None) -> Value:
    return op("LogSoftmax" if "log" in str(op.node.target) else "Softmax", op.cast(x, op.result_type), axis=axis)


@lowers("aten._to_copy.default", "aten.to.dtype", "aten.type_as.default")
def to_copy(op: Lowering, x: Value, *_ignored: Any, **_keywords: Any) -> Value:
    return op.cast(x, op.result_type)


@lowers(
    "aten.clone.default",
    "aten.alias.default",
    "aten.detach.default",
    "aten.contiguous.default",
    "aten.dropout.default",
    "aten.lift_fresh_copy.default",
)
def identity(op: Lowering, x: Value, *_ignored: Any, **_keywords: Any) -> Value:
    return x


@lowers("aten.scalar_tensor.default")
def scalar_tensor(op: Lowering, value: float, **_keywords: Any) -> Value:
    return op.cast(value, op.result_type)


def _is_number(value: Operand, number: float) -> bool:
    return not isinstance(value, Value) and value == number
