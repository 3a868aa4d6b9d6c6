"""What convolutions and pools on images in blocks have in common: a row of the result is computed tile by tile.

Tiles at both edges are generated without the taps that would lie in the padding, so that nothing is ever padded.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .epilogue import Result
from .prim_func import Loop, argument
from .vectors import Register, Scalar, cast, ramp, zeros
from .windows import Window

Line: TypeAlias = tuple[Scalar, Scalar, Scalar]
"""An image, a panel of some blocks of channels, and a row."""
Sums: TypeAlias = Sequence[Sequence[Register]]
"""The accumulators of a tile, by column and block."""


def channel_rows(
    window: Window, channels: int, *, is_integer: bool = False, has_offsets: bool = False
) -> tuple[tirx.Buffer, tirx.Buffer | None, tirx.Buffer | None]:
    """Declare a kernel's arguments behind the weights: a bias and, for bytes, scales and perhaps offsets."""
    bias = argument("bias", (channels,))
    scales = argument("scales", (channels,)) if is_integer else None
    kinds = [len(window.taps(axis)) for axis in range(2)]
    return bias, scales, argument("offsets", (*kinds, channels), "int32") if has_offsets else None


@dataclass(frozen=True, slots=True)
class RowTiles(ABC):
    """Tiles of some columns of a row by some blocks of channels, and the buffers that they read.

    Attributes:
        lanes: channels of a block.
        accumulator_dtype: of what is computed of a window.
        weights: None for a pool, as is the bias.
        scales: of sums of bytes, by channel; None for floats.
        offsets: what sums of bytes start from, by kind of row, kind of column, and channel; None for 0.
    """

    window: Window
    lanes: int
    columns: int
    blocks: int
    accumulator_dtype: str
    x: tirx.Buffer
    weights: tirx.Buffer | None
    bias: tirx.Buffer | None
    scales: tirx.Buffer | None
    offsets: tirx.Buffer | None
    result: Result

    def initialise(self, block: Scalar, row: Scalar, column: int | None) -> tirx.Expr:
        """Return what a window starts from; a column of None stands for one without padding at the sides.

        Offsets undo the zero point of bytes, and depend on how many taps of the window lie on the image.
        """
        channels = ramp(block * self.lanes, self.lanes)
        if self.offsets is not None:
            return self.offsets[self.window.kind(0, row), self.window.kind(1, column), channels]
        if self.bias is not None and self.scales is None:
            return self.bias[channels]
        return zeros(self.accumulator_dtype, self.lanes)

    @abstractmethod
    def add(self, sums: Sums, at: Line, start: Scalar, edge: int | None) -> None:
        """Emit the taps of all windows of a tile; at an edge, the first column is known."""

    def store_c(self, total: tirx.Expr, block: Scalar, row: Scalar, column: int | None) -> tirx.Expr:
        """Return the result for a window."""
        if self.scales is None or self.bias is None:
            return total
        channels = ramp(block * self.lanes, self.lanes)
        return cast(total, "float32") * self.scales[channels] + self.bias[channels]

    def emit(self, axes: dict[str, Scalar], tiles: tuple[list[int], list[int]], loop: Loop) -> None:
        """Emit all tiles: those in the middle of rows in loops, those at edges one by one.

        Axes are image, panel and row, in any order, and perhaps tile, if there are no edges; with their sizes they make
        the tasks.
        """
        inner, edges = tiles
        with loop(0, prod(axes.values())) as task:
            place: dict[str, Scalar] = {}
            for name, size in reversed(axes.items()):
                task, place[name] = task // size, task % size
            columns, blocks = range(self.columns), range(self.blocks)
            sums = [[Register(T.alloc_buffer((self.lanes,), self.accumulator_dtype)) for _ in blocks] for _ in columns]
            at = (place["image"], place["panel"], place["row"])
            for edge in edges:
                self.tile(sums, at, edge, edge)
            if "tile" in place:
                self.tile(sums, at, tirx.min(place["tile"] * self.columns, inner[-1]), None)
            elif inner:
                with T.serial(0, len(inner)) as step:
                    self.tile(sums, at, tirx.min(inner[0] + step * self.columns, inner[-1]), None)

    def tile(self, sums: Sums, at: Line, start: Scalar, edge: int | None) -> None:
        """Emit one tile from a column on; at an edge, that column is known."""
        image, panel, row = at
        spots = [
            (column, panel * self.blocks + number, None if edge is None else edge + column, total)
            for column, line in enumerate(sums)
            for number, total in enumerate(line)
        ]
        for _, block, column, total in spots:
            total.set(self.initialise(block, row, column))
        self.add(sums, at, start, edge)
        for place, block, column, total in spots:
            found = self.store_c(total.value, block, row, column)
            self.result.store(found, (image, block, row, start + place, ramp(0, self.lanes)))
