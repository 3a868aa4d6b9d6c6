"""Windows of known sizes on images, and what convolutions and pools have in common: rows computed tile by tile.

Tiles at both edges are generated without the taps that would lie in the padding, so that nothing is ever padded.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias, TypeVar

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .epilogue import Result
from .prim_func import Loop, argument
from .vectors import Register, Scalar, cast, ramp, zeros

Pair = tuple[int, int]
"""A number for the rows and one for the columns; an image with one axis has one row."""
_Place = TypeVar("_Place", int, Scalar)
Line: TypeAlias = tuple[Scalar, Scalar, Scalar]
"""An image, a panel of some blocks of channels, and a row."""
Sums: TypeAlias = Sequence[Sequence[Register]]
"""The accumulators of a tile, by column and block."""


@dataclass(frozen=True, slots=True)
class Window:
    """Windows on an image of two axes, by the sizes of image and result; begins and ends are padding."""

    image: Pair
    result: Pair
    kernel: Pair
    strides: Pair
    dilations: Pair
    begins: Pair
    ends: Pair

    @property
    def is_point(self) -> bool:
        """Whether each window is the one pixel in its place."""
        return self.kernel == (1, 1) and self.image == self.result and self.strides == (1, 1) and self.begins == (0, 0)

    @classmethod
    def points(cls, image: Pair) -> "Window":
        """Return windows of one pixel each."""
        return cls(image, image, (1, 1), (1, 1), (1, 1), (0, 0), (0, 0))

    def at(self, axis: int, place: _Place, tap: _Place) -> _Place:
        """Return where along an axis of the image a tap of a window lies."""
        return place * self.strides[axis] + tap * self.dilations[axis] - self.begins[axis]

    def inside(self, axis: int, place: int, *, padded: bool = False) -> list[bool]:
        """Return which taps of a window along an axis lie on the image, or on its padding."""
        low, high = self._bounds(axis, padded=padded)
        return [low <= self.at(axis, place, tap) < high for tap in range(self.kernel[axis])]

    def rows(self, row: Scalar, *, padded: bool = False) -> tuple[Scalar, Scalar]:
        """Return the first tap of a window on a row of the image, or of its padding, and the one behind the last."""
        low, high = self._bounds(0, padded=padded)
        first, last = self.at(0, 0, 0), self.at(0, self.result[0] - 1, self.kernel[0] - 1)
        start, gap = self.at(0, row, 0), self.dilations[0]
        begin = 0 if first >= low else tirx.max(tirx.floordiv(low - start + (gap - 1), gap), 0)
        end = self.kernel[0] if last < high else tirx.min(tirx.floordiv(high - start + (gap - 1), gap), self.kernel[0])
        return begin, end

    def taps(self, axis: int) -> list[list[bool]]:
        """Return which taps lie on the image, for each kind of place along an axis of the result."""
        places = [self.inside(axis, place) for place in range(self.result[axis])]
        first, last = self._whole(axis)
        return [*places[: first + 1], *places[last + 1 :]]

    def kind(self, axis: int, place: Scalar | None) -> Scalar:
        """Return the kind of a place: each that reaches into the padding is its own, None is any other."""
        first, last = self._whole(axis)
        if place is None:
            return first
        least, most = (min, max) if isinstance(place, int) else (tirx.min, tirx.max)
        return least(place, first) + most(place - last, 0)

    def tiles(self, columns: int) -> tuple[list[int], list[int]]:
        """Return the first columns of tiles of a row, which may overlap: those without padding, and the others."""
        inner, edges = list[int](), list[int]()
        for start in range(0, self.result[1], columns):
            first = min(start, self.result[1] - columns)
            end = self.at(1, first + columns - 1, self.kernel[1] - 1)
            is_inner = self.at(1, first, 0) >= 0 and end < self.image[1]
            (inner if is_inner else edges).append(first)
        return inner, edges

    def _whole(self, axis: int) -> Pair:
        """Return the first and last place along an axis that need no padding; if all do, the last one twice."""
        whole = [place for place in range(self.result[axis]) if all(self.inside(axis, place))]
        return (whole[0], whole[-1]) if whole else (self.result[axis] - 1, self.result[axis] - 1)

    def _bounds(self, axis: int, *, padded: bool) -> Pair:
        return (-self.begins[axis], self.image[axis] + self.ends[axis]) if padded else (0, self.image[axis])


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
        accumulator_dtype: the element type in which a window is computed.
        weights: the weights; None for a pool, as is the bias.
        scales: the scales of sums of bytes, by channel; None for floats.
        offsets: the numbers that sums of bytes start from, by kind of row, kind of column, and channel; None for 0.
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

        Axes by size make the tasks: image, panel and row, in any order, and perhaps tile, if there are no edges.
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
