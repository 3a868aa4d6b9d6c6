"""Register tiles: parts of a result that registers hold."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .vectors import Scalar, ramp

OPAQUE = 8
"""TVM's number for kernels that it fuses with nothing."""
PARALLEL_THRESHOLD = 1 << 14
"""Operations on vectors from which waking other threads for them pays."""
LATENCY = 8
"""Multiply-adds that are in flight at once on the widest machines: fewer accumulators leave units idle."""


Loop: TypeAlias = Callable[[Scalar, Scalar], AbstractContextManager[tirx.Expr]]
"""A loop from a begin to an end, whose variable its context gives."""
Vector: TypeAlias = tuple[int, int, int, tirx.Expr]
"""A vector of a tile: its row, first column, lanes and numbers."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the result that registers hold.

    Attributes:
        rows: of the result.
        columns: of the result, in vectors; the last one may be narrower.
        lanes: of a vector.
    """

    rows: int
    columns: int
    lanes: int

    @property
    def vectors(self) -> list[tuple[int, int]]:
        """The first column of each vector, and how many it has."""
        return [(start, min(self.lanes, self.columns - start)) for start in range(0, self.columns, self.lanes)]

    @property
    def spots(self) -> list[tuple[int, int, int, Scalar]]:
        """Row, first column and lanes of each vector, and its places in a buffer that holds the tile."""
        return [
            (row, start, lanes, ramp(row * self.columns + start, lanes))
            for row in range(self.rows)
            for start, lanes in self.vectors
        ]


def row_tiles(height: int, rows: Scalar) -> list[tuple[int, Scalar]]:
    """Return heights of tiles, and how many tiles have each; where rows aren't known, one is chosen at run time.

    The last tile overlaps the one before it if the height doesn't divide the rows.
    """
    if isinstance(rows, int):
        return [(min(height, rows), ceil_div(rows, min(height, rows)))]
    found: list[tuple[int, Scalar]] = []
    beyond = None
    while height:
        is_fit = rows >= height if beyond is None else tirx.all(rows >= height, rows < beyond)
        count = tirx.floordiv(rows + (height - 1), height)
        found.append((height, tirx.Select(is_fit, count, tirx.const(0, "int64"))))
        height, beyond = height // 2, height
    return found


def maybe_parallel(operations: Scalar) -> Loop:
    """Return the loop over a kernel's tasks: parallel unless their operations on vectors are known to be few."""
    return T.serial if isinstance(operations, int) and operations < PARALLEL_THRESHOLD else T.parallel


def ceil_div(size: int, part: int) -> int:
    return -(-size // part)
