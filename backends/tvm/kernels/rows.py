"""Softmax and normalization of rows in float32: each row is read several times, but from memory only once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .approximations import exp
from .bfloat16 import BFLOAT16, imported, rounded, stored_as
from .machine import Machine
from .tiles import OPAQUE
from .vectors import Scalar, held, horizontal_max, ramp, spread, total

SMALL = 1 << 14
"""Elements below which waking other threads costs more than they save."""


@lru_cache
def softmax_kernel(batch_dims: tuple[int | None, ...], columns: int, machine: Machine) -> tirx.PrimFunc:
    """Build a kernel of `[*lead, columns]` to the softmax of each row."""

    def row(buffers: Sequence[tirx.Buffer], row: tirx.Expr) -> None:
        x, y = buffers
        highest = filled(machine, -T.infinity("float32"))

        def compare(at: Scalar, lane: Scalar) -> None:
            T.buffer_store(highest, tirx.Select(x[row, at] > highest[lane], x[row, at], highest[lane]), [lane])

        each(columns, machine, compare)
        T.buffer_store(highest, horizontal_max(highest), [0])
        sums = filled(machine, T.float32(0))

        def exponentiate(at: Scalar, lane: Scalar) -> None:
            vector = held(x[row, at])
            T.buffer_store(y, exp(vector - spread(highest[0], vector.ty.dtype.lanes)), [row, at])
            T.buffer_store(sums, sums[lane] + y[row, at], [lane])

        each(columns, machine, exponentiate)
        T.buffer_store(sums, T.float32(1) / total(sums), [0])

        def scale(at: Scalar, lane: Scalar) -> None:
            vector = y[row, at]
            T.buffer_store(y, vector * spread(sums[0], vector.ty.dtype.lanes), [row, at])

        each(columns, machine, scale)

    return _kernel(batch_dims, columns, (), row, machine)


@dataclass(frozen=True, slots=True)
class Norm:
    """How rows are normalized.

    Attributes:
        epsilon: added to the variance.
        is_centered: whether the mean is subtracted first, as by LayerNormalization and not by RMSNormalization.
        has_bias: whether a bias is added after scaling.
    """

    epsilon: float
    is_centered: bool
    has_bias: bool


@lru_cache
def norm_kernel(
    batch_dims: tuple[int | None, ...], columns: int, norm: Norm, machine: Machine, result: str = "float32"
) -> tirx.PrimFunc:
    """Build a kernel of `[*lead, columns]`, scales and perhaps biases by column to normalized rows.

    The result is float32 or bfloat16.
    """

    def row(buffers: Sequence[tirx.Buffer], row: tirx.Expr) -> None:
        x, scales, *biases, y = buffers
        mean = filled(machine, T.float32(0))
        if norm.is_centered:
            each(columns, machine, lambda at, lane: T.buffer_store(mean, mean[lane] + x[row, at], [lane]))
            T.buffer_store(mean, total(mean) * T.float32(1 / columns), [0])
        squares = filled(machine, T.float32(0))

        def centered(at: Scalar) -> tirx.Expr:
            vector = x[row, at]
            return held(vector - spread(mean[0], vector.ty.dtype.lanes) if norm.is_centered else vector)

        def add(at: Scalar, lane: Scalar) -> None:
            distance = centered(at)
            T.buffer_store(squares, squares[lane] + distance * distance, [lane])

        each(columns, machine, add)
        variance = total(squares) * T.float32(1 / columns)
        T.buffer_store(squares, T.float32(1) / tirx.sqrt(variance + T.float32(norm.epsilon)), [0])

        def store(at: Scalar, lane: Scalar) -> None:
            vector = centered(at)
            scaled = vector * spread(squares[0], vector.ty.dtype.lanes) * scales[at]
            shifted = scaled + biases[0][at] if biases else scaled
            T.buffer_store(y, rounded(shifted) if result == BFLOAT16 else shifted, [row, at])

        each(columns, machine, store)

    return _kernel(batch_dims, columns, (columns,) * (1 + norm.has_bias), row, machine, result)


@lru_cache
def rounding_kernel(batch_dims: tuple[int | None, ...], columns: int, machine: Machine) -> tirx.PrimFunc:
    """Build a kernel that rounds `[*lead, columns]` to the nearest bfloat16."""

    def row(buffers: Sequence[tirx.Buffer], row: tirx.Expr) -> None:
        x, y = buffers
        each(columns, machine, lambda at, lane: T.buffer_store(y, rounded(x[row, at]), [row, at]))

    return _kernel(batch_dims, columns, (), row, machine, BFLOAT16)


def _kernel(
    batch_dims: tuple[int | None, ...],
    columns: int,
    beside: Sequence[int],
    row: Callable[[Sequence[tirx.Buffer], tirx.Expr], None],
    machine: Machine,
    result: str = "float32",
) -> tirx.PrimFunc:
    """Build a kernel that walks the rows; its arguments are the matrix, vectors of some lengths, and the result."""
    sizes = [tirx.Var(f"size{axis}", "int64") if size is None else size for axis, size in enumerate(batch_dims)]
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            x = T.arg("x", T.buffer((*sizes, columns), "float32"))
            vectors = [T.arg(f"vector{index}", T.buffer((size,), "float32")) for index, size in enumerate(beside)]
            y = T.arg("y", T.buffer((*sizes, columns), result))
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            rows: Scalar = prod(sizes)
            x, y = (T.decl_buffer((rows, columns), stored_as(str(buffer.dtype)), data=buffer.data) for buffer in (x, y))
            loop = T.serial if isinstance(rows, int) and rows * columns < SMALL else T.parallel
            root = T.sblock("root")  # without a block, TVM wouldn't see that this is no reshape
            with root, imported(machine, result == BFLOAT16), loop(0, rows) as place:
                row((x, *vectors, y), place)
        return builder.get()


def filled(machine: Machine, value: tirx.Expr) -> tirx.Buffer:
    """Allocate a vector filled with one number, to combine lanes in."""
    buffer = T.alloc_buffer((machine.lanes,), "float32")
    T.buffer_store(buffer, spread(value, machine.lanes), [ramp(0, machine.lanes)])
    return buffer


def each(columns: int, machine: Machine, body: Callable[[Scalar, Scalar], None]) -> None:
    """Emit code for each vector of a row, from the vector's place and that of its lanes."""
    whole, rest = divmod(columns, machine.lanes)
    if whole:
        with T.serial(0, whole) as block:
            body(ramp(block * machine.lanes, machine.lanes), ramp(0, machine.lanes))
    if rest:
        body(ramp(whole * machine.lanes, rest), ramp(0, rest))
