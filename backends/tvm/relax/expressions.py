"""Small expressions of TVM's arithmetic for kernels; they are int64 where nothing else is said."""

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Protocol

from tvm import te, tirx

from ..kernels.vectors import Scalar, known


class BufferProxy(Protocol):
    """What `T.buffer_proxy` returns: a buffer whose elements can be assigned to."""

    def __getitem__(self, index: Scalar | tuple[Scalar, ...], /) -> tirx.Expr: ...
    def __setitem__(self, index: Scalar | tuple[Scalar, ...], value: tirx.Expr, /) -> None: ...


def integer(value: int) -> tirx.Expr:
    return tirx.const(value, "int64")


def same(a: Scalar, b: Scalar) -> tirx.Expr:
    """Whether two integers of any width are equal."""
    return tirx.EQ(*(integer(value) if isinstance(value, int) else value.astype("int64") for value in (a, b)))


def choose(condition: tirx.Expr, chosen: Scalar, other: Scalar) -> tirx.Expr:
    """Return one of two values, both of which may be computed; `only_if` computes only one."""
    return tirx.Select(condition, chosen, other)


def only_if(condition: tirx.Expr, chosen: Scalar, other: Scalar) -> tirx.Expr:
    """Return one of two values without computing the other, which may read what isn't there."""
    return tirx.if_then_else(condition, chosen, other)


def pick(place: tirx.Expr, values: Sequence[tirx.Expr]) -> tirx.Expr:
    """Return the value at a computed place, or the last one beyond the end."""
    *front, last = values
    numbered = list(enumerate(front))
    return reduce(lambda rest, item: choose(same(place, item[0]), item[1], rest), reversed(numbered), last)


def row(values: Sequence[tirx.Expr]) -> te.Tensor:
    """Return a row of elements as a kernel's result."""
    return te.compute((len(values),), lambda index: pick(index.astype("int64"), values), name="row")


def product(values: Iterable[Scalar]) -> tirx.Expr:
    return reduce(lambda a, b: a * b, values, integer(1))


def total(values: Iterable[Scalar]) -> tirx.Expr:
    return reduce(lambda a, b: a + b, values, integer(0))


def within(place: tirx.Expr, size: Scalar) -> tirx.Expr:
    """Clip a place to the range from 0 to below a size."""
    return tirx.max(tirx.min(place, size - 1), integer(0))


def counted(place: tirx.Expr, size: Scalar) -> tirx.Expr:
    """Return a place that may count from the end, clipped to the nearest that there is."""
    return within(choose(place < 0, place + size, place), size)


def elements(tensor: te.Tensor) -> list[tirx.Expr]:
    """Return the elements of a small tensor of integers with a static shape.

    Raises:
        NotImplementedError: it has another.
    """
    if not all(isinstance(size, int | tirx.IntImm) for size in tensor.shape):
        raise NotImplementedError("how many numbers it takes from a tensor is known at run time alone")
    places: list[tuple[int, ...]] = [()]
    for size in tensor.shape:
        places = [(*place, index) for place in places for index in range(known(size))]
    return [tensor(*place).astype("int64") for place in places]


def unraveled(step: tirx.Expr, shape: Sequence[Scalar]) -> list[tirx.Expr]:
    """Return the place of a number in row-major order.

    Each index is divided for by one product of sizes: over divisions inside of each other by sizes that aren't known,
    TVM's code generator takes 30 times as long for each further one.
    """
    rows = [tirx.floordiv(step.astype("int64"), product(shape[axis + 1 :])) for axis in range(len(shape))]
    return [*rows[:1], *(tirx.floormod(row, size) for row, size in zip(rows[1:], shape[1:], strict=True))]
