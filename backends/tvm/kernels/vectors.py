"""Vectors of any number of lanes, where scalars stand for those of one, since TVM has none."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tvm import tirx
from tvm.script.ir_builder import tirx as T

Scalar: TypeAlias = int | tirx.Expr
"""An integer: a number while a kernel is generated, or an expression that the kernel computes."""
BFLOAT16 = "bfloat16"


def known(size: tirx.Expr) -> int:
    """Return a size that is a number."""
    assert isinstance(size, tirx.IntImm), f"{size} is known at run time alone"
    return int(size)


def size_of(size: tirx.Expr) -> Scalar:
    """Return a size as a number, if it is one."""
    return int(size) if isinstance(size, tirx.IntImm) else size


def ceil_div(size: int, part: int) -> int:
    return -(-size // part)


def ramp(start: Scalar, lanes: int) -> Scalar:
    """Return the indices of consecutive elements."""
    return start if lanes == 1 else T.ramp(start, 1, lanes)


def lanes_at(place: Scalar) -> int:
    """Return the number of elements whose indices a place holds."""
    return 1 if isinstance(place, int) else place.ty.dtype.lanes


def spread(element: tirx.Expr, lanes: int) -> tirx.Expr:
    """Broadcast an element to every lane."""
    return element if lanes == 1 else T.broadcast(element, lanes)


def zeros(dtype: str, lanes: int) -> tirx.Expr:
    """Return a vector of zeros."""
    return spread(tirx.const(0, dtype), lanes)


def number(value: float, like: tirx.Expr) -> tirx.Expr:
    """Return a vector with a number in every lane and the type of `like`."""
    return tirx.const(value, like.ty.dtype)


def vector_type(dtype: str, vector: tirx.Expr) -> str:
    """Return the type of as many elements as a vector has."""
    lanes = vector.ty.dtype.lanes
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def cast(vector: tirx.Expr, dtype: str) -> tirx.Expr:
    """Convert each lane to another element type."""
    return vector.astype(vector_type(dtype, vector))


@dataclass(frozen=True, slots=True)
class Register:
    """A vector that code changes, in a buffer that LLVM keeps in a register."""

    buffer: tirx.Buffer

    @staticmethod
    def of(vector: tirx.Expr) -> "Register":
        """Allocate a vector that begins with another one."""
        register = Register(T.alloc_buffer((vector.ty.dtype.lanes,), vector.ty.dtype.with_lanes(1)))
        register.set(vector)
        return register

    @property
    def value(self) -> tirx.Expr:
        return self.first(known(self.buffer.shape[0]))

    def first(self, lanes: int) -> tirx.Expr:
        """Return some lanes, from the first one on."""
        return self.buffer[ramp(0, lanes)]

    def set(self, vector: tirx.Expr) -> None:
        """Overwrite as many lanes as another vector has."""
        T.buffer_store(self.buffer, vector, [ramp(0, vector.ty.dtype.lanes)])

    def folded(self, combine: Callable[[tirx.Expr, tirx.Expr], tirx.Expr]) -> tirx.Expr:
        """Combine all lanes, overwriting them."""
        lanes = known(self.buffer.shape[0])
        while lanes > 1:
            lanes //= 2
            self.set(combine(self.first(lanes), self.buffer[ramp(lanes, lanes)]))
        return self.buffer[0]

    def total(self) -> tirx.Expr:
        """Return the sum of all lanes, overwriting them."""
        return self.folded(lambda a, b: a + b)


def held(vector: tirx.Expr) -> tirx.Expr:
    """Compute a vector once: for a bound name, TVM's simplifier would put the expression back in."""
    return Register.of(vector).value


def lesser(a: tirx.Expr | float, b: tirx.Expr) -> tirx.Expr:
    """Return the lesser of each two elements, and the second one where either is NaN; the first may be a number."""
    a = number(a, b) if isinstance(a, float) else a
    return tirx.Select(b > a, a, b)


def greater(a: tirx.Expr | float, b: tirx.Expr) -> tirx.Expr:
    """Return the greater of each two elements, and the second one where either is NaN; the first may be a number."""
    a = number(a, b) if isinstance(a, float) else a
    return tirx.Select(b < a, a, b)


def transposed(rows: Sequence[tirx.Expr]) -> Sequence[tirx.Expr]:
    """Transpose a square of as many vectors as each has lanes, a power of two.

    Each stage interleaves the first half of the vectors with the second one, which rotates the bits of an element's
    row and lane, taken as one number, by one.
    """
    lanes = len(rows)
    if lanes == 1:
        return rows
    halves = [[lane // 2 + half * lanes // 2 + lane % 2 * lanes for lane in range(lanes)] for half in range(2)]
    for _ in range(lanes.bit_length() - 1):
        pairs = zip(rows[: lanes // 2], rows[lanes // 2 :], strict=True)
        rows = [held(tirx.Shuffle([*pair], half)) for pair in pairs for half in halves]
    return rows


def each_vector(begin: Scalar, count: Scalar, lanes: int) -> Iterator[Scalar]:
    """Emit loops over elements; yield places of whole vectors, and a narrower one or the rest one by one."""
    whole = count // lanes
    if not isinstance(whole, int) or whole:
        with T.serial(0, whole) as vector:
            yield ramp(begin + vector * lanes, lanes)
    rest = count - whole * lanes
    if not isinstance(rest, int):
        with T.serial(0, rest) as one:
            yield begin + whole * lanes + one
    elif rest:
        yield ramp(begin + whole * lanes, rest)
