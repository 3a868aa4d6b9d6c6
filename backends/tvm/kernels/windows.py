"""Windows on images, and what convolutions and pools have in common: rows computed tile by tile.

Tiles at both edges are generated without the taps that would lie in the padding, so that nothing is ever padded. On
images of unknown width, a row's columns at the edges are computed one by one, and so are all of a narrow image.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias, TypeVar

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .epilogue import Result
from .prim_func import Loop, argument, symbol
from .vectors import Register, Scalar, cast, ceil_div, ramp, zeros

Pair = tuple[int, int]
"""A number for the rows and one for the columns; an image with one axis has one row."""
_ASSUMED = 32
"""The size that an image is assumed to have along an axis, where it isn't known, to estimate what costs less."""
_Place = TypeVar("_Place", int, Scalar)
Line: TypeAlias = tuple[Scalar, Scalar, Scalar]
"""An image, a panel of some blocks of channels, and a row."""
Sums: TypeAlias = Sequence[Sequence[Register]]
"""The accumulators of a tile, by column and block."""


@dataclass(frozen=True, slots=True)
class Window:
    """Windows on an image of two axes, by the sizes of image and result; begins and ends are padding.

    Sizes that aren't known are 0; so is the kernel's, where it is the image's.
    """

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
        return self.kernel == self.strides == (1, 1) and self.begins == self.ends == (0, 0)

    @property
    def assumed(self) -> "Window":
        """The windows with sizes of which all are known, to estimate what these cost."""
        pairs = (self.image, self.result, self.kernel)
        image, result, kernel = ((rows or _ASSUMED, columns or _ASSUMED) for rows, columns in pairs)
        return replace(self, image=image, result=result, kernel=kernel)

    @property
    def flat(self) -> "Window":
        """The windows, which are of one pixel, as on an image with one row."""
        return Window.points((1, prod(self.image)))

    @classmethod
    def points(cls, image: Pair) -> "Window":
        """Return windows of one pixel each."""
        return cls(image, image, (1, 1), (1, 1), (1, 1), (0, 0), (0, 0))

    @classmethod
    def whole_image(cls, image: Pair) -> "Window":
        """Return the one window on a whole image."""
        return cls(image, (1, 1), image, (1, 1), (1, 1), (0, 0), (0, 0))

    def at(self, axis: int, place: _Place, tap: _Place) -> _Place:
        """Return where along an axis of the image a tap of a window lies."""
        return place * self.strides[axis] + tap * self.dilations[axis] - self.begins[axis]

    def inside(self, axis: int, place: int, *, padded: bool = False) -> list[bool]:
        """Return which taps of a window along an axis lie on the image, or on its padding."""
        before, behind = (self.begins[axis], self.ends[axis]) if padded else (0, 0)
        low, high = -before, self.image[axis] + behind
        return [low <= self.at(axis, place, tap) < high for tap in range(self.kernel[axis])]

    def is_known(self, axis: int) -> bool:
        """Whether the sizes along an axis are known."""
        return 0 not in (self.image[axis], self.result[axis])

    def taps(self, axis: int) -> list[list[bool]]:
        """Return which taps lie on the image, for each kind of place along an axis of the result."""
        if not self.is_known(axis):
            taps, (before, behind) = self.kernel[axis], self.most_missing(axis)
            spans = [range(first, taps - last) for first in range(before + 1) for last in range(behind + 1)]
            return [[tap in span for tap in range(taps)] for span in spans]
        places = [self.inside(axis, place) for place in range(self.result[axis])]
        first, last = self.whole(axis)
        return [*places[: first + 1], *places[last + 1 :]]

    def tiles(self, columns: int) -> tuple[list[int], list[int]]:
        """Return the first columns of tiles of a row, which may overlap: those without padding, and the others."""
        inner, edges = list[int](), list[int]()
        for start in range(0, self.result[1], columns):
            first = min(start, self.result[1] - columns)
            end = self.at(1, first + columns - 1, self.kernel[1] - 1)
            is_inner = self.at(1, first, 0) >= 0 and end < self.image[1]
            (inner if is_inner else edges).append(first)
        return inner, edges

    def whole(self, axis: int) -> Pair:
        """Return the first and last place along an axis that need no padding; if all do, the last one twice."""
        whole = [place for place in range(self.result[axis]) if all(self.inside(axis, place))]
        return (whole[0], whole[-1]) if whole else (self.result[axis] - 1, self.result[axis] - 1)

    def most_missing(self, axis: int) -> Pair:
        """Return how many taps of a window lie at most before the image along an axis, and how many behind it."""
        gap, taps = self.dilations[axis], self.kernel[axis]
        return min(ceil_div(self.begins[axis], gap), taps), min(ceil_div(self.ends[axis], gap), taps)

    def bound(self) -> "BoundWindow":
        """Return the windows in a kernel, with variables for the sizes that aren't known."""
        names = zip(("height", "width", "rows", "columns"), (*self.image, *self.result), strict=True)
        height, width, rows, columns = (symbol(name, size or None) for name, size in names)
        return BoundWindow(self, (height, width), (rows, columns))


@dataclass(frozen=True, slots=True)
class BoundWindow:
    """Windows in a kernel, which has variables for the sizes that aren't known."""

    window: Window
    image: tuple[Scalar, Scalar]
    result: tuple[Scalar, Scalar]

    @property
    def flat(self) -> "BoundWindow":
        """The windows, which are of one pixel, as on an image with one row."""
        image = (1, prod(self.image))
        return BoundWindow(self.window.flat, image, image)

    @property
    def kernel(self) -> tuple[Scalar, Scalar]:
        """The sizes of the kernel."""
        rows, columns = (taps or whole for taps, whole in zip(self.window.kernel, self.image, strict=True))
        return rows, columns

    def span(self, axis: int, place: Scalar, *, padded: bool = False) -> tuple[Scalar, Scalar]:
        """Return the first tap of a window along an axis on the image, or its padding, and the one behind the last."""
        window, taps, size = self.window, self.kernel[axis], self.image[axis]
        before, behind = (window.begins[axis], window.ends[axis]) if padded else (0, 0)
        start, gap, high = window.at(axis, place, 0), window.dilations[axis], size + behind
        begin = 0 if window.begins[axis] <= before else tirx.max(tirx.floordiv(-before - start + (gap - 1), gap), 0)
        is_whole = window.ends[axis] <= behind
        if window.is_known(axis):
            is_whole = window.at(axis, window.result[axis] - 1, window.kernel[axis] - 1) < window.image[axis] + behind
        return begin, taps if is_whole else tirx.min(tirx.floordiv(high - start + (gap - 1), gap), taps)

    def kind(self, axis: int, place: Scalar | None) -> Scalar:
        """Return the kind of a place: each that reaches into the padding is its own, None is any other."""
        window = self.window
        if not window.is_known(axis):
            before, behind = window.most_missing(axis)
            first, last = (0, window.kernel[axis]) if place is None else self.span(axis, place)
            return tirx.min(first, before) * (behind + 1) + tirx.min(window.kernel[axis] - last, behind)
        first, last = window.whole(axis)
        if place is None:
            return first
        least, most = (min, max) if isinstance(place, int) else (tirx.min, tirx.max)
        return least(place, first) + most(place - last, 0)

    def middle(self, columns: int) -> tuple[Scalar, Scalar]:
        """Return where the columns of a row begin and end that need no padding: none if they are fewer than some."""
        window, stride = self.window, self.window.strides[1]
        begin, reach = ceil_div(window.begins[1], stride), window.at(1, 0, self.kernel[1] - 1)
        end = tirx.min(tirx.floordiv(self.image[1] - reach + (stride - 1), stride), self.result[1])
        is_wide = (end - begin >= columns).astype("int64")
        return begin * is_wide, end * is_wide


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
        bound: the windows.
        lanes: channels of a block.
        accumulator_dtype: the element type in which a window is computed.
        weights: the weights; None for a pool, as is the bias.
        scales: the scales of sums of bytes, by channel; None for floats.
        offsets: the numbers that sums of bytes start from, by kind of row, kind of column, and channel; None for 0.
    """

    bound: BoundWindow
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

    @property
    def window(self) -> Window:
        return self.bound.window

    @property
    def tiles(self) -> tuple[list[int], list[int]]:
        """The first columns of tiles of a row of known width: those without padding, and the others."""
        return self.window.tiles(self.columns)

    @property
    def middle(self) -> tuple[Scalar, Scalar]:
        """Where the columns without padding of a row of unknown width begin and end."""
        return self.bound.middle(self.columns)

    @property
    def has_no_edges(self) -> bool:
        """Whether all windows of a row lie on the image."""
        if self.window.is_known(1):
            return not self.tiles[1]
        return self.window.begins[1] == self.window.ends[1] == 0

    def initialise(self, block: Scalar, row: Scalar, column: Scalar | None) -> tirx.Expr:
        """Return what a window starts from; a column of None stands for one without padding at the sides.

        Offsets undo the zero point of bytes, and depend on how many taps of the window lie on the image.
        """
        channels = ramp(block * self.lanes, self.lanes)
        if self.offsets is not None:
            return self.offsets[self.bound.kind(0, row), self.bound.kind(1, column), channels]
        if self.bias is not None and self.scales is None:
            return self.bias[channels]
        return zeros(self.accumulator_dtype, self.lanes)

    @abstractmethod
    def add(self, sums: Sums, at: Line, start: Scalar, edge: Scalar | None) -> None:
        """Emit the taps of all windows of a tile; at an edge, that of a row of unknown width has one column."""

    def columns_of_taps(self, sums: Sums, edge: Scalar | None) -> Iterator[tuple[Scalar, list[int]]]:
        """Yield each tap along a row, in a loop or as a number, with the columns of a tile for which it counts."""
        taps = self.bound.kernel[1]
        if isinstance(edge, tirx.Expr):
            with T.serial(*self.bound.span(1, edge)) as tap:
                yield tap, [0]
        elif isinstance(taps, tirx.Expr):
            with T.serial(0, taps) as tap:
                yield tap, list(range(len(sums)))
        else:
            for tap in range(taps):
                kept = [it for it in range(len(sums)) if edge is None or self.window.inside(1, edge + it)[tap]]
                if kept:
                    yield tap, kept

    def store_c(self, total: tirx.Expr, block: Scalar, row: Scalar, column: Scalar | None) -> tirx.Expr:
        """Return the result for a window."""
        if self.scales is None or self.bias is None:
            return total
        channels = ramp(block * self.lanes, self.lanes)
        return cast(total, "float32") * self.scales[channels] + self.bias[channels]

    def emit(self, axes: dict[str, Scalar], loop: Loop) -> None:
        """Emit all tiles: those in the middle of rows in loops, those at edges one by one.

        Axes by size make the tasks: image, panel and row, in any order, and perhaps tile, if there are no edges.
        """
        with loop(0, prod(axes.values())) as task:
            place: dict[str, Scalar] = {}
            for name, size in reversed(axes.items()):
                task, place[name] = task // size, task % size
            columns, blocks = range(self.columns), range(self.blocks)
            sums = [[Register(T.alloc_buffer((self.lanes,), self.accumulator_dtype)) for _ in blocks] for _ in columns]
            at, step = (place["image"], place["panel"], place["row"]), place.get("tile")
            if self.window.is_known(1):
                self._row(sums, at, step)
            else:
                self._row_of_unknown_width(sums, at, step)

    def _row(self, sums: Sums, at: Line, step: Scalar | None) -> None:
        """Emit the tiles of a row of known width, or one of them."""
        inner, edges = self.tiles
        for edge in edges:
            self.tile(sums, at, edge, edge)
        if step is not None:
            self.tile(sums, at, tirx.min(step * self.columns, inner[-1]), None)
        elif inner:
            with T.serial(0, len(inner)) as number:
                self.tile(sums, at, tirx.min(inner[0] + number * self.columns, inner[-1]), None)

    def _row_of_unknown_width(self, sums: Sums, at: Line, step: Scalar | None) -> None:
        """Emit columns at the edges of a row of unknown width one by one, and its other tiles, or one of them."""
        begin, end = self.middle
        steps = tirx.floordiv(end - begin + (self.columns - 1), self.columns)
        with T.serial(0, self.bound.result[1] - (end - begin)) as number:
            column = number + (number >= begin).astype("int64") * (end - begin)
            self.tile(sums[:1], at, column, column)
        with T.serial(0, steps) if step is None else T.serial(step, tirx.min(step + 1, steps)) as number:
            self.tile(sums, at, tirx.min(begin + number * self.columns, end - self.columns), None)

    def tile(self, sums: Sums, at: Line, start: Scalar, edge: Scalar | None) -> None:
        """Emit one tile from a column on, which is given once more at an edge."""
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
