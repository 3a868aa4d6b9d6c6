"""Softmax, normalization and dynamic quantization of rows of float32, which are read from memory only once."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .approximations import exp
from .machine import Machine
from .prim_func import argument, kernel, maybe_parallel, symbols
from .vector_math import stored
from .vectors import Register, Scalar, cast, each_vector, greater, held, known, lanes_at, lesser, spread

Combine: TypeAlias = Callable[[tirx.Expr, tirx.Expr], tirx.Expr]


@kernel
def softmax_kernel(batch_dims: tuple[int | None, ...], columns: int, machine: Machine) -> None:
    """Emit a kernel of `[*batch_dims, columns]` to the softmax of each row."""
    with _each_row(batch_dims, columns, 0, machine) as (x, _, y, row):
        highest = _reduced(-T.infinity("float32"), x, row, machine, greater)
        highest.set(highest.folded(greater))
        sums = Register.of(spread(T.float32(0), machine.lanes))
        for at in each_vector(0, columns, machine.lanes):
            lanes = lanes_at(at)
            T.buffer_store(y, exp(held(x[row, at]) - spread(highest.first(1), lanes)), [row, at])
            sums.set(sums.first(lanes) + y[row, at])
        sums.set(T.float32(1) / sums.total())
        for at in each_vector(0, columns, machine.lanes):
            T.buffer_store(y, y[row, at] * spread(sums.first(1), lanes_at(at)), [row, at])


@dataclass(frozen=True, slots=True)
class Norm:
    """How rows are normalized: LayerNormalization is centered, RMSNormalization isn't. The result may be bfloat16."""

    epsilon: float
    is_centered: bool
    has_bias: bool
    result: str = "float32"


@kernel
def norm_kernel(batch_dims: tuple[int | None, ...], columns: int, norm: Norm, machine: Machine) -> None:
    """Emit a kernel of `[*batch_dims, columns]`, scales and perhaps biases by column to normalized rows."""
    beside = 1 + norm.has_bias
    with _each_row(batch_dims, columns, beside, machine, norm.result) as (x, (scales, *biases), y, row):
        mean = None
        if norm.is_centered:
            mean = _reduced(T.float32(0), x, row, machine, lambda vector, old: old + vector)
            mean.set(mean.total() * T.float32(1 / columns))

        def centered(vector: tirx.Expr) -> tirx.Expr:
            return held(vector if mean is None else vector - spread(mean.first(1), vector.ty.dtype.lanes))

        def add(vector: tirx.Expr, old: tirx.Expr) -> tirx.Expr:
            distance = centered(vector)
            return old + distance * distance

        squares = _reduced(T.float32(0), x, row, machine, add)
        variance = squares.total() * T.float32(1 / columns)
        squares.set(T.float32(1) / tirx.sqrt(variance + T.float32(norm.epsilon)))
        for at in each_vector(0, columns, machine.lanes):
            scaled = centered(x[row, at]) * spread(squares.first(1), lanes_at(at)) * scales[at]
            T.buffer_store(y, stored(scaled + biases[0][at] if biases else scaled, norm.result), [row, at])


@contextmanager
def _each_row(
    batch_dims: tuple[int | None, ...], columns: int, vectors: int, machine: Machine, result: str = "float32"
) -> Generator[tuple[tirx.Buffer, list[tirx.Buffer], tirx.Buffer, tirx.Expr]]:
    """Return a context for the code of each row, given a matrix, numbers by column, the result and the row."""
    sizes = symbols(batch_dims)
    shape, view = (*sizes, columns), (prod(sizes), columns)
    x = argument("x", shape, view=view)
    beside = [argument(f"vector{index}", (columns,)) for index in range(vectors)]
    y = argument("y", shape, result, view)
    with maybe_parallel(view[0] * columns, machine.costs.row_elements)(0, view[0]) as row:
        yield x, beside, y, row


def _reduced(start: tirx.Expr, x: tirx.Buffer, row: Scalar, machine: Machine, combine: Combine) -> Register:
    """Emit code that combines the vectors of a row with what came before, lane by lane; return the lanes."""
    lanes = Register.of(spread(start, machine.lanes))
    for at in each_vector(0, known(x.shape[1]), machine.lanes):
        lanes.set(combine(x[row, at], lanes.first(lanes_at(at))))
    return lanes


@kernel
def quantize_kernel(batch_dims: tuple[int | None, ...], columns: int, by_row: bool, machine: Machine) -> None:
    """Emit a kernel of `[*batch_dims, columns]` to what DynamicQuantizeLinear gives, or to grids `[*batch_dims, 1]`."""
    sizes = symbols(batch_dims)
    rows: Scalar = prod(sizes)
    shape, view, grids, count = (*sizes, columns), (rows, columns), (*sizes, 1) if by_row else (), rows if by_row else 1
    x, y = argument("x", shape, view=view), argument("y", shape, "uint8", view)
    scales, zero_points = argument("scales", grids, view=(count,)), argument("zero_points", grids, "uint8", (count,))
    loop = maybe_parallel(rows * columns, machine.costs.row_elements)
    if not by_row:  # the ranges of rows, on all threads, and then the range of these
        ranges = [T.alloc_buffer((rows,), "float32") for _ in range(2)]
        with loop(0, rows) as row:
            for buffer, bound in zip(ranges, _range(x, row, machine), strict=True):
                T.buffer_store(buffer, bound, [row])
        low, high = (Register.of(T.float32(0)) for _ in range(2))
        with T.serial(0, rows) as row:
            low.set(tirx.min(low.value, ranges[0][row]))
            high.set(tirx.max(high.value, ranges[1][row]))
        _store_grid(low.value, high.value, scales, zero_points, 0)
    with loop(0, rows) as row:
        if by_row:
            _store_grid(*_range(x, row, machine), scales, zero_points, row)
        grid = row if by_row else 0
        # The standard divides by the scale: to multiply by its inverse may round ties to another number.
        factor = held(T.float32(1) / scales[grid] if by_row else scales[grid])
        zero = held(zero_points[grid].astype("float32"))
        for at in each_vector(0, columns, machine.lanes):
            vector, scale = x[row, at], spread(factor, lanes_at(at))
            scaled = vector * scale if by_row else vector / scale
            steps = held(tirx.nearbyint(scaled) + spread(zero, lanes_at(at)))
            integers = cast(held(greater(0.0, held(lesser(255.0, steps)))), "int32")
            T.buffer_store(y, cast(integers, "uint8"), [row, at])


def _range(x: tirx.Buffer, row: Scalar, machine: Machine) -> tuple[tirx.Expr, tirx.Expr]:
    """Emit a row's lowest and highest number, extended to include 0."""
    low, high = (Register.of(spread(T.float32(0), machine.lanes)) for _ in range(2))
    for at in each_vector(0, known(x.shape[1]), machine.lanes):
        lanes = lanes_at(at)
        low.set(lesser(x[row, at], low.first(lanes)))
        high.set(greater(x[row, at], high.first(lanes)))
    return low.folded(lesser), high.folded(greater)


def _store_grid(low: tirx.Expr, high: tirx.Expr, scales: tirx.Buffer, zero_points: tirx.Buffer, place: Scalar) -> None:
    width = held((high - low) / T.float32(255))
    scale = held(tirx.Select(width == T.float32(0), T.float32(1), width))
    T.buffer_store(scales, scale, [place])
    T.buffer_store(zero_points, tirx.nearbyint((T.float32(0) - low) / scale).astype("uint8"), [place])
