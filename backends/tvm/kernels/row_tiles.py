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

from .bfloat16 import imported
from .epilogue import BlockedEpilogue
from .machine import Machine
from .prim_func import maybe_parallel
from .vectors import Scalar, cast, ramp, zeros
from .windows import Window

Line: TypeAlias = tuple[Scalar, Scalar, Scalar]
"""An image, a panel of some blocks of channels, and a row."""
Sums: TypeAlias = Sequence[Sequence[tirx.Buffer]]
"""The accumulators of a tile, by column and block."""


@dataclass(frozen=True, slots=True)
class RowTiles(ABC):
    """The hooks of tiles of a row, and the buffers that they read.

    Attributes:
        window: where the windows lie.
        finish: the epilogue.
        accumulator_dtype: of what is computed of a window.
        columns: of a tile.
        blocks: of channels of a tile.
        x: images.
        bias: by channel; None for a pool.
        scales: of sums of bytes, by channel; None for floats.
        offsets: what sums of bytes start from, by kind of row, kind of column, and channel; None for 0.
    """

    window: Window
    finish: BlockedEpilogue
    accumulator_dtype: str
    columns: int
    blocks: int
    x: tirx.Buffer
    bias: tirx.Buffer | None
    scales: tirx.Buffer | None
    offsets: tirx.Buffer | None

    def initialise(self, block: Scalar, row: Scalar, column: int | None) -> tirx.Expr:
        """Return what a window starts from; a column of None stands for one without padding at the sides.

        Offsets undo the zero point of bytes, and depend on how many taps of the window lie on the image.
        """
        channels = ramp(block * self.finish.lanes, self.finish.lanes)
        if self.offsets is not None:
            return self.offsets[self.window.kind(0, row), self.window.kind(1, column), channels]
        if self.bias is not None and self.scales is None:
            return self.bias[channels]
        return zeros(self.accumulator_dtype, self.finish.lanes)

    @abstractmethod
    def add(self, sums: Sums, at: Line, start: Scalar, edge: int | None) -> None:
        """Emit the taps of all windows of a tile; at an edge, the first column is known."""

    def store_c(self, total: tirx.Expr, block: Scalar, row: Scalar, column: int | None) -> tirx.Expr:
        """Return the result for a window."""
        if self.scales is None or self.bias is None:
            return total
        channels = ramp(block * self.finish.lanes, self.finish.lanes)
        return cast(total, "float32") * self.scales[channels] + self.bias[channels]

    def emit(self, batch: Scalar, blocks: int, tiles: tuple[list[int], list[int]], machine: Machine) -> None:
        """Emit all rows of all blocks, of one block each, as tasks."""
        (rows, columns), (down, across) = self.window.result, self.window.kernel
        tasks = batch * blocks * rows
        loop = maybe_parallel(tasks * columns * down * across, machine.costs.vector_work)
        with T.sblock("root"), imported(machine, self.finish.epilogue.is_coarse), loop(0, tasks) as task:
            rest = task // rows
            self.row((rest // blocks, rest % blocks, task % rows), *tiles)

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
