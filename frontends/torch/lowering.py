"""What turns one ATen operator into nodes, and the table of those that can be turned.

A lowering is a function of a `Lowering` builder and the operator's arguments as ATen has them: tensors arrive as
values, symbolic sizes as dimensions, everything else as it is.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from operator import floordiv, mod, mul
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import fx

from ...ir.builder import Builder, Operand
from ...ir.dims import Dim, evaluate, symbols
from ...ir.errors import ModelError
from ...ir.graph import Graph, Location, Value
from ...ir.ops.dtypes import dtype_of, torch_dtype
from ...ir.types import DType
from .sizes import Sizes

Function = TypeVar("Function", bound=Callable[..., Any])

LOWERINGS: dict[str, Callable[..., Any]] = {}
"""The lowerings by the name of the operator with its overload, such as `aten.add.Tensor`."""
END = np.iinfo(np.int64).max
"""The end of a slice that goes on to the last element, whatever the size of the axis."""


def lowers(*names: str) -> Callable[[Function], Function]:
    """Register a function as the lowering of ATen operators that have none yet."""

    def register(function: Function) -> Function:
        if taken := [name for name in names if name in LOWERINGS]:
            raise ValueError(f"{taken[0]} has a lowering already, in {LOWERINGS[taken[0]].__module__}")
        LOWERINGS.update(dict.fromkeys(names, function))
        return function

    return register


class Lowering(Builder):
    """A builder that knows which fx node it lowers.

    Attributes:
        node: the fx node.
        sizes: torch's symbolic sizes in terms of the graph's.
    """

    def __init__(self, graph: Graph, node: fx.Node, location: Location, sizes: Sizes) -> None:
        super().__init__(graph, location=location)
        self.node = node
        self.sizes = sizes

    def dim(self, size: Any) -> Dim:
        """A size of torch's as a dimension of the graph."""
        return self.sizes.dim(size)

    @property
    def result(self) -> torch.Tensor:
        """A fake tensor with the type of the (first) result."""
        value = self.node.meta["val"]
        return value[0] if isinstance(value, tuple | list) else value

    @property
    def result_shape(self) -> list[Dim]:
        """The shape of the (first) result."""
        return [self.dim(size) for size in self.result.shape]

    @property
    def result_type(self) -> DType:
        """The element type of the (first) result; of its parts if it is complex."""
        dtype = self.result.dtype
        return dtype_of(dtype.to_real() if dtype.is_complex else dtype)

    def is_read(self, index: int) -> bool:
        """Whether anybody reads one of several results."""
        return any(user.args[1:] == (index,) for user in self.node.users)

    def cast(self, value: Operand | Dim, dtype: DType | None = None) -> Value:
        """A value, number or symbolic size in an element type (by default the first result's), cast if it must be."""
        dtype = self.result_type if dtype is None else dtype
        if isinstance(value, str):
            value = self.Squeeze(self.size(value), [0])
        if not isinstance(value, Value):
            return self.constant(np.asarray(value, dtype=dtype.numpy))
        return value if value.dtype is dtype else self.Cast(value, to=dtype)

    def promoted(self, a: Operand | Dim, b: Operand | Dim) -> list[Value]:
        """Two operands in the element type to which torch promotes them together."""
        common = torch.result_type(_proxy(a), _proxy(b))
        return [self.cast(value, dtype_of(common)) for value in (a, b)]

    def choose(self, condition: Value, a: Value, b: Value) -> Value:
        """One of two values at each place; of truth values by logic, since runtimes have no kernel for that choice."""
        if a.dtype is not DType.bool:
            return self.Where(condition, a, b)
        return self.Or(self.And(condition, a), self.And(self.Not(condition), b))

    def reshape(self, value: Value, shape: Sequence[Dim]) -> Value:
        """A value in another shape."""
        if tuple(shape) == value.shape:
            return value
        if 0 in shape:  # which would copy a size of the input's
            return self.Reshape(value, self.row(shape), allowzero=1)
        return self.Reshape(value, self._reshape_target(value, shape))

    def expand(self, value: Value, shape: Sequence[Dim]) -> Value:
        """A value broadcast to a shape; only dimensions that really grow are spelled out."""
        padded = (1,) * (len(shape) - value.type.rank) + value.shape
        wanted = [1 if have == want else want for have, want in zip(padded, shape, strict=True)]
        if len(shape) == value.type.rank and all(dim == 1 for dim in wanted):
            return value
        return self.Expand(value, self.row(wanted))

    def filled(self, number: float, shape: Sequence[Dim] | None = None) -> Value:
        """One number everywhere, in the first result's element type and, unless another shape is given, its shape."""
        return self.expand(self.cast(number), self.result_shape if shape is None else shape)

    def joined(self, values: Sequence[Value], axis: int) -> Value:
        """Values one behind the other along an axis."""
        return values[0] if len(values) == 1 else self.Concat(*values, axis=axis)

    def flat(self, value: Value) -> Value:
        """The elements in one row."""
        return value if value.type.rank == 1 else self.Reshape(value, [-1])

    def places(self, count: Dim) -> Value:
        """The whole numbers from 0 up to a size."""
        if isinstance(count, int):
            return self.constant(np.arange(count))
        return self.Range(0, self.Squeeze(self.size(count), [0]), 1)

    def refuse(self, reason: str) -> NoReturn:
        """Say why this operator can't be lowered as it is used here."""
        raise ModelError(f"{self.location}: {self.node.target} has no counterpart where {reason}")

    def batched(self, x: Value, spatial: int, function: Callable[[Value], Value]) -> Value:
        """A function of `[batch, channel, *spatial]`, applied to that or to one image without the batch."""
        if x.type.rank == spatial + 2:
            return function(x)
        return self.Squeeze(function(self.Unsqueeze(x, [0])), [0])

    def row(self, dims: Sequence[Dim]) -> Operand:
        """Dimensions as an int64 vector: a constant where all are ints, computed from the inputs' shapes otherwise."""
        if all(isinstance(dim, int) for dim in dims):
            return np.asarray(dims, dtype=np.int64)
        return self.joined([self.size(dim) for dim in dims], 0)

    def size(self, dim: Dim) -> Value:
        """One dimension as an int64 vector of one element."""
        if isinstance(dim, int):
            return self.constant([dim])
        sources = {symbol: _Size(self, self._source(symbol)) for symbol in symbols(dim)}
        size = evaluate(dim, sources, _CALLS)
        assert isinstance(size, _Size)  # a symbolic dimension has symbols
        return size.value

    def _source(self, symbol: str) -> Value:
        if (number := self.sizes.number(symbol)) is not None:
            return self.cast(self.reshape(number, [1]), DType.int64)
        if (found := self.sizes.axis(symbol)) is None:
            raise ModelError(f"{self.location}: the size {symbol} is not a dimension of anything before it")
        value, axis = found
        return self.Shape(value, start=axis, end=axis + 1)

    def _reshape_target(self, value: Value, shape: Sequence[Dim]) -> Operand:
        """A constant shape where 0 (copy) and one -1 (the rest) can say it, a computed one otherwise."""
        target = [
            0 if isinstance(dim, str) and index < value.type.rank and value.shape[index] == dim else dim
            for index, dim in enumerate(shape)
        ]
        unknown = [index for index, dim in enumerate(target) if isinstance(dim, str)]
        if len(unknown) == 1:
            target[unknown[0]] = -1
        return self.row(shape) if len(unknown) > 1 else self.row(target)


class _Size:
    """A size under construction: arithmetic on it inserts nodes.

    Attributes:
        op: the lowering that inserts the nodes.
        value: the size as an int64 vector of one element.
        is_signed: whether the size may be negative; what a size is reduced by is taken to be smaller than the size.
    """

    def __init__(self, op: Lowering, value: Value, *, is_signed: bool = False) -> None:
        self.op = op
        self.value = value
        self.is_signed = is_signed

    def binary(self, operator: str, other: "_Size | int") -> "_Size":
        other = other if isinstance(other, _Size) else _Size(self.op, self.op.constant([other]), is_signed=other < 0)
        is_signed = self.is_signed or (other.is_signed and operator != "Mod")
        return _Size(self.op, self.op(operator, self.value, other.value), is_signed=is_signed)

    def __add__(self, other: "_Size | int") -> "_Size":
        return self.binary("Add", other)

    def __sub__(self, other: "_Size | int") -> "_Size":
        return self.binary("Sub", other)

    def __rsub__(self, other: int) -> "_Size":
        return -self + other

    def __mul__(self, other: "_Size | int") -> "_Size":
        return self.binary("Mul", other)

    def __floordiv__(self, other: "_Size | int") -> "_Size":
        whole = self - self % other if self.is_signed else self  # ONNX divides towards zero
        return whole.binary("Div", other)

    def __rfloordiv__(self, other: int) -> "_Size":
        return _Size(self.op, self.op.constant([other])) // self

    def __pow__(self, exponent: int) -> "_Size":
        return reduce(mul, [self] * exponent)

    def __mod__(self, other: "_Size | int") -> "_Size":
        return self.binary("Mod", other)

    def __neg__(self) -> "_Size":
        return _Size(self.op, self.op.Neg(self.value), is_signed=True)

    __radd__ = __add__
    __rmul__ = __mul__


def _extreme(operator: str) -> Callable[..., Any]:
    def choose(*sizes: Any) -> Any:
        return reduce(lambda a, b: a.binary(operator, b) if isinstance(a, _Size) else b.binary(operator, a), sizes)

    return choose


_CALLS: dict[str, Callable[..., Any]] = {
    "FloorDiv": floordiv,
    "CleanDiv": floordiv,
    "Mod": mod,
    "PythonMod": mod,
    "Max": _extreme("Max"),
    "Min": _extreme("Min"),
}


def _proxy(value: Any) -> Any:
    """What stands for an operand when torch is asked for the promoted type: ranks and numbers matter to it."""
    if not isinstance(value, Value):
        return 1 if isinstance(value, str) else value
    return torch.empty((1,) * value.type.rank, dtype=torch_dtype(value.dtype), device="meta")


def spread(value: Sequence[int] | int, count: int) -> tuple[int, ...]:
    """A per-axis attribute in full: torch lets one number stand for all axes."""
    row = (value,) if isinstance(value, int) else tuple(value)
    return row * count if len(row) == 1 else row


def normal_axes(axes: Sequence[int] | int | None, rank: int) -> list[int]:
    """Axes counted from the front; None and an empty list mean all."""
    if axes is None or axes == []:
        return list(range(rank))
    return [axis % rank if rank else 0 for axis in ([axes] if isinstance(axes, int) else axes)]
