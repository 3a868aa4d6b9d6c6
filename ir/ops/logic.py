"""Comparisons, truth and bits."""

from collections.abc import Callable

import torch
from torch import Tensor

from .narrow import bytewise
from .registry import operator
from .unsigned import widened


def _register_binary(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    def meaning(a: Tensor, b: Tensor) -> Tensor:
        return function(a, b)

    operator(name)(bytewise(widened(meaning)))


for _name, _function in {
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
}.items():
    _register_binary(_name, _function)


@operator("Not")
def logical_not(x: Tensor) -> Tensor:
    return torch.logical_not(x)


@operator("BitwiseNot")
@widened
def bitwise_not(x: Tensor) -> Tensor:
    return torch.bitwise_not(x)


@operator("BitShift")
@widened
def bit_shift(x: Tensor, y: Tensor, *, direction: str) -> Tensor:
    return x << y if direction == "LEFT" else x >> y


@operator("Where")
def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)


@operator("IsNaN")
def is_nan(x: Tensor) -> Tensor:
    return torch.isnan(x)


@operator("IsInf")
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    found = torch.isinf(x)
    if not detect_negative:
        found = found & (x > 0)
    return found if detect_positive else found & (x < 0)
