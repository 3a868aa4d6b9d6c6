"""Activations, normalizations and other arithmetic, spelled out."""

import numpy as np

from ....ir.builder import Builder
from ....ir.graph import Node, Value
from ....ir.types import DType
from ..expansion import Expansion, RefusedError, attribute, axes_from, cast, size_of


def _swish(op: Builder, node: Node) -> Value:
    x, alpha = node.operand(0), attribute(node, "alpha", 1.0)
    return op.Mul(x, op.Sigmoid(x if alpha == 1 else op.Mul(x, float(alpha))))


def _softplus(op: Builder, node: Node) -> Value:
    return _logarithm_of_one_and_exponential(op, node.operand(0))


def _mish(op: Builder, node: Node) -> Value:
    x = node.operand(0)
    return op.Mul(x, op.Tanh(_logarithm_of_one_and_exponential(op, x)))


def _logarithm_of_one_and_exponential(op: Builder, x: Value) -> Value:
    """`log(1 + exp(x))` that neither overflows nor loses the digits of small exponentials.

    What rounding adds to 1 is taken out again by a ratio (W. Kahan's `log1p`).
    """
    small = op.Exp(op.Neg(op.Abs(x)))
    one = op.Add(small, 1.0)
    ratio = op.Div(op.Mul(op.Log(one), small), op.Sub(one, 1.0))
    return op.Add(op.Relu(x), op.Where(op.Equal(one, 1.0), small, ratio))


def _hard_sigmoid(op: Builder, node: Node) -> Value:
    x, alpha, beta = node.operand(0), attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    return op.Clip(op.Add(op.Mul(x, float(alpha)), float(beta)), 0.0, 1.0)


def _hard_swish(op: Builder, node: Node) -> Value:
    x = node.operand(0)
    return op.Mul(x, op.Clip(op.Add(op.Mul(x, 1 / 6), 0.5), 0.0, 1.0))


def _celu(op: Builder, node: Node) -> Value:
    alpha = float(attribute(node, "alpha", 1.0))
    return op.Mul(op.Elu(op.Div(node.operand(0), alpha)), alpha)


def _is_infinite(op: Builder, node: Node) -> Value:
    x = node.operand(0)
    high, low = (op.Equal(x, float(limit)) for limit in (np.inf, -np.inf))
    if not attribute(node, "detect_negative", 1):
        return high
    return op.Or(high, low) if attribute(node, "detect_positive", 1) else low


def _power(op: Builder, node: Node) -> Value:
    """Integers go through float64; the exponent takes the type of the base."""
    x, exponent = node.operand(0), node.operand(1)
    to = x.dtype if x.dtype.is_float else DType.float64
    return op.Cast(op.Pow(op.Cast(x, to=to), op.Cast(exponent, to=to)), to=x.dtype)


def _dropout(op: Builder, node: Node) -> Value | tuple[Value, ...]:
    x, training = node.operand(0), node.input(2)
    if training is not None and (node.constant(2) is None or np.any(node.constant(2))):
        raise RefusedError("it is in training mode")
    if len(node.outputs) == 1:
        return x
    return x, op.ConstantOfShape(op.Shape(x), value=np.ones(1, bool))


def _one_hot(op: Builder, node: Node) -> Value:
    indices, depth = (cast(op, node.operand(index), DType.int64) for index in (0, 1))
    count = op.Reshape(depth, np.zeros(0, np.int64))
    rank = indices.type.rank + 1
    axis = attribute(node, "axis", -1) % rank
    indices = op.Where(op.Less(indices, 0), op.Add(indices, count), indices)
    classes = op.Reshape(op.Range(0, count, 1), [-1, *[1] * (rank - 1 - axis)])
    hot = op.Equal(op.Unsqueeze(indices, [axis]), classes)
    off, on = (op.Gather(node.operand(2), op.constant(index)) for index in (0, 1))
    return op.Where(hot, on, off)


def _layer_normalization(op: Builder, node: Node) -> tuple[Value, ...]:
    x, bias = node.operand(0), node.input(2)
    axes, stash = axes_from(node, x), _stash(op, node, x)
    mean = op.ReduceMean(stash, axes)
    centred = op.Sub(stash, mean)
    inverse = _inverse_root(op, node, op.ReduceMean(op.Mul(centred, centred), axes))
    y = op.Mul(cast(op, op.Mul(centred, inverse), x.dtype), node.operand(1))
    return y if bias is None else op.Add(y, bias), mean, inverse


def _rms_normalization(op: Builder, node: Node) -> Value:
    x, scale = node.operand(0), node.operand(1)
    stash = _stash(op, node, x)
    inverse = _inverse_root(op, node, op.ReduceMean(op.Mul(stash, stash), axes_from(node, x)))
    return op.Mul(cast(op, op.Mul(stash, inverse), scale.dtype), scale)


def _mean_variance_normalization(op: Builder, node: Node) -> Value:
    """Runtimes leave out what is added to a deviation, and divide 0 by 0 where all is the same."""
    x, axes = node.operand(0), list(attribute(node, "axes", (0, 2, 3)))
    centred = op.Sub(x, op.ReduceMean(x, axes))
    deviation = op.Sqrt(op.ReduceMean(op.Mul(centred, centred), axes))
    return op.Div(centred, op.Add(deviation, 1e-9))


def _lp_normalization(op: Builder, node: Node) -> Value:
    """Divide by the norm; what is all zero stays so."""
    x, axes = node.operand(0), [attribute(node, "axis", -1)]
    norm = op.ReduceL1(x, axes) if attribute(node, "p", 2) == 1 else op.ReduceL2(x, axes)
    return op.Div(x, op.Where(op.Equal(norm, 0.0), op.Add(op.Mul(norm, 0.0), 1.0), norm))


def _hardmax(op: Builder, node: Node) -> Value:
    x, axis = node.operand(0), attribute(node, "axis", -1) % node.operand(0).type.rank
    places = op.Reshape(op.Range(0, size_of(op, x, axis), 1), [-1, *[1] * (x.type.rank - 1 - axis)])
    return op.Cast(op.Equal(op.ArgMax(x, axis=axis), places), to=x.dtype)


def _eye_like(op: Builder, node: Node) -> Value:
    x = node.operand(0)
    rows, columns = (op.Range(0, size_of(op, x, axis), 1) for axis in (0, 1))
    diagonal = op.Equal(op.Sub(columns, op.Unsqueeze(rows, [1])), int(attribute(node, "k", 0)))
    return op.Cast(diagonal, to=attribute(node, "dtype", x.dtype))


def _cast_like(op: Builder, node: Node) -> Value:
    return op.Cast(node.operand(0), to=node.operand(1).dtype, **node.attributes)


def _stash(op: Builder, node: Node, x: Value) -> Value:
    """The input in the type that sums are kept in."""
    return cast(op, x, DType(attribute(node, "stash_type", 1)))


def _inverse_root(op: Builder, node: Node, variance: Value) -> Value:
    return op.Reciprocal(op.Sqrt(op.Add(variance, float(attribute(node, "epsilon", 1e-5)))))


EXPANSIONS: dict[str, Expansion] = {
    "CastLike": _cast_like,
    "Celu": _celu,
    "Dropout": _dropout,
    "EyeLike": _eye_like,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Hardmax": _hardmax,
    "IsInf": _is_infinite,
    "LayerNormalization": _layer_normalization,
    "LpNormalization": _lp_normalization,
    "MeanVarianceNormalization": _mean_variance_normalization,
    "Mish": _mish,
    "OneHot": _one_hot,
    "Pow": _power,
    "RMSNormalization": _rms_normalization,
    "Softplus": _softplus,
    "Swish": _swish,
}
