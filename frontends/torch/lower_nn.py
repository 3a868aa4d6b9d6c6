"""Lowerings of the ATen operators that hold a network's weights: linear, convolution, normalisation, attention."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.types import DType
from .lowering import Lowering, lowers, spread


@lowers("aten.linear.default")
def linear(op: Lowering, x: Value, weight: Value, bias: Value | None = None) -> Value:
    if x.type.rank == 2:
        return op.Gemm(x, weight, bias, transB=1)
    product = op.MatMul(x, op.Transpose(weight, perm=(1, 0)))
    return product if bias is None else op.Add(product, bias)


@lowers("aten.addmm.default")
def addmm(op: Lowering, bias: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    return op.Gemm(a, b, bias, alpha=None if alpha == 1 else float(alpha), beta=None if beta == 1 else float(beta))


@lowers("aten.matmul.default", "aten.mm.default", "aten.bmm.default")
def matmul(op: Lowering, a: Value, b: Value) -> Value:
    return op.MatMul(a, b)


@lowers("aten.baddbmm.default")
def baddbmm(op: Lowering, bias: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    product = op.MatMul(a, b)
    product = product if alpha == 1 else op.Mul(product, alpha)
    return op.Add(product, bias if beta == 1 else op.Mul(bias, beta))


@lowers("aten.embedding.default")
def embedding(op: Lowering, weight: Value, indices: Value, *_ignored: Any) -> Value:
    return op.Gather(weight, indices, axis=0)


@lowers("aten.convolution.default")
def convolution(
    op: Lowering,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    spatial = weight.type.rank - 2
    stride, padding, dilation = (spread(value, spatial) for value in (stride, padding, dilation))
    attributes: dict[str, Any] = {
        "strides": stride,
        "pads": padding * 2,
        "dilations": dilation,
        "group": groups,
        "kernel_shape": weight.type.static_shape[2:],
    }
    if transposed:
        attributes["output_padding"] = spread(output_padding, spatial)
    operator = "ConvTranspose" if transposed else "Conv"
    return op.batched(x, spatial, lambda batch: op(operator, batch, weight, bias, **attributes))


@lowers("aten.batch_norm.default")
def batch_norm(
    op: Lowering,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    *_ignored: Any,
) -> Value:
    if training:
        raise ModelError(f"{op.location}: batch normalisation by the batch's own statistics has no counterpart")
    return _batch_norm(op, x, weight, bias, mean, variance, eps)


@lowers("aten.instance_norm.default")
def instance_norm(
    op: Lowering,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    own_statistics: bool,
    momentum: float,
    eps: float,
    *_ignored: Any,
) -> Value:
    if not own_statistics:
        return _batch_norm(op, x, weight, bias, mean, variance, eps)
    channels = op.result.shape[1]
    weight = weight or op.constant(np.ones(channels, x.dtype.numpy))
    bias = bias or op.constant(np.zeros(channels, x.dtype.numpy))
    return op.InstanceNormalization(x, weight, bias, epsilon=float(eps))


@lowers("aten._native_batch_norm_legit_no_training.default")
def native_batch_norm(
    op: Lowering,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    momentum: float,
    eps: float,
) -> tuple[Value, None, None]:
    return _batch_norm(op, x, weight, bias, mean, variance, eps), None, None


def _batch_norm(
    op: Lowering,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    eps: float,
) -> Value:
    if mean is None or variance is None:
        raise ModelError(f"{op.location}: batch normalisation without running statistics depends on the whole batch")
    channels = mean.type.static_shape
    weight = weight or op.constant(np.ones(channels, mean.dtype.numpy))
    bias = bias or op.constant(np.zeros(channels, mean.dtype.numpy))
    return op.BatchNormalization(x, weight, bias, mean, variance, epsilon=float(eps))


@lowers("aten.layer_norm.default")
def layer_norm(
    op: Lowering,
    x: Value,
    shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    *_ignored: Any,
) -> Value:
    weight = weight or op.constant(np.ones(shape, x.dtype.numpy))
    return op.LayerNormalization(x, weight, bias, axis=-len(shape), epsilon=float(eps))


@lowers("aten.native_layer_norm.default")
def native_layer_norm(
    op: Lowering, x: Value, shape: Sequence[int], weight: Value | None, bias: Value | None, eps: float
) -> tuple[Value, None, None]:
    return layer_norm(op, x, shape, weight, bias, eps), None, None


@lowers("aten.rms_norm.default")
def rms_norm(
    op: Lowering, x: Value, shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Value:
    weight = weight or op.constant(np.ones(shape, x.dtype.numpy))
    epsilon = torch.finfo(op.result.dtype).eps if eps is None else float(eps)
    return op.RMSNormalization(x, weight, axis=-len(shape), epsilon=epsilon)


@lowers("aten.group_norm.default")
def group_norm(
    op: Lowering,
    x: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    *_ignored: Any,
) -> Value:
    channels = x.shape[1]
    assert isinstance(channels, int)  # torch divides it by the groups while it exports
    weight = weight or op.constant(np.ones(channels, x.dtype.numpy))
    bias = bias or op.constant(np.zeros(channels, x.dtype.numpy))
    return op.GroupNormalization(x, weight, bias, num_groups=groups, epsilon=float(eps))


@lowers("aten.scaled_dot_product_attention.default")
def attention(
    op: Lowering,
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """Softmax(Q K^T * scale + mask) V, with rows that are masked altogether giving zeros, as torch has it."""
    if enable_gqa:
        key, value = _repeat_heads(op, key, query), _repeat_heads(op, value, query)
    width = query.shape[-1]
    assert isinstance(width, int)  # the head size comes from weights
    rank = key.type.rank
    scaled = op.Mul(query, 1.0 / math.sqrt(width) if scale is None else float(scale))
    scores = op.MatMul(scaled, op.Transpose(key, perm=(*range(rank - 2), rank - 1, rank - 2)))
    if is_causal:
        mask = _causal_mask(op, scores)
    if mask is None:
        return op.MatMul(op.Softmax(scores, axis=-1), value)
    if mask.dtype is not DType.bool:
        probabilities = op.Softmax(op.Add(scores, mask), axis=-1)
        empty = op.IsNaN(probabilities)
        return op.MatMul(op.Where(empty, op.cast(0.0, scores.dtype), probabilities), value)
    probabilities = op.Softmax(op.Where(mask, scores, op.cast(-math.inf, scores.dtype)), axis=-1)
    if is_causal:
        return op.MatMul(probabilities, value)
    return op.MatMul(op.Where(mask, probabilities, op.cast(0.0, scores.dtype)), value)


def _causal_mask(op: Lowering, scores: Value) -> Value:
    rows, columns = scores.shape[-2:]
    ones = op.Expand(op.constant(np.ones((1, 1), dtype=bool)), op.row([rows, columns]))
    return op.Trilu(ones, upper=0)


def _repeat_heads(op: Lowering, value: Value, query: Value) -> Value:
    """Each head of a grouped key or value, as often as queries share it: shape `[..., heads, sequence, width]`."""
    heads, wanted = value.shape[-3], query.shape[-3]
    assert isinstance(heads, int) and isinstance(wanted, int)  # both come from weights
    return value if heads == wanted else op.Gather(value, np.repeat(np.arange(heads), wanted // heads), axis=-3)
