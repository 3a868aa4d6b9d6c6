"""What convolutions and pools on images in blocks have in common: a row of the result is computed tile by tile.

Tiles at the left and right edge are generated without the taps that would lie in the padding, so that nothing is ever
padded.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .epilogue import BlockedEpilogue
from .vectors import Scalar, ramp, zeros
from .windows import Window

Line: TypeAlias = tuple[Scalar, Scalar, Scalar]
"""An image, a panel of some blocks of channels, and a row."""
Sums: TypeAlias = Sequence[Sequence[tirx.Buffer]]
"""The accumulators of a tile, by column and block."""


@dataclass(frozen=True, slots=True)
class RowTiles(ABC):
    """The hooks of tiles of a row.

    Attributes:
        window: where the windows lie.
        finish: the epilogue.
        accumulator_dtype: of what is computed of a window.
        columns: of a tile.
        blocks: of channels of a tile.
    """

    window: Window
    finish: BlockedEpilogue
    accumulator_dtype: str
    columns: int
    blocks: int

    @abstractmethod
    def initialise(self, block: Scalar, row: Scalar, column: int | None) -> tirx.Expr:
        """Return what a window starts from; a column of None stands for one without padding at the sides."""

    @abstractmethod
    def add(self, sums: Sums, at: Line, start: Scalar, edge: int | None) -> None:
        """Emit the taps of all windows of a tile; at an edge, the first column is known."""

    @abstractmethod
    def store_c(self, total: tirx.Expr, block: Scalar, row: Scalar, column: int | None) -> tirx.Expr:
        """Return the result for a window."""

    def sums(self) -> Sums:
        """Allocate the registers of a tile."""
        size, dtype = (self.finish.lanes,), self.accumulator_dtype
        return [[T.alloc_buffer(size, dtype) for _ in range(self.blocks)] for _ in range(self.columns)]

    def row(self, at: Line, inner: list[int], edges: list[int]) -> None:
        """Emit the tiles of a row: those in the middle in a loop, those at edges one by one."""
        sums = self.sums()
        for edge in edges:
            self.tile(sums, at, edge, edge)
        if inner:
            with T.serial(0, len(inner)) as step:
                self.tile(sums, at, tirx.min(inner[0] + step * self.columns, inner[-1]), None)

    def tile(self, sums: Sums, at: Line, start: Scalar, edge: int | None) -> None:
        """Emit one tile from a column on; at an edge, that column is known."""
        (image, panel, row), whole = at, ramp(0, self.finish.lanes)
        first = panel * self.blocks
        columns = [None if edge is None else edge + column for column in range(len(sums))]
        for column, line in zip(columns, sums, strict=True):
            for number, total in enumerate(line):
                T.buffer_store(total, self.initialise(first + number, row, column), [whole])
        self.add(sums, at, start, edge)
        results = [
            [self.store_c(total[whole], first + number, row, column) for number, total in enumerate(line)]
            for column, line in zip(columns, sums, strict=True)
        ]
        self.finish.store(results, (image, first, row, start))

    def start_offset(self, offsets: tirx.Buffer | None, block: Scalar, row: Scalar, column: int | None) -> tirx.Expr:
        """Return what undoes the zero point of bytes: it depends on how many taps of a window lie on the image."""
        if offsets is None:
            return zeros("int32", self.finish.lanes)
        channels = ramp(block * self.finish.lanes, self.finish.lanes)
        return offsets[self.window.kind(0, row), self.window.kind(1, column), channels]
