"""Steps of optimizers, as models exported with their training hold them.

The inputs are a learning rate, the number of steps so far, then all parameters, all gradients and all states in turn.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .registry import operator


def _rows(inputs: Sequence[Tensor], kinds: int) -> list[tuple[Tensor, ...]]:
    """One row for each parameter, with what belongs to it."""
    count = len(inputs) // kinds
    return list(zip(*(inputs[kind * count : (kind + 1) * count] for kind in range(kinds)), strict=True))


def _columns(rows: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """All new parameters, then all new states of each kind."""
    return tuple(tensor for column in zip(*rows, strict=True) for tensor in column)


@operator("ai.onnx.preview.training::Adagrad")
def adagrad(
    rate: Tensor,
    step: Tensor,
    *inputs: Tensor,
    decay_factor: float = 0.0,
    epsilon: float = 1e-6,
    norm_coefficient: float = 0.0,
) -> tuple[Tensor, ...]:
    decayed = rate / (1 + step * decay_factor)

    def update(x: Tensor, gradient: Tensor, squares: Tensor) -> tuple[Tensor, ...]:
        gradient = norm_coefficient * x + gradient
        squares = squares + gradient * gradient
        return (x - decayed * gradient / (squares.sqrt() + epsilon)).to(x.dtype), squares

    return _columns([update(*row) for row in _rows(inputs, 3)])


@operator("ai.onnx.preview.training::Adam")
def adam(
    rate: Tensor,
    step: Tensor,
    *inputs: Tensor,
    alpha: float = 0.9,
    beta: float = 0.999,
    epsilon: float = 1e-6,
    norm_coefficient: float = 0.0,
    norm_coefficient_post: float = 0.0,
) -> tuple[Tensor, ...]:
    count = step.double()
    corrected = rate * ((1 - beta**count).sqrt() / (1 - alpha**count)).to(rate.dtype)
    rate = torch.where(step > 0, corrected, rate)

    def update(x: Tensor, gradient: Tensor, mean: Tensor, squares: Tensor) -> tuple[Tensor, ...]:
        gradient = norm_coefficient * x + gradient
        mean = alpha * mean + (1 - alpha) * gradient
        squares = beta * squares + (1 - beta) * (gradient * gradient)
        y = x - rate * (mean / (squares.sqrt() + epsilon))
        return ((1 - norm_coefficient_post) * y).to(x.dtype), mean, squares

    return _columns([update(*row) for row in _rows(inputs, 4)])


@operator("ai.onnx.preview.training::Momentum")
def momentum(
    rate: Tensor, step: Tensor, *inputs: Tensor, alpha: float, beta: float, mode: str, norm_coefficient: float
) -> tuple[Tensor, ...]:
    def update(x: Tensor, gradient: Tensor, velocity: Tensor) -> tuple[Tensor, ...]:
        gradient = norm_coefficient * x + gradient
        velocity = alpha * velocity + torch.where(step > 0, beta, 1) * gradient
        change = velocity if mode == "standard" else gradient + alpha * velocity
        return (x - rate * change).to(x.dtype), velocity.to(x.dtype)

    return _columns([update(*row) for row in _rows(inputs, 3)])
