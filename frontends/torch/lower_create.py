"""Lowerings of ATen operators that make tensors: of one number, of a sequence, of random numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...ir.builder import Operand
from ...ir.dims import Dim
from ...ir.graph import Value
from ...ir.ops.dtypes import dtype_of
from ...ir.types import DType
from .lowering import Lowering, lowers


@lowers("aten.arange.start_step", "aten.arange.start", "aten.arange.default")
def arange(op: Lowering, *bounds: Any, **_keywords: Any) -> Value:
    start, end, step = {1: (0, *bounds, 1), 2: (*bounds, 1), 3: bounds}[len(bounds)]
    dtype = op.result_type
    if not any(isinstance(bound, str) for bound in (start, end, step)):
        made = torch.arange(start, end, step, dtype=op.result.dtype)
        return op.constant(made.numpy() if dtype is not DType.bfloat16 else made.float().numpy().astype(dtype.numpy))
    scalars = [op.cast(bound, DType.int64) for bound in (start, end, step)]
    return op.cast(op.Range(*scalars), dtype)


@lowers(
    *(f"aten.{name}{like}.default" for name in ("full", "zeros", "ones") for like in ("", "_like")),
    *(f"aten.new_{name}.default" for name in ("zeros", "ones", "full", "empty", "empty_strided")),
    "aten.empty.memory_format",
    "aten.empty_like.default",
    "aten.empty_permuted.default",
    "aten.empty_strided.default",
)
def full(op: Lowering, *arguments: Any, fill_value: Any = None, **_keywords: Any) -> Value:
    name = str(op.node.target)
    if "full" in name:
        return op.filled(arguments[-1] if fill_value is None else fill_value)
    return op.filled(int("ones" in name))


@lowers("aten.fill.Scalar", "aten.fill.Tensor")
def fill(op: Lowering, x: Value, value: Operand) -> Value:
    return op.expand(op.cast(value, x.dtype), x.shape)


@lowers("aten.scalar_tensor.default", "prims.scalar_tensor.default")
def scalar_tensor(op: Lowering, value: float, **_keywords: Any) -> Value:
    return op.cast(value)


@lowers("aten.tril_indices.default", "aten.triu_indices.default")
def triangle_indices(op: Lowering, rows: int, columns: int, offset: int = 0, **_keywords: Any) -> Value:
    make = torch.tril_indices if "tril" in str(op.node.target) else torch.triu_indices
    return op.constant(make(rows, columns, offset, dtype=op.result.dtype).numpy())


@lowers("aten.one_hot.default")
def one_hot(op: Lowering, x: Value, classes: int) -> Value:
    return op.OneHot(x, op.constant(classes), op.constant(np.asarray([0, 1], dtype=dtype_of(op.result.dtype).numpy)))


# -- random numbers


_TINY = float(np.finfo(np.float32).tiny)
"""The lower bound of random numbers whose logarithm is taken."""


def _random(op: Lowering, kind: str, shape: Sequence[Dim], **bounds: Any) -> Value:
    """Random numbers in float32 from one of ONNX's distributions."""
    if all(isinstance(dim, int) for dim in shape):
        return op(kind, shape=tuple(shape), **bounds)
    return op(f"{kind}Like", op.expand(op.cast(0.0, DType.float32), shape), **bounds)


def _uniform(op: Lowering, shape: Sequence[Dim], low: float = 0.0, high: float = 1.0) -> Value:
    return _random(op, "RandomUniform", shape, low=float(low), high=float(high))


def _normal(op: Lowering, shape: Sequence[Dim], mean: float = 0.0, scale: float = 1.0) -> Value:
    return _random(op, "RandomNormal", shape, mean=float(mean), scale=float(scale))


@lowers("aten.rand.default", "aten.rand_like.default")
def uniform_noise(op: Lowering, *_ignored: Any, **_keywords: Any) -> Value:
    return op.cast(_uniform(op, op.result_shape))


@lowers("aten.uniform.default")
def uniform(op: Lowering, x: Value, low: float = 0.0, high: float = 1.0, **_keywords: Any) -> Value:
    return op.cast(_uniform(op, op.result_shape, low, high))


@lowers("aten.randn.default", "aten.randn_like.default")
def normal_noise(op: Lowering, *_ignored: Any, **_keywords: Any) -> Value:
    return op.cast(_normal(op, op.result_shape))


@lowers("aten.normal_functional.default", "aten.normal.float_float")
def normal(op: Lowering, x: Value | float, mean: float = 0.0, scale: float = 1.0, *_ignored: Any, **_kw: Any) -> Value:
    if not isinstance(x, Value):
        mean, scale = x, mean
    return op.cast(_normal(op, op.result_shape, mean, scale))


@lowers("aten.normal.Tensor_float", "aten.normal.float_Tensor", "aten.normal.Tensor_Tensor")
def normal_of_each(op: Lowering, mean: Operand = 0.0, scale: Operand = 1.0, **_keywords: Any) -> Value:
    noise = op.cast(_normal(op, op.result_shape))
    return op.Add(op.Mul(noise, op.cast(scale)), op.cast(mean))


@lowers("aten.randint.default", "aten.randint.low", "aten.randint_like.default", "aten.randint_like.low_dtype")
def integer_noise(op: Lowering, *arguments: Any, **_keywords: Any) -> Value:
    bounds = [argument for argument in arguments if isinstance(argument, int)]
    low, high = bounds if len(bounds) == 2 else (0, *bounds)
    noise = op.Floor(_uniform(op, op.result_shape, low, high))
    return op.cast(op.Min(noise, float(high - 1)))  # rounding may reach the end


@lowers("aten.randperm.default")
def permutation(op: Lowering, count: Dim, **_keywords: Any) -> Value:
    _, places = op.TopK(_uniform(op, [count]), op.row([count]), outputs=2, axis=0)
    return op.cast(places)


@lowers("aten.bernoulli.default", "aten.bernoulli.p")
def coins(op: Lowering, x: Value, chance: float | None = None, **_keywords: Any) -> Value:
    odds = op.cast(x, DType.float32) if chance is None else op.cast(float(chance), DType.float32)
    return op.cast(op.Less(_uniform(op, op.result_shape), odds))


@lowers("aten.exponential.default")
def exponential(op: Lowering, x: Value, rate: float = 1.0, **_keywords: Any) -> Value:
    return op.cast(op.Mul(op.Log(_uniform(op, op.result_shape, _TINY)), -1.0 / rate))


@lowers("aten.multinomial.default")
def draws(op: Lowering, weights: Value, count: int, replacement: bool = False, **_keywords: Any) -> Value:
    """The largest of noises that their weights shift (Gumbel's), which draws without replacement."""
    if replacement and count != 1:
        shape = [*weights.shape[:-1], count, weights.shape[-1]]
        weights = op.Unsqueeze(weights, [-2])
    else:
        shape = list(weights.shape)
    noise = op.Neg(op.Log(op.Neg(op.Log(_uniform(op, shape, _TINY)))))
    scores = op.Add(op.Log(op.cast(weights, DType.float32)), noise)
    if replacement and count != 1:
        return op.ArgMax(scores, axis=-1, keepdims=0)
    return op.TopK(scores, [count], outputs=2, axis=-1)[1]
