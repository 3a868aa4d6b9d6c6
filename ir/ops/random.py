"""Random tensors. A seed makes torch's own sequence; no two runtimes agree on theirs."""

import torch
from torch import Tensor

from ..traits import Trait
from ..types import DType
from .dtypes import torch_dtype
from .registry import operator


def _normal(y: Tensor, mean: float, scale: float, seed: float | None) -> Tensor:
    return y.normal_(mean, scale, generator=_generator(y, seed))


def _uniform(y: Tensor, low: float, high: float, seed: float | None) -> Tensor:
    return y.uniform_(low, high, generator=_generator(y, seed))


def _generator(y: Tensor, seed: float | None) -> torch.Generator | None:
    if seed is None or y.device.type == "meta":
        return None
    return torch.Generator(y.device).manual_seed(hash(seed))


def _like(x: Tensor, dtype: int | None) -> Tensor:
    return torch.empty_like(x, dtype=x.dtype if dtype is None else torch_dtype(DType(dtype)))


@operator("RandomNormal", traits=Trait.RANDOM)
def random_normal(
    *, shape: tuple[int, ...], dtype: int = 1, mean: float = 0.0, scale: float = 1.0, seed: float | None = None
) -> Tensor:
    return _normal(torch.empty(shape, dtype=torch_dtype(DType(dtype))), mean, scale, seed)


@operator("RandomNormalLike", traits=Trait.RANDOM)
def random_normal_like(
    x: Tensor, *, dtype: int | None = None, mean: float = 0.0, scale: float = 1.0, seed: float | None = None
) -> Tensor:
    return _normal(_like(x, dtype), mean, scale, seed)


@operator("RandomUniform", traits=Trait.RANDOM)
def random_uniform(
    *, shape: tuple[int, ...], dtype: int = 1, low: float = 0.0, high: float = 1.0, seed: float | None = None
) -> Tensor:
    return _uniform(torch.empty(shape, dtype=torch_dtype(DType(dtype))), low, high, seed)


@operator("RandomUniformLike", traits=Trait.RANDOM)
def random_uniform_like(
    x: Tensor, *, dtype: int | None = None, low: float = 0.0, high: float = 1.0, seed: float | None = None
) -> Tensor:
    return _uniform(_like(x, dtype), low, high, seed)


@operator("Bernoulli", traits=Trait.RANDOM)
def bernoulli(x: Tensor, *, dtype: int | None = None, seed: float | None = None) -> Tensor:
    y = _uniform(torch.empty_like(x), 0.0, 1.0, seed) < x
    return y.to(x.dtype if dtype is None else torch_dtype(DType(dtype)))


@operator("Multinomial", traits=Trait.RANDOM)
def multinomial(x: Tensor, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None) -> Tensor:
    """Classes drawn for each row of logarithms of weights."""
    weights = torch.softmax(x.float(), 1)
    drawn = torch.multinomial(weights, sample_size, replacement=True, generator=_generator(x, seed))
    return drawn.to(torch_dtype(DType(dtype)))
