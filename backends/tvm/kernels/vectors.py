"""Vectors of any number of lanes, where scalars stand for those of one, since TVM has none."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from tvm import tirx
from tvm.script.ir_builder import tirx as T

Scalar: TypeAlias = int | tirx.Expr
"""An integer: a number while a kernel is generated, or an expression that the kernel computes."""


def known(size: tirx.Expr) -> int:
    """Return a size that is a number."""
    assert isinstance(size, tirx.IntImm), f"{size} is known at run time alone"
    return int(size)


def ramp(start: Scalar, lanes: int) -> Scalar:
    """Return the indices of consecutive elements."""
    return start if lanes == 1 else T.ramp(start, 1, lanes)


def spread(element: tirx.Expr, lanes: int) -> tirx.Expr:
    """Broadcast an element to every lane."""
    return element if lanes == 1 else T.broadcast(element, lanes)


def zeros(dtype: str, lanes: int) -> tirx.Expr:
    """Return a vector of zeros."""
    return spread(tirx.const(0, dtype), lanes)


def vector_type(dtype: str, vector: tirx.Expr) -> str:
    """Return the type of as many elements as a vector has."""
    lanes = vector.ty.dtype.lanes
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def cast(vector: tirx.Expr, dtype: str) -> tirx.Expr:
    """Convert each lane to another element type."""
    return vector.astype(vector_type(dtype, vector))


def held(vector: tirx.Expr) -> tirx.Expr:
    """Compute a vector once, in a buffer that LLVM keeps in a register.

    Binding a name wouldn't do: TVM's simplifier puts the expression back in for the name.
    """
    return filled(vector)[ramp(0, vector.ty.dtype.lanes)]


def filled(vector: tirx.Expr) -> tirx.Buffer:
    """Allocate a buffer of a vector's lanes that begins with the vector."""
    buffer = T.alloc_buffer((vector.ty.dtype.lanes,), vector.ty.dtype.with_lanes(1))
    T.buffer_store(buffer, vector, [ramp(0, vector.ty.dtype.lanes)])
    return buffer


def total(buffer: tirx.Buffer) -> tirx.Expr:
    """Return the sum of a buffer's lanes, overwriting them."""
    return _halved(buffer, lambda a, b: a + b)


def each_vector(begin: Scalar, count: Scalar, lanes: int, step: Callable[[Scalar], None]) -> None:
    """Emit steps over contiguous elements: whole vectors, and the rest one by one."""
    whole = count // lanes
    with T.serial(0, whole) as vector:
        step(ramp(begin + vector * lanes, lanes))
    with T.serial(0, count - whole * lanes) as rest:
        step(begin + whole * lanes + rest)


def horizontal_add(vectors: Sequence[tirx.Expr]) -> tirx.Expr:
    """Return a vector with the sums of as many vectors as each has lanes."""
    lanes = size = len(vectors)
    while size > 1:
        starts = range(0, 2 * lanes, size)
        halves = [
            [start + at for start in starts for at in range(begin, begin + size // 2)] for begin in (0, size // 2)
        ]
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [held(tirx.Shuffle(pair, halves[0]) + tirx.Shuffle(pair, halves[1])) for pair in map(list, pairs)]
        size //= 2
    return vectors[0]


def horizontal_max(buffer: tirx.Buffer) -> tirx.Expr:
    """Return the greatest of a buffer's lanes, overwriting them."""
    return _halved(buffer, lambda a, b: tirx.Select(a > b, a, b))


def horizontal_min(buffer: tirx.Buffer) -> tirx.Expr:
    """Return the smallest of a buffer's lanes, overwriting them."""
    return _halved(buffer, lambda a, b: tirx.Select(a < b, a, b))


def _halved(buffer: tirx.Buffer, combine: Callable[[tirx.Expr, tirx.Expr], tirx.Expr]) -> tirx.Expr:
    lanes = known(buffer.shape[0])
    while lanes > 1:
        lanes //= 2
        halves = (buffer[ramp(start, lanes)] for start in (0, lanes))
        T.buffer_store(buffer, combine(*halves), [ramp(0, lanes)])
    return buffer[0]
