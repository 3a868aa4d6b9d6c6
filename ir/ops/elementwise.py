"""Arithmetic, element by element."""

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from ..traits import Trait
from .from_data import NOTHING
from .registry import Ints, operator
from .unsigned import bounded, compared, widened

_BROADCASTING = Trait.ELEMENTWISE | Trait.BROADCASTING
_COMMUTATIVE = _BROADCASTING | Trait.COMMUTATIVE


def _register_unary(name: str, function: Callable[[Tensor], Tensor], traits: Trait = Trait.ELEMENTWISE) -> None:
    def meaning(x: Tensor) -> Tensor:
        return function(x)

    operator(name, traits=traits)(bounded(meaning))


def _register_binary(name: str, function: Callable[[Tensor, Tensor], Tensor], traits: Trait) -> None:
    def meaning(a: Tensor, b: Tensor) -> Tensor:
        return function(a, b)

    operator(name, traits=traits)(widened(meaning))


def _register_variadic(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    def meaning(*inputs: Tensor) -> Tensor:
        return reduce(function, inputs)

    operator(name, traits=_COMMUTATIVE)(compared(meaning))


for _name, _unary in {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Log": torch.log,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}.items():
    _register_unary(_name, _unary)

for _name, _unary in {
    "Ceil": torch.ceil,
    "Floor": torch.floor,
    "Round": torch.round,  # half to even, as ONNX has it
}.items():
    _register_unary(_name, _unary, Trait.ELEMENTWISE | Trait.DISCONTINUOUS)


@operator("Sign", traits=Trait.ELEMENTWISE | Trait.DISCONTINUOUS)
@bounded
def sign(x: Tensor) -> Tensor:
    """NaN stays, in torch it has the sign 0."""
    return torch.where(x.isnan(), x, x.sign()) if x.is_floating_point() else x.sign()


@operator("Sqrt", traits=Trait.ELEMENTWISE)
@bounded
def sqrt(x: Tensor) -> Tensor:
    """The root of zero has the gradient zero, as torch's norms have, rather than an infinite one."""
    if not x.requires_grad:
        return x.sqrt()
    is_zero = x == 0
    return x.masked_fill(is_zero, 1).sqrt().masked_fill(is_zero, 0)


@operator("Identity", traits=Trait.ELEMENTWISE | Trait.MOVING)
def identity(x: Tensor) -> Tensor:
    return x


_register_binary("Add", torch.add, _COMMUTATIVE)
_register_binary("Mul", torch.mul, _COMMUTATIVE)
_register_binary("Sub", torch.sub, _BROADCASTING)

for _name, _binary in {
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Sum": torch.add,
}.items():
    _register_variadic(_name, _binary)


@operator("Mean", traits=_COMMUTATIVE)
def mean(*inputs: Tensor) -> Tensor:
    return reduce(torch.add, inputs) / len(inputs)


@operator("Div", traits=_BROADCASTING)
@bounded
def div(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point() or not a.dtype.is_signed:
        return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")
    is_minus_one = b == -1  # by which the processor can't divide the least integer: it wraps, as two's complement does
    return torch.where(is_minus_one, -a, torch.div(a, b.masked_fill(is_minus_one, 1), rounding_mode="trunc"))


@operator("Mod", traits=_BROADCASTING | Trait.DISCONTINUOUS)
@bounded
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@operator("Pow", traits=_BROADCASTING)
@bounded
def power(x: Tensor, y: Tensor) -> Tensor:
    """A power below one of zero has the gradient zero, as `sqrt` has."""
    if not x.requires_grad:
        return torch.pow(x, y).to(x.dtype)
    is_steep = (x == 0) & (y > 0) & (y < 1)
    return torch.pow(torch.where(is_steep, 1.0, x), y).masked_fill(is_steep, 0).to(x.dtype)


@operator("Clip", traits=Trait.ELEMENTWISE)
@compared
def clip(x: Tensor, min: Tensor | None = None, max: Tensor | None = None) -> Tensor:
    """Bounds are numbers, which some models keep in rows of one."""
    low, high = (bound if bound is None else _one_number(bound) for bound in (min, max))
    return x if low is None and high is None else torch.clamp(x, low, high)


def _one_number(bound: Tensor) -> Tensor:
    if bound.numel() != 1:
        raise ValueError(f"a bound is one number, not {tuple(bound.shape)} of them")
    return bound.reshape(())


def _register_cumulative(name: str, function: Callable[..., Tensor], neutral: int) -> None:
    def meaning(x: Tensor, axis: Ints, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
        along = axis[0]
        y = x.flip(along) if reverse else x
        if exclusive:
            first = torch.full_like(y.narrow(along, 0, 1), neutral)
            y = torch.cat([first, y.narrow(along, 0, y.shape[along] - 1)], along)
        y = function(y, along, dtype=x.dtype)
        return y.flip(along) if reverse else y

    operator(name, from_data={"axis": NOTHING})(widened(meaning))


_register_cumulative("CumSum", torch.cumsum, 0)
_register_cumulative("CumProd", torch.cumprod, 1)


@operator("Dropout", from_data={"training_mode": NOTHING}, traits=Trait.ELEMENTWISE)
def dropout(
    x: Tensor,
    ratio: Tensor | None = None,
    training_mode: Ints | None = None,
    *,
    seed: int | None = None,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, Tensor]:
    if not training_mode or not training_mode[0]:
        y, kept = x, torch.ones_like(x, dtype=torch.bool)
    else:
        rate = x.new_full((), 0.5) if ratio is None else ratio
        kept = torch.rand_like(x) >= rate
        y = torch.where(kept, x / (1 - rate).to(x.dtype), 0)
    return y if outputs == 1 else (y, kept)
