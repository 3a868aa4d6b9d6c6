"""Normalizations. What they accumulate is kept in `stash_type`, float32 unless a model says otherwise."""

from typing import Any

import torch
from torch import Tensor

from ..types import DType
from .dtypes import torch_dtype
from .registry import operator
from .sizes import place_of
from .window import pad_last


def _by_channel(x: Tensor, parameter: Tensor) -> Tensor:
    """A vector of one number for each channel, along the second axis of x."""
    if parameter.ndim != 1 or parameter.shape[0] != x.shape[1]:
        raise ValueError(f"{list(parameter.shape)} is not one number for each of {x.shape[1]} channels")
    return parameter.reshape(-1, *(1,) * (x.ndim - 2))


def _trained_batch_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, **settings: Any
) -> Tensor | tuple[Tensor, ...]:
    """Batch normalization by one kernel where statistics are settings: products and sums take twice as long."""
    is_of_one_type = {it.dtype for it in (scale, bias, mean, variance)} == {x.dtype}
    if settings.get("training_mode") or mean.requires_grad or variance.requires_grad or not is_of_one_type:
        return batch_normalization(x, scale, bias, mean, variance, **settings)
    return torch.nn.functional.batch_norm(x, mean, variance, scale, bias, eps=settings.get("epsilon", 1e-5))


@operator("BatchNormalization", trainable=_trained_batch_normalization)
def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    if not training_mode:
        factor = scale * torch.rsqrt(variance + epsilon)
        return ((x - _by_channel(x, mean)) * _by_channel(x, factor) + _by_channel(x, bias)).to(x.dtype)
    axes = [axis for axis in range(x.ndim) if axis != 1]
    seen_variance, seen_mean = torch.var_mean(x.to(mean.dtype), axes, correction=0)
    factor = scale * torch.rsqrt(seen_variance + epsilon)
    y = ((x - _by_channel(x, seen_mean)) * _by_channel(x, factor) + _by_channel(x, bias)).to(x.dtype)
    if outputs == 1:
        return y
    running_mean = mean * momentum + seen_mean * (1 - momentum)
    running_variance = variance * momentum + seen_variance * (1 - momentum)
    return (y, running_mean, running_variance)[:outputs]


@operator("InstanceNormalization")
def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    axes = list(range(2, x.ndim))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + epsilon) * _by_channel(x, scale) + _by_channel(x, bias)


@operator("GroupNormalization")
def group_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    y = torch.group_norm(x.to(torch_dtype(DType(stash_type))), num_groups, eps=epsilon).to(x.dtype)
    return y * _by_channel(x, scale) + _by_channel(x, bias)


def _trained_layer_normalization(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, outputs: int = 1, **settings: int
) -> Tensor | tuple[Tensor, ...]:
    """Layer normalization by one kernel, where scales and shifts are those of all normalized elements."""
    shape = x.shape[place_of(settings.get("axis", -1), x.ndim) :]
    is_whole = scale.shape == shape and (bias is None or bias.shape == shape)
    is_of_one_type = {x.dtype, scale.dtype, torch_dtype(DType(settings.get("stash_type", 1)))} == {x.dtype}
    if outputs > 1 or not is_whole or not is_of_one_type:
        return layer_normalization(x, scale, bias, outputs=outputs, **settings)
    return torch.layer_norm(x, shape, scale, bias, settings.get("epsilon", 1e-5))


@operator("LayerNormalization", trainable=_trained_layer_normalization)
def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    stash = x.to(torch_dtype(DType(stash_type)))
    y, mean, inverse = torch.native_layer_norm(stash, x.shape[place_of(axis, x.ndim) :], None, None, epsilon)
    y = y.to(x.dtype) * scale
    y = y if bias is None else y + bias
    return y if outputs == 1 else (y, mean, inverse)[:outputs]


@operator("RMSNormalization")
def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    stash = x.to(torch_dtype(DType(stash_type)))
    axes = list(range(place_of(axis, x.ndim), x.ndim))
    inverse = torch.rsqrt(stash.square().mean(axes, keepdim=True) + epsilon)
    return ((stash * inverse).to(x.dtype) * scale).to(scale.dtype)


@operator("LpNormalization")
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    if p not in (1, 2):
        raise ValueError(f"the norm's order p is 1 or 2, not {p}")
    size = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(size == 0, 0, x / torch.where(size == 0, 1, size))


@operator("MeanVarianceNormalization")
def mean_variance_normalization(x: Tensor, *, axes: tuple[int, ...] = (0, 2, 3)) -> Tensor:
    deviation, mean = torch.std_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / (deviation + 1e-9)


@operator("LRN")
def local_response_normalization(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    before = (size - 1) // 2
    beside = (0,) * (x.ndim - 2)
    padded = pad_last(x.square(), (before, *beside), (size - 1 - before, *beside))
    energy = padded.unfold(1, size, 1).sum(-1)
    return x / (bias + alpha / size * energy) ** beta
