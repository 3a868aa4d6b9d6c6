"""Softmax, normalization and dynamic quantization of rows in float32.

Each row is read several times, but from memory only once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .approximations import exp, least, most
from .bfloat16 import BFLOAT16, imported, rounded
from .epilogue import viewed
from .machine import Machine
from .prim_func import Loop, kernel, maybe_parallel, symbols
from .vectors import Scalar, cast, filled, held, horizontal_max, horizontal_min, known, ramp, spread, total, zeros


@kernel
def softmax_kernel(batch_dims: tuple[int | None, ...], columns: int, machine: Machine) -> None:
    """Emit a kernel of `[*batch_dims, columns]` to the softmax of each row."""

    def row(buffers: Sequence[tirx.Buffer], row: tirx.Expr) -> None:
        x, y = buffers
        lowest = -T.infinity("float32")
        highest = reduced(lowest, columns, machine, lambda old, at: tirx.Select(x[row, at] > old, x[row, at], old))
        T.buffer_store(highest, horizontal_max(highest), [0])
        sums = filled(zeros("float32", machine.lanes))

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

    _emit(batch_dims, columns, (), row, machine)


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


@kernel
def norm_kernel(
    batch_dims: tuple[int | None, ...], columns: int, norm: Norm, machine: Machine, result: str = "float32"
) -> None:
    """Emit a kernel of `[*batch_dims, columns]`, scales and perhaps biases by column to normalized rows.

    The result is float32 or bfloat16.
    """

    def row(buffers: Sequence[tirx.Buffer], row: tirx.Expr) -> None:
        x, scales, *biases, y = buffers
        mean = x
        if norm.is_centered:
            mean = reduced(T.float32(0), columns, machine, lambda old, at: old + x[row, at])
            T.buffer_store(mean, total(mean) * T.float32(1 / columns), [0])

        def centered(at: Scalar) -> tirx.Expr:
            vector = x[row, at]
            return held(vector - spread(mean[0], vector.ty.dtype.lanes) if norm.is_centered else vector)

        def add(old: tirx.Expr, at: Scalar) -> tirx.Expr:
            distance = centered(at)
            return old + distance * distance

        squares = reduced(T.float32(0), columns, machine, add)
        variance = total(squares) * T.float32(1 / columns)
        T.buffer_store(squares, T.float32(1) / tirx.sqrt(variance + T.float32(norm.epsilon)), [0])

        def store(at: Scalar, lane: Scalar) -> None:
            vector = centered(at)
            scaled = vector * spread(squares[0], vector.ty.dtype.lanes) * scales[at]
            shifted = scaled + biases[0][at] if biases else scaled
            T.buffer_store(y, rounded(shifted) if result == BFLOAT16 else shifted, [row, at])

        each(columns, machine, store)

    _emit(batch_dims, columns, (columns,) * (1 + norm.has_bias), row, machine, result)


@kernel
def quantize_kernel(batch_dims: tuple[int | None, ...], columns: int, by_row: bool, machine: Machine) -> None:
    """Emit a kernel of `[*batch_dims, columns]` to uint8, scales and zero points, as DynamicQuantizeLinear has them.

    Scales and zero points are `[*batch_dims, 1]` by row, and scalars otherwise.
    """
    sizes = symbols(batch_dims)
    rows: Scalar = prod(sizes)
    grids, count = ((*sizes, 1), rows) if by_row else ((), 1)
    forms = (
        ("x", (*sizes, columns), "float32", (rows, columns)),
        ("y", (*sizes, columns), "uint8", (rows, columns)),
        ("scales", grids, "float32", (count,)),
        ("zero_points", grids, "uint8", (count,)),
    )
    arguments = [(T.arg(name, T.buffer(shape, dtype)), view) for name, shape, dtype, view in forms]
    x, y, scales, zero_points = (viewed(buffer, view) for buffer, view in arguments)
    loop = row_loop(rows, columns, machine)
    with T.sblock("root"):  # or TVM would look for one
        if not by_row:
            _find_grid(x, scales, zero_points, loop, machine)
        with loop(0, rows) as row:
            if by_row:
                _store_grid(*_range(x, row, machine), scales, zero_points, row)
            grid = row if by_row else 0
            # The standard divides by the scale: to multiply by its inverse may round ties to another number.
            factor = held(T.float32(1) / scales[grid] if by_row else scales[grid])
            zero = held(zero_points[grid].astype("float32"))

            def store(at: Scalar, lane: Scalar) -> None:
                vector = x[row, at]
                lanes = vector.ty.dtype.lanes
                scaled = vector * spread(factor, lanes) if by_row else vector / spread(factor, lanes)
                steps = held(tirx.nearbyint(scaled) + spread(zero, lanes))
                integers = cast(held(most(held(least(steps, 255.0)), 0.0)), "int32")
                T.buffer_store(y, cast(integers, "uint8"), [row, at])

            each(columns, machine, store)


def _emit(
    batch_dims: tuple[int | None, ...],
    columns: int,
    beside: Sequence[int],
    row: Callable[[Sequence[tirx.Buffer], tirx.Expr], None],
    machine: Machine,
    result: str = "float32",
) -> None:
    """Emit a kernel that walks the rows; its arguments are the matrix, vectors of some lengths, and the result."""
    sizes = symbols(batch_dims)
    x = T.arg("x", T.buffer((*sizes, columns), "float32"))
    vectors = [T.arg(f"vector{index}", T.buffer((size,), "float32")) for index, size in enumerate(beside)]
    y = T.arg("y", T.buffer((*sizes, columns), result))
    rows: Scalar = prod(sizes)
    x, y = (viewed(buffer, (rows, columns)) for buffer in (x, y))
    root = T.sblock("root")  # without a block, TVM wouldn't see that this is no reshape
    with root, imported(machine, result == BFLOAT16), row_loop(rows, columns, machine)(0, rows) as place:
        row((x, *vectors, y), place)


def row_loop(rows: Scalar, columns: int, machine: Machine) -> Loop:
    """Return the loop over rows: parallel unless they are known to have few elements."""
    return maybe_parallel(rows * columns, machine.costs.row_elements)


def each(columns: int, machine: Machine, body: Callable[[Scalar, Scalar], None]) -> None:
    """Emit code for each vector of a row, from the vector's place and that of its lanes."""
    whole, rest = divmod(columns, machine.lanes)
    if whole:
        with T.serial(0, whole) as block:
            body(ramp(block * machine.lanes, machine.lanes), ramp(0, machine.lanes))
    if rest:
        body(ramp(whole * machine.lanes, rest), ramp(0, rest))


def reduced(
    start: tirx.Expr, columns: int, machine: Machine, combine: Callable[[tirx.Expr, Scalar], tirx.Expr]
) -> tirx.Buffer:
    """Emit code that combines the vectors of a row, lane by lane; return the buffer of the lanes."""
    lanes = filled(spread(start, machine.lanes))
    each(columns, machine, lambda at, lane: T.buffer_store(lanes, combine(lanes[lane], at), [lane]))
    return lanes


def _find_grid(x: tirx.Buffer, scales: tirx.Buffer, zero_points: tirx.Buffer, loop: Loop, machine: Machine) -> None:
    """Emit code for one grid for all rows: their ranges, on all threads, and then the range of these."""
    rows = x.shape[0]
    ranges = [T.alloc_buffer((rows,), "float32") for _ in range(2)]
    with loop(0, rows) as row:
        for buffer, bound in zip(ranges, _range(x, row, machine), strict=True):
            T.buffer_store(buffer, bound, [row])
    low, high = (filled(T.float32(0)) for _ in range(2))
    with T.serial(0, rows) as row:
        T.buffer_store(low, tirx.min(low[0], ranges[0][row]), [0])
        T.buffer_store(high, tirx.max(high[0], ranges[1][row]), [0])
    _store_grid(low[0], high[0], scales, zero_points, 0)


def _range(x: tirx.Buffer, row: Scalar, machine: Machine) -> tuple[tirx.Expr, tirx.Expr]:
    """Emit a row's lowest and highest number, extended to include 0."""
    low, high = (filled(zeros("float32", machine.lanes)) for _ in range(2))

    def compare(at: Scalar, lane: Scalar) -> None:
        T.buffer_store(low, tirx.Select(x[row, at] < low[lane], x[row, at], low[lane]), [lane])
        T.buffer_store(high, tirx.Select(x[row, at] > high[lane], x[row, at], high[lane]), [lane])

    each(known(x.shape[1]), machine, compare)
    return horizontal_min(low), horizontal_max(high)


def _store_grid(low: tirx.Expr, high: tirx.Expr, scales: tirx.Buffer, zero_points: tirx.Buffer, place: Scalar) -> None:
    width = held((high - low) / T.float32(255))
    scale = held(tirx.Select(width == T.float32(0), T.float32(1), width))
    T.buffer_store(scales, scale, [place])
    T.buffer_store(zero_points, tirx.nearbyint((T.float32(0) - low) / scale).astype("uint8"), [place])
