"""Register tiles: parts of a result that registers hold."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .instructions.base import Instruction
from .machine import Machine
from .vectors import Scalar, ceil_div, ramp, zeros

Spot: TypeAlias = tuple[int, int, int, Scalar]
"""A vector of a tile: its row, first column and lanes, and its places in a buffer that holds the tile."""
Vector: TypeAlias = tuple[Scalar, int, int, tirx.Expr]
"""A vector of a tile: its row, first column, lanes and numbers."""
Factor: TypeAlias = Callable[[Scalar, int, int], tirx.Expr]
"""A function from a step, a tile's line or column, and a number of lanes, to the factor for a vector."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the result that registers hold, in vectors of some lanes; the last one of a row may be narrower."""

    rows: int
    columns: int
    lanes: int

    @property
    def vectors(self) -> list[tuple[int, int]]:
        """The first column of each vector, and how many it has."""
        return [(start, min(self.lanes, self.columns - start)) for start in range(0, self.columns, self.lanes)]

    @property
    def spots(self) -> list[Spot]:
        """The vectors, row after row."""
        pairs = product(range(self.rows), self.vectors)
        return [(row, start, lanes, ramp(row * self.columns + start, lanes)) for row, (start, lanes) in pairs]

    def zeros(self) -> tirx.Buffer:
        """Allocate registers for sums in float32 that start from 0."""
        sums = T.alloc_buffer((self.rows * self.columns,), "float32")
        for _, _, lanes, slot in self.spots:
            T.buffer_store(sums, zeros("float32", lanes), [slot])
        return sums

    def products(self, steps: Scalar, instruction: Instruction, left: Factor, right: Factor) -> Iterator[Vector]:
        """Emit the sums over some steps of the products of a row's left factors and a column's right ones."""
        sums = self.zeros()
        with T.serial(0, steps) as step:
            for line, start, lanes, slot in self.spots:
                factors = left(step, line, lanes), right(step, start, lanes)
                T.buffer_store(sums, instruction.multiply_add(sums[slot], *factors), [slot])
        for line, start, lanes, slot in self.spots:
            yield line, start, lanes, sums[slot]


def row_tiles(height: int, rows: Scalar, chunk: Scalar, m_splits: Scalar) -> Iterator[tuple[int, tirx.Expr]]:
    """Emit loops over the tiles of a part of the rows, the last of which may overlap; yield heights and first rows."""
    for lines, count in _heights(height, rows):
        begin, end = (tirx.floordiv(count * place, m_splits) for place in (chunk, chunk + 1))
        with T.serial(0, end - begin) as step:
            yield lines, tirx.min((begin + step) * lines, rows - lines)


def _heights(height: int, rows: Scalar) -> list[tuple[int, Scalar]]:
    """Return heights of tiles, and how many tiles have each; where rows aren't known, one is chosen at run time."""
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


def fits(rows: int, vectors: int, machine: Machine, beside: int = 1) -> bool:
    """Whether a tile fits into the registers, with a row of weights and some more beside it."""
    return rows * vectors + vectors + beside <= machine.registers
