"""Lowerings of activation functions."""

import math
from typing import Any

from ...ir.graph import Value
from .lower_elementwise import clamp
from .lowering import Lowering, lowers


@lowers("aten.softplus.default")
def softplus(op: Lowering, x: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    if (beta, threshold) == (1, 20):  # from there on the result and x are the same in float32
        return op.Softplus(x)
    scaled = op.Mul(x, float(beta))
    return op.Where(op.Greater(scaled, float(threshold)), x, op.Div(op.Softplus(scaled), float(beta)))


@lowers("aten.hardsigmoid.default")
def hardsigmoid(op: Lowering, x: Value) -> Value:
    return op.HardSigmoid(x, alpha=1 / 6)


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


@lowers(
    "aten._softmax.default",
    "aten.softmax.int",
    "aten._log_softmax.default",
    "aten.log_softmax.int",
)
def softmax(op: Lowering, x: Value, axis: int, _dtype: Any = None) -> Value:
    x, is_logarithm = op.cast(x), "log" in str(op.node.target)
    if x.type.rank:
        return op("LogSoftmax" if is_logarithm else "Softmax", x, axis=axis)
    difference = op.Sub(x, x)
    return difference if is_logarithm else op.Exp(difference)


@lowers("aten._safe_softmax.default")
def safe_softmax(op: Lowering, x: Value, axis: int, dtype: Any = None) -> Value:
    """Softmax with zeros in rows that are all minus infinity."""
    x = op.cast(x)
    if x.type.rank == 0:
        return op.Where(op.Equal(x, -math.inf), op.cast(0.0, x.dtype), softmax(op, x, axis))
    is_empty = op.Equal(op.ReduceMax(x, [axis], keepdims=1), -math.inf)
    return op.Where(is_empty, op.cast(0.0, x.dtype), op.Softmax(x, axis=axis))
