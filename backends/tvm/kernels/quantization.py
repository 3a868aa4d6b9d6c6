"""Dynamic quantization of floats to uint8, like DynamicQuantizeLinear: one grid for a tensor, or one for each row."""

from functools import lru_cache
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .approximations import least, most
from .machine import Machine
from .prim_func import Loop, kernel, symbols
from .rows import each, row_loop
from .vectors import Scalar, filled, held, horizontal_max, horizontal_min, known, spread, zeros


@lru_cache
@kernel
def quantize_kernel(batch_dims: tuple[int | None, ...], columns: int, by_row: bool, machine: Machine) -> None:
    """Emit a kernel of `[*batch_dims, columns]` to integers, scales and zero points.

    Scales and zero points are `[*batch_dims, 1]` by row, and scalars otherwise.
    """
    sizes = symbols(batch_dims)
    rows: Scalar = prod(sizes)
    grids = (*sizes, 1) if by_row else ()
    shapes = ((*sizes, columns), (*sizes, columns), grids, grids)
    views = ((rows, columns), (rows, columns), *(((rows if by_row else 1),),) * 2)
    names = (("x", "float32"), ("y", "uint8"), ("scales", "float32"), ("zero_points", "uint8"))
    arguments = [T.arg(name, T.buffer(shape, dtype)) for (name, dtype), shape in zip(names, shapes, strict=True)]
    x, y, scales, zero_points = (
        T.decl_buffer(view, buffer.dtype, data=buffer.data) for buffer, view in zip(arguments, views, strict=True)
    )
    loop = row_loop(rows, columns, machine)
    with T.sblock("root"):  # or TVM would look for one
        if not by_row:
            _find_grid(x, scales, zero_points, loop, machine)
        with loop(0, rows) as row:
            if by_row:
                _store_grid(*_range(x, row, machine), scales, zero_points, row)
            grid = row if by_row else 0
            zero_point = zero_points[grid].astype("float32")
            _quantize(x, y, row, scales[grid], zero_point, machine, is_divided=not by_row)


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


def _quantize(
    x: tirx.Buffer,
    y: tirx.Buffer,
    row: Scalar,
    scale: tirx.Expr,
    zero_point: tirx.Expr,
    machine: Machine,
    *,
    is_divided: bool,
) -> None:
    """Emit the quantization of a row.

    The standard divides by the scale; multiplying by its inverse, where that is allowed, may round ties to another
    number.
    """
    factor, zero = held(scale if is_divided else T.float32(1) / scale), held(zero_point)

    def store(at: Scalar, lane: Scalar) -> None:
        vector = x[row, at]
        lanes = vector.ty.dtype.lanes
        scaled = vector / spread(factor, lanes) if is_divided else vector * spread(factor, lanes)
        steps = held(tirx.nearbyint(scaled) + spread(zero, lanes))
        integers = held(most(held(least(steps, 255.0)), 0.0)).astype("int32" if lanes == 1 else f"int32x{lanes}")
        T.buffer_store(y, integers.astype("uint8" if lanes == 1 else f"uint8x{lanes}"), [row, at])

    each(known(x.shape[1]), machine, store)
