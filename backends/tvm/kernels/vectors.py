# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none
"""Vectors of any number of lanes, where scalars stand for those of one, since TVM has none."""

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T


def lanes_at(start: Any, lanes: int) -> Any:
    """Return the indices of consecutive elements."""
    return start if lanes == 1 else T.ramp(start, 1, lanes)


def spread(element: Any, lanes: int) -> Any:
    """Broadcast an element to every lane."""
    return element if lanes == 1 else T.broadcast(element, lanes)


def as_wide(dtype: str, vector: Any) -> str:
    """Return the type of as many elements as a vector has."""
    lanes = vector.ty.dtype.lanes
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def converted(vector: Any, dtype: str) -> Any:
    """Convert each lane to another element type."""
    return vector.astype(as_wide(dtype, vector))


def held(vector: Any) -> Any:
    """Compute a vector once, in a buffer that LLVM keeps in a register.

    Binding a name wouldn't do: TVM's simplifier puts the expression back in for the name.
    """
    lanes = vector.ty.dtype.lanes
    place = lanes_at(0, lanes)
    buffer = T.alloc_buffer((lanes,), vector.ty.dtype.with_lanes(1))
    T.buffer_store(buffer, vector, [place])
    return buffer[place]


def total(buffer: Any) -> Any:
    """Return the sum of a buffer's lanes, overwriting them."""
    return _halved(buffer, lambda a, b: a + b)


def totals(vectors: Sequence[Any]) -> Any:
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


def greatest(buffer: Any) -> Any:
    """Return the greatest of a buffer's lanes, overwriting them."""
    return _halved(buffer, lambda a, b: tirx.Select(a > b, a, b))


def smallest(buffer: Any) -> Any:
    """Return the smallest of a buffer's lanes, overwriting them."""
    return _halved(buffer, lambda a, b: tirx.Select(a < b, a, b))


def _halved(buffer: Any, combine: Callable[[Any, Any], Any]) -> Any:
    lanes = int(buffer.shape[0])
    while lanes > 1:
        lanes //= 2
        halves = (buffer[lanes_at(start, lanes)] for start in (0, lanes))
        T.buffer_store(buffer, combine(*halves), [lanes_at(0, lanes)])
    return buffer[0]
