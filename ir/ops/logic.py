"""Comparisons, truth and bits."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..traits import Trait
from .narrow import bytewise
from .registry import operator
from .unsigned import Function, compared, widened

_HIGHEST = 2**63 - 1


_BROADCASTING = Trait.ELEMENTWISE | Trait.BROADCASTING


def _register_binary(
    name: str,
    function: Callable[[Tensor, Tensor], Tensor],
    adapted: Callable[[Function], Function],
    traits: Trait = _BROADCASTING,
) -> None:
    def meaning(a: Tensor, b: Tensor) -> Tensor:
        return function(a, b)

    operator(name, traits=traits)(bytewise(adapted(meaning)))


for _name, _function in {
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
}.items():
    _register_binary(_name, _function, widened, _BROADCASTING | Trait.COMMUTATIVE)

for _name, _function in {
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
}.items():
    _register_binary(_name, _function, compared)


@operator("Not", traits=Trait.ELEMENTWISE)
def logical_not(x: Tensor) -> Tensor:
    return torch.logical_not(x)


@operator("BitwiseNot", traits=Trait.ELEMENTWISE)
@widened
def bitwise_not(x: Tensor) -> Tensor:
    return torch.bitwise_not(x)


@operator("BitShift", traits=_BROADCASTING)
def bit_shift(x: Tensor, y: Tensor, *, direction: str) -> Tensor:
    if direction == "LEFT":
        return widened(torch.bitwise_left_shift)(x, y)
    shifted = widened(torch.bitwise_right_shift)(x, y)
    if x.dtype is not torch.uint64:
        return shifted
    kept = torch.bitwise_right_shift(_HIGHEST, y.long().clamp(min=1) - 1)  # int64 brings its sign down
    return torch.where(y.long() == 0, x, widened(torch.bitwise_and)(shifted, kept))


@operator("Where", traits=_BROADCASTING | Trait.MOVING)
def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)


@operator("IsNaN", traits=Trait.ELEMENTWISE)
def is_nan(x: Tensor) -> Tensor:
    return torch.isnan(x)


@operator("IsInf", traits=Trait.ELEMENTWISE)
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    x = x if x.dtype.itemsize > 1 else x.float()
    found = torch.isinf(x)
    if not detect_negative:
        found = found & (x > 0)
    return found if detect_positive else found & (x < 0)
