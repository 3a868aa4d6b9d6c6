"""Complex tensors, which ONNX has no operators on: in a graph they are two real ones, the parts.

Complex tensors themselves occur only where they come in or go out, and beside operators that are kept as torch's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree

from ...ir.dims import Dim
from ...ir.graph import Value
from ...ir.types import DType
from .lower_shape import select
from .lowering import LOWERINGS, Lowering

Function = TypeVar("Function", bound=Callable[..., Any])

COMPLEX: dict[str, Callable[..., Any]] = {}
"""Lowerings where an argument or the result is complex, by the name of an operator with its overload."""
_MOVING = ("lower_index", "lower_shape", "lower_window")
"""Files of lowerings that move elements without looking at them, and so serve one part as well as the other."""


@dataclass(frozen=True, slots=True)
class Complex:
    """A complex tensor as its parts, of one shape and element type."""

    real: Value
    imag: Value

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.real.shape


def lowers_complex(*names: str) -> Callable[[Function], Function]:
    """Register a function as the lowering of ATen operators on complex tensors."""

    def register(function: Function) -> Function:
        COMPLEX.update(dict.fromkeys(names, function))
        return function

    return register


def is_complex(op: Lowering, arguments: Any) -> bool:
    """Whether an operator takes a complex tensor or number, or makes such a tensor."""
    results = op.node.meta["val"]
    tensors = results if isinstance(results, tuple | list) else (results,)
    if any(isinstance(tensor, torch.Tensor) and tensor.dtype is torch.complex32 for tensor in tensors):
        op.refuse("complex numbers are of half precision: use complex64")
    if any(isinstance(tensor, torch.Tensor) and tensor.is_complex() for tensor in tensors):
        return True
    return any(isinstance(leaf, Complex | complex) for leaf in pytree.tree_leaves(arguments))


def complex_lowering(name: str) -> Callable[..., Any] | None:
    """How an operator on complex tensors is lowered, None where it isn't."""
    if name in COMPLEX:
        return COMPLEX[name]
    function = LOWERINGS.get(name)
    if function is None or not function.__module__.endswith(_MOVING):
        return None
    return lambda op, *arguments, **keywords: by_parts(op, function, *arguments, **keywords)


def by_parts(op: Lowering, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """A function that is linear in its data, applied to each part."""
    halves = [
        function(op, *pytree.tree_map(choose, arguments), **pytree.tree_map(choose, keywords))
        for choose in (lambda leaf: _part(op, leaf, "real"), lambda leaf: _part(op, leaf, "imag"))
    ]
    if isinstance(halves[0], tuple):
        return tuple(Complex(*pair) for pair in zip(*halves, strict=True))
    return Complex(*halves)


def _part(op: Lowering, leaf: Any, name: str) -> Any:
    if isinstance(leaf, Complex):
        return getattr(leaf, name)
    is_data = isinstance(leaf, Value) and leaf.dtype.is_float
    return op.expand(op.cast(0.0, leaf.dtype), leaf.shape) if is_data and name == "imag" else leaf


def join(op: Lowering, value: Any) -> Any:
    """A complex tensor from its parts; anything else as it is."""
    return op("aten::complex", value.real, value.imag) if isinstance(value, Complex) else value


def split(op: Lowering, value: Value) -> Any:
    """The parts of a complex tensor; any other value as it is."""
    if value.dtype not in (DType.complex64, DType.complex128):
        return value
    return view_as_complex(op, op("aten::view_as_real", value))


def view_as_complex(op: Lowering, pairs: Value) -> Complex:
    """Complex numbers from pairs of reals along the last axis."""
    real, imag = (select(op, pairs, -1, part) for part in (0, 1))
    return Complex(real, imag)
