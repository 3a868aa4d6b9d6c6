"""Activation functions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..traits import Trait
from .registry import operator
from .unsigned import bounded


@operator("Relu", traits=Trait.ELEMENTWISE)
def relu(x: Tensor) -> Tensor:
    return torch.relu(x)


@operator("Sigmoid", traits=Trait.ELEMENTWISE)
def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@operator("LeakyRelu", traits=Trait.ELEMENTWISE)
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


@operator("PRelu", traits=Trait.ELEMENTWISE)
@bounded
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


@operator("ThresholdedRelu", traits=Trait.ELEMENTWISE)
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, 0)


@operator("Elu", traits=Trait.ELEMENTWISE)
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


@operator("Celu", traits=Trait.ELEMENTWISE)
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


@operator("Selu", traits=Trait.ELEMENTWISE)
def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    return gamma * F.elu(x, alpha)


def _trained_gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


@operator("Gelu", trainable=_trained_gelu, traits=Trait.ELEMENTWISE)
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return torch.where(x == torch.inf, x, F.gelu(x, approximate=approximate))  # torch has NaN


@operator("Swish", traits=Trait.ELEMENTWISE)
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


@operator("SwiGLU", traits=Trait.ELEMENTWISE)
def swiglu(a: Tensor, b: Tensor, *, alpha: float = 1.0) -> Tensor:
    if a.shape != b.shape:
        raise ValueError("the gate and what it gates differ in shape")
    return swish(a, alpha=alpha) * b


@operator("HardSigmoid", traits=Trait.ELEMENTWISE)
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def _trained_hard_swish(x: Tensor) -> Tensor:
    return F.hardswish(x)


@operator("HardSwish", trainable=_trained_hard_swish, traits=Trait.ELEMENTWISE)
def hard_swish(x: Tensor) -> Tensor:
    return (x / 6).add_(0.5).clamp_(0, 1).mul_(x)  # torch's own overflows from a sixth of the largest number on


@operator("Mish", traits=Trait.ELEMENTWISE)
def mish(x: Tensor) -> Tensor:
    return F.mish(x)


@operator("Softplus", traits=Trait.ELEMENTWISE)
def softplus(x: Tensor) -> Tensor:
    return F.softplus(x)


@operator("Softsign", traits=Trait.ELEMENTWISE)
def softsign(x: Tensor) -> Tensor:
    return F.softsign(x)


@operator("Shrink", traits=Trait.ELEMENTWISE)
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    y = torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, 0))
    return y.to(x.dtype)


@operator("Softmax")
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


@operator("LogSoftmax")
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.log_softmax(x, axis)


@operator("Hardmax", traits=Trait.DISCONTINUOUS)
def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)
