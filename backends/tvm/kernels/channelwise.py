"""Windows that stay within a channel: depthwise convolutions and pools, on images in blocks of channels (NCHWc).

Each window of a block of channels is one vector. VNNI multiplies bytes with int8 weights four taps of a row at a time:
the 64 bytes of four neighbouring pixels of a block are transposed, so that each channel's four lie together. At the
edges the four pixels are the nearest that lie on the image, and the weights are shifted against them, with zeros for
taps beyond the edge. In rows of unknown width, the taps of columns at the edges are multiplied one by one.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..runtime.packing import FoursForm
from .epilogue import Epilogue, Result
from .instructions.base import FMA
from .instructions.int8_dot import K_PER_DOT, Vpdpbusd
from .machine import Machine
from .prim_func import argument, kernel, maybe_parallel, symbol
from .vector_math import loaded
from .vectors import BFLOAT16, Register, Scalar, cast, ceil_div, held, number, ramp, spread
from .windows import Line, RowTiles, Sums, Window, channel_rows

DEPTHWISE, QUADS, MAXIMUM = "depthwise", "integer_depthwise", "max_pool"
MEAN, PADDED_MEAN = "average_pool", "padded_average_pool"
"""What is computed of a window: products with weights, one by one or four at a time; a maximum; a mean of pixels, or of
pixels and padding."""
LANES = 16
"""Channels of a block that VNNI multiplies."""
_TURNED = [pixel * LANES + channel for channel in range(LANES) for pixel in range(K_PER_DOT)]
_DOTS = Vpdpbusd(LANES)
_MOST = 14
"""The most columns of a tile of four taps: registers also hold weights, pixels and the transposition's indices."""


@dataclass(frozen=True, slots=True)
class Channelwise:
    """The sizes, and what is computed of each window: one of the constants above.

    Maxima keep integers; means and convolutions take their distances to the zero point.
    """

    batch: int | None
    blocks: int
    window: Window
    kind: str
    dtype: str = "float32"
    zero_point: int = 0

    @property
    def is_float(self) -> bool:
        """Whether pixels enter the float32 arithmetic as they are."""
        return self.dtype in ("float32", BFLOAT16)


@kernel
def channelwise_kernel(sizes: Channelwise, machine: Machine, epilogue: Epilogue = Epilogue()) -> None:
    """Emit a kernel of images and the epilogue's operands to images in blocks.

    In front of these, a depthwise convolution takes weights `[block, row, column, lane]` or packed, and `channel_rows`.
    """
    window, lanes, batch = sizes.window, machine.lanes, symbol("batch", sizes.batch)
    bound, quads, is_quads = window.bound(), Quads(window), sizes.kind == QUADS
    most = _MOST if is_quads else machine.registers // 2  # beside pixels and weights
    columns = ceil_div(window.assumed.result[1], ceil_div(window.assumed.result[1], most))
    height, width = bound.image
    view = (batch, sizes.blocks, height, width * lanes) if is_quads else None
    x = argument("x", (batch, sizes.blocks, height, width, lanes), sizes.dtype, view)
    weights, rows = None, (None, None, None)
    if is_quads:
        form = (sizes.blocks, len(quads.kinds), window.kernel[0], len(quads.kinds[0]), lanes * K_PER_DOT)
        weights = argument("weights", form, "int8")
        rows = channel_rows(window, sizes.blocks * lanes, is_integer=True, has_offsets=bool(sizes.zero_point))
    elif sizes.kind == DEPTHWISE:
        weights = argument("weights", (sizes.blocks, *window.kernel, lanes))
        rows = channel_rows(window, sizes.blocks * lanes)
    result = Result.declare(epilogue, (batch, sizes.blocks, *bound.result, lanes))
    dtype = sizes.dtype if sizes.kind == MAXIMUM else "int32"  # of maxima and sums
    dtype = "float32" if sizes.kind == DEPTHWISE or sizes.is_float else dtype
    parts = (bound, lanes, columns, 1, dtype, x, weights)
    code = _QuadCode(*parts, *rows, result, quads) if is_quads else _Code(*parts, *rows, result, sizes)
    axes: dict[str, Scalar] = {"image": batch, "panel": sizes.blocks, "row": bound.result[0]}
    operations = prod((*axes.values(), bound.result[1], *bound.kernel))
    code.emit(axes, maybe_parallel(operations, machine.costs.vector_work))


@dataclass(frozen=True, slots=True)
class _Code(RowTiles):
    """Pools, and convolutions in float32."""

    sizes: Channelwise

    def initialise(self, block: Scalar, row: Scalar, column: Scalar | None) -> tirx.Expr:
        if self.sizes.kind != MAXIMUM:
            return RowTiles.initialise(self, block, row, column)
        is_float = self.accumulator_dtype == "float32"
        return spread(T.float32(float("-inf")) if is_float else tirx.min_value(self.accumulator_dtype), self.lanes)

    def add(self, sums: Sums, at: Line, start: Scalar, edge: Scalar | None) -> None:
        with T.serial(*self.bound.span(0, at[2])) as line:
            if isinstance(edge, tirx.Expr) or isinstance(self.bound.kernel[1], tirx.Expr):
                for tap, kept in self.columns_of_taps(sums, edge):
                    for column in kept:
                        self._add_taps(sums[column][0], at, line, start + column, [tap])
                return
            for column, (total,) in enumerate(sums):
                kept = [edge is None or is_inside for is_inside in self.window.inside(1, (edge or 0) + column)]
                self._add_taps(total, at, line, start + column, [tap for tap, is_kept in enumerate(kept) if is_kept])

    def _add_taps(self, total: Register, at: Line, line: Scalar, column: Scalar, taps: Sequence[Scalar]) -> None:
        """Add some taps of a row of a window."""
        (image, block, row), window, whole = at, self.window, ramp(0, self.lanes)
        places = [(window.at(0, row, line), window.at(1, column, tap), whole) for tap in taps]
        pixels = [self._pixel((image, block, *place)) for place in places]
        if taps and self.sizes.kind in (MEAN, PADDED_MEAN):  # so that rows don't wait for each other
            pixels = [reduce(operator.add, pixels)]
        for tap, pixel in zip(taps, pixels, strict=False):
            total.set(self._step(total.value, pixel, (block, line, tap, whole)))

    def _pixel(self, place: tuple[Scalar, ...]) -> tirx.Expr:
        """Return a vector of the images; in sums, integers are their distances to the zero point."""
        pixel, sizes = loaded(self.x[place]), self.sizes
        if sizes.is_float or sizes.kind == MAXIMUM:
            return pixel
        wide = cast(pixel, "int32")
        return wide - number(sizes.zero_point, wide) if sizes.zero_point else wide

    def _step(self, total: tirx.Expr, pixel: tirx.Expr, tap: tuple[Scalar, ...]) -> tirx.Expr:
        if self.weights is not None:
            return FMA.multiply_add(total, cast(pixel, "float32"), self.weights[tap])
        if self.sizes.kind != MAXIMUM:
            return total + pixel
        if not self.sizes.is_float:
            return tirx.Select(total > pixel, total, pixel)
        # NaN wins, on either side.
        return tirx.Select(total >= pixel, total, tirx.Select(tirx.isnan(total), total, pixel))

    def store_c(self, total: tirx.Expr, block: Scalar, row: Scalar, column: Scalar | None) -> tirx.Expr:
        """Turn a window's sum into a mean, where that is wanted."""
        if self.sizes.kind not in (MEAN, PADDED_MEAN):
            return total
        is_padded = self.sizes.kind == PADDED_MEAN
        begin, end = self.bound.span(0, row, padded=is_padded)
        first, last = (0, self.bound.kernel[1]) if column is None else self.bound.span(1, column, padded=is_padded)
        taps = (end - begin) * (last - first)
        count = T.float32(taps) if isinstance(taps, int) else taps.astype("float32")
        return cast(total, "float32") / spread(count, self.lanes)


@dataclass(frozen=True, slots=True)
class Quads:
    """The taps of windows, four at a time."""

    window: Window

    @property
    def is_possible(self) -> bool:
        """Whether there is a kernel: for taps side by side, on images of four columns or more, or of any width."""
        is_wide = not self.window.is_known(1) or self.window.image[1] >= K_PER_DOT
        return is_wide and self.window.dilations[1] == 1

    @property
    def whole(self) -> Window:
        """The windows with so many taps in a row that all fours are whole."""
        taps = ceil_div(self.window.kernel[1], K_PER_DOT) * K_PER_DOT
        return replace(self.window, kernel=(self.window.kernel[0], taps))

    def shifts(self, column: int) -> tuple[int, ...]:
        """Return, for each four taps of a window, how far from these the four pixels lie that are read."""
        starts = [self.window.at(1, column, tap) for tap in range(0, self.window.kernel[1], K_PER_DOT)]
        return tuple(min(max(start, 0), self.window.image[1] - K_PER_DOT) - start for start in starts)

    @property
    def kinds(self) -> list[tuple[int, ...]]:
        """The different shifts of columns; those of the first kind are 0."""
        none = (0,) * ceil_div(self.window.kernel[1], K_PER_DOT)
        columns = range(self.window.result[1] if self.window.is_known(1) else 0)
        return list(dict.fromkeys((none, *map(self.shifts, columns))))

    @property
    def form(self) -> FoursForm:
        """The form in which the kernel reads weights."""
        return FoursForm(tuple(self.kinds), LANES)


@dataclass(frozen=True, slots=True)
class _QuadCode(RowTiles):
    """Four taps at once, of pixels that are transposed once for all windows of a tile."""

    quads: Quads

    @property
    def tiles(self) -> tuple[list[int], list[int]]:
        return self.quads.whole.tiles(self.columns)

    @property
    def middle(self) -> tuple[Scalar, Scalar]:
        return replace(self.bound, window=self.quads.whole).middle(self.columns)

    def add(self, sums: Sums, at: Line, start: Scalar, edge: Scalar | None) -> None:
        (image, block, row), window, kinds = at, self.window, self.quads.kinds
        assert self.weights is not None
        with T.serial(*self.bound.span(0, row)) as line:
            if isinstance(edge, tirx.Expr):
                self._add_taps(sums[0][0], at, line, edge)
                return
            turned: dict[int, tirx.Expr] = {}
            for part, (column, (total,)) in product(range(len(kinds[0])), enumerate(sums)):
                shifts = kinds[0] if edge is None else self.quads.shifts(edge + column)
                if abs(shifts[part]) >= K_PER_DOT:
                    continue
                pixel = column * window.strides[1] + part * K_PER_DOT + shifts[part]
                if pixel not in turned:
                    first = window.at(1, start, part * K_PER_DOT) + pixel - part * K_PER_DOT
                    place = (image, block, window.at(0, row, line), ramp(first * LANES, LANES * K_PER_DOT))
                    turned[pixel] = held(tirx.Shuffle([T.reinterpret(self.x[place], dtype="int8x64")], _TURNED))
                weights = self.weights[block, kinds.index(shifts), line, part, ramp(0, LANES * K_PER_DOT)]
                total.set(_DOTS.multiply_add(total.value, turned[pixel], weights))

    def _add_taps(self, total: Register, at: Line, line: Scalar, column: Scalar) -> None:
        """Add the taps of a row of a window that lie on the image."""
        (image, block, row), window = at, self.window
        assert self.weights is not None
        with T.serial(*self.bound.span(1, column)) as tap:
            first = window.at(1, column, tap) * LANES
            pixel = self.x[image, block, window.at(0, row, line), ramp(first, LANES)]
            place = T.ramp(tap % K_PER_DOT, K_PER_DOT, LANES)
            weight = self.weights[block, 0, line, tap // K_PER_DOT, place]
            total.set(total.value + cast(pixel, "int32") * cast(weight, "int32"))
