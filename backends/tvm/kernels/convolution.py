"""Convolutions with constant weights in float32, bfloat16 or bytes, on images in blocks of channels (NCHWc).

A tile of the result, some pixels of a row by some blocks of channels, stays in registers while the kernel walks taps
and channels (Georganas et al., "Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures", 2018).
Sums of bytes start from offsets that undo the images' zero point for the taps that lie on the image, and are scaled to
float32, by a scale for each filter, before the epilogue is computed on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import gcd, lcm, prod

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..runtime.packing import OffsetsForm, packed
from .epilogue import Epilogue, Result
from .instructions.base import FMA, Instruction
from .machine import Machine
from .prim_func import argument, kernel, symbol
from .tiles import fits
from .vectors import Scalar, ceil_div, ramp
from .windows import Line, RowTiles, Sums, Window, channel_rows


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution's sizes, with a batch of None where it isn't known, and what multiplies and adds.

    Attributes:
        groups: the number of groups, each of whole blocks of channels and with filters of its own.
        depth: channels that a filter reads.
        block: channels of a block of the images; 0 where they are the second axis.
        has_offsets: whether sums of bytes start from anything but 0.
        wide: filters of a group, whole blocks of them, if the last group has fewer than the others; otherwise 0.
        dtype: the element type of the images.
    """

    batch: int | None
    channels: int
    filters: int
    groups: int
    depth: int
    window: Window
    block: int
    instruction: Instruction = FMA
    has_offsets: bool = False
    wide: int = 0
    dtype: str = "float32"

    def group_blocks(self, lanes: int) -> int:
        """Return how many blocks a group's filters fill; the last group may have fewer."""
        return ceil_div(self.wide or self.filters // self.groups, lanes)

    @property
    def weight_count(self) -> int:
        return self.filters * self.depth * prod(self.window.kernel)

    @property
    def flat(self) -> Window:
        """The windows, with sizes to estimate by; those of one pixel as on an image with one row."""
        window = self.window.assumed
        return window.flat if window.is_point else window

    @property
    def steps(self) -> tuple[int, int]:
        """The channels that a filter reads: a number of blocks, and the channels of each."""
        return (ceil_div(self.depth, self.block), self.block) if self.block else (1, self.depth)

    @property
    def run(self) -> int:
        """Pixels of a row that are best loaded together; 1 unless they are contiguous in memory."""
        is_dense = (self.block or 1) == self.instruction.k_per_instruction and self.window.strides[1] == 1
        return self.instruction.unroll_k if is_dense else 1


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the result that registers hold: pixels of a row, and blocks of channels."""

    columns: int
    blocks: int


@dataclass(frozen=True, slots=True)
class SparseTile(Tile):
    """A tile whose weights are held without the blocks that are zero (`sparse_gemm.py`)."""

    is_sparse: bool = True


def merged(groups: int, weights: np.ndarray, channels: int, lanes: int) -> tuple[int, int, np.ndarray]:
    """Merge neighbouring groups until no group begins or ends within a block of channels.

    Return the number of merged groups, the filters of each if the last one has fewer (0 otherwise), and the weights,
    with zeros for the channels of other groups.
    """
    filters, depth, *kernel = weights.shape
    wide = filters // groups
    count = lcm(lanes // gcd(lanes, depth), lanes // gcd(lanes, wide))
    if count == 1 or groups == 1:
        return groups, 0, weights
    wholes = ceil_div(groups, count)
    spread = np.zeros((filters, channels if wholes == 1 else count * depth, *kernel), weights.dtype)
    for group in range(groups):
        first, rows = group % count * depth, slice(group * wide, (group + 1) * wide)
        spread[rows, first : first + depth] = weights[rows]
    return wholes, 0 if wholes * count == groups or wholes == 1 else count * wide, spread


@lru_cache
def tiles(sizes: Convolution, machine: Machine) -> tuple[Tile, ...]:
    """Return all tiles that fit into the registers, the one with the least estimated time first."""
    columns = range(1, min(sizes.flat.result[1], machine.registers) + 1)
    blocks = gcd(sizes.group_blocks(machine.lanes), ceil_div(sizes.filters, machine.lanes))
    counts = (count for count in range(1, machine.registers) if blocks % count == 0)
    found = [Tile(width, count) for count, width in product(counts, columns) if fits(width, count, machine)]
    return tuple(sorted(found, key=lambda tile: cost(sizes, tile, machine)))


def cost(sizes: Convolution, tile: Tile, machine: Machine) -> tuple[float, float]:
    """Estimate rounds of multiply-adds per tap and channel for the busiest thread, then loads per multiply-add."""
    loads, products = ceil_div(tile.columns, sizes.run) + tile.blocks, tile.columns * tile.blocks
    fetched = machine.costs.load * tile.blocks if sizes.window.result == (1, 1) else 0
    work = max(products, loads, fetched, machine.costs.latency)
    if sizes.window.is_point and sizes.instruction == FMA:
        work += tile.blocks + machine.costs.stall * max(tile.columns - machine.costs.streams, 0)
    return _most_tiles(sizes, tile, machine) * work, loads / products


def _most_tiles(sizes: Convolution, tile: Tile, machine: Machine) -> int:
    """Return how many tiles the busiest thread computes."""
    window = sizes.flat
    inner, edges = window.tiles(tile.columns)
    rows = (sizes.batch or 1) * (ceil_div(sizes.filters, machine.lanes) // tile.blocks) * window.result[0]
    tasks, count = (rows, len(inner) + len(edges)) if edges else (rows * len(inner), 1)
    return ceil_div(tasks, machine.threads) * count


def sparse_tiles(sizes: Convolution, weights: np.ndarray, machine: Machine) -> list[SparseTile]:
    """Return the tiles with which leaving blocks of zeros out of weights of one tap pays, the best one first."""
    window, is_known = sizes.flat, all(map(sizes.window.is_known, range(2)))
    if window.kernel != (1, 1) or not is_known or sizes.groups > 1 or not sizes.block or window.tiles(1)[1]:
        return []  # the last where pixels are padding
    dense, costs = tiles(sizes, machine), machine.costs
    found = [SparseTile(tile.columns, tile.blocks) for tile in dense if tile.blocks <= costs.sparse_vectors]
    widths = {tile.blocks: tile for tile in found}
    held = {count: float(held_blocks(weights, sizes, tile, machine).mean()) for count, tile in widths.items()}

    def time(tile: SparseTile) -> float:
        work = tile.columns * tile.blocks + costs.sparse_load * (tile.columns + tile.blocks)
        return held[tile.blocks] * _most_tiles(sizes, tile, machine) * max(work, costs.latency)

    limit = costs.sparse_gain * _most_tiles(sizes, dense[0], machine) * dense[0].columns * dense[0].blocks
    return sorted((tile for tile in found if time(tile) < limit), key=time)


def prepared(weights: np.ndarray, sizes: Convolution, tile: Tile, machine: Machine) -> list[np.ndarray]:
    """Return a kernel's weights as `[panel, block, column, row, step, filter of the panel and channel of the step]`.

    Of a sparse tile, return the blocks that aren't zero, the places of their channels in an image, and where each
    panel's blocks begin.
    """
    arranged, instruction = _arranged(weights, sizes, tile, machine), sizes.instruction
    if not isinstance(tile, SparseTile):
        return [instruction.pack(arranged)]
    panel, block, step = np.nonzero(held_blocks(weights, sizes, tile, machine))
    places = block * prod(sizes.window.image) * sizes.block + step * instruction.k_per_instruction
    starts = np.searchsorted(panel, np.arange(len(arranged) + 1))
    return [instruction.pack(arranged[panel, block, 0, 0, step]), places.astype(np.int32), starts.astype(np.int32)]


def _arranged(weights: np.ndarray, sizes: Convolution, tile: Tile, machine: Machine) -> np.ndarray:
    """Arrange weights as `[panel, block, column, row, step, filter of the panel, channel of the step]`."""
    (blocks, step), together = sizes.steps, sizes.instruction.k_per_instruction
    width = tile.blocks * machine.lanes
    filters, depth, *kernel = weights.shape
    padded = np.pad(weights, ((0, -filters % width), (0, blocks * step - depth), (0, 0), (0, 0)))
    parts = padded.reshape(-1, width, blocks, step // together, together, *kernel)
    return parts.transpose(0, 2, 6, 5, 3, 1, 4)


def held_blocks(weights: np.ndarray, sizes: Convolution, tile: Tile, machine: Machine) -> np.ndarray:
    """Return which blocks of weights `[filter, channel, 1, 1]` aren't zero: `[panel, block of channels, step]`."""
    return np.asarray(_arranged(weights, sizes, tile, machine).any((2, 3, 5, 6)))


def offsets_form(zero_point: int, window: Window, lanes: int) -> OffsetsForm:
    """Return the form of the offsets that sums start from to undo the images' zero point, made from sums of weights."""
    rows, columns = (tuple(tuple(map(bool, kind)) for kind in window.taps(axis)) for axis in range(2))
    return OffsetsForm(zero_point, rows, columns, lanes)


def start_offsets(weights: np.ndarray, zero_point: int, window: Window, lanes: int) -> np.ndarray:
    """Return the offsets that sums of weights `[filter, channel, *taps]` start from."""
    return packed(weights.sum(1, dtype=np.int32), offsets_form(zero_point, window, lanes))


@kernel
def convolution_kernel(sizes: Convolution, tile: Tile, machine: Machine, epilogue: Epilogue) -> None:
    """Emit a kernel of images, packed weights, `channel_rows` and the epilogue's operands to images in blocks."""
    lanes, instruction, whole = machine.lanes, sizes.instruction, sizes.window.bound()
    window = whole.flat if sizes.window.is_point else whole
    batch, outer, (blocks, step) = symbol("batch", sizes.batch), ceil_div(sizes.filters, lanes), sizes.steps
    panels, width = outer // tile.blocks, tile.blocks * lanes * instruction.k_per_instruction
    images = (batch, ceil_div(sizes.channels, sizes.block) if sizes.block else sizes.channels)
    tail = (sizes.block,) if sizes.block > 1 else ()
    view: tuple[Scalar, ...] = (*images, window.image[0], window.image[1] * (sizes.block or 1))
    held: tuple[Scalar, ...] = (panels, blocks, *reversed(sizes.window.kernel), step // instruction.k_per_instruction)
    if is_sparse := isinstance(tile, SparseTile):
        view, held = (batch, prod(view[1:])), (tirx.Var("held", "int64"),)
    x = argument("x", (*images, *whole.image, *tail), sizes.dtype, view)
    weights = argument("weights", (*held, width), instruction.rhs_dtype)
    index = (argument("places", held, "int32"), argument("starts", (panels + 1,), "int32")) if is_sparse else ()
    is_integer = instruction.accumulator_dtype == "int32"
    rows = channel_rows(window.window, outer * lanes, is_integer=is_integer, has_offsets=sizes.has_offsets)
    result = Result.declare(epilogue, *((batch, outer, *part.result, lanes) for part in (whole, window)))
    parts = (tile.columns, tile.blocks, instruction.accumulator_dtype, x, weights, *rows, result, sizes)
    code = _SparseCode(window, lanes, *parts, *index) if is_sparse else _Code(window, lanes, *parts)
    axes: dict[str, Scalar] = {"image": batch, "panel": panels, "row": window.result[0]}
    if code.has_no_edges:
        axes["tile"] = (window.result[1] + (tile.columns - 1)) // tile.columns
    if sizes.weight_count < sizes.channels * prod(sizes.window.assumed.image):
        axes["panel"] = axes.pop("panel")  # innermost: weights stay in the cache while the images are walked
    is_one = all(isinstance(size, int) and size == 1 for size in axes.values())
    code.emit(axes, T.serial if is_one or is_small(sizes, machine) else T.parallel)


def is_small(sizes: Convolution, machine: Machine) -> bool:
    """Whether the convolution is known to be so small that one thread computes it."""
    costs, work = machine.costs, (sizes.batch or 0) * sizes.weight_count * prod(sizes.window.result)
    return 0 < work < costs.convolution_work and sizes.weight_count < costs.convolution_weights


@dataclass(frozen=True, slots=True)
class _Code(RowTiles):
    """Products of taps and channels with all filters of a tile."""

    sizes: Convolution

    def add(self, sums: Sums, at: Line, start: Scalar, edge: Scalar | None) -> None:
        (image, panel, row), window, sizes = at, self.window, self.sizes
        together = sizes.instruction.k_per_instruction
        group = 0 if sizes.groups == 1 else panel * self.blocks // sizes.group_blocks(self.lanes)
        (begin, end), (blocks, channels) = self.bound.span(0, row), sizes.steps
        with T.serial(0, blocks) as block:
            images, steps = group * blocks + block, channels // together
            if sizes.channels % channels:  # the filling of the last block isn't read
                rest = sizes.channels - images * channels + together - 1
                steps = tirx.min(steps, tirx.floordiv(rest, together))
            # Each column of taps has its own loops, or LLVM would keep pixels that columns share in registers it lacks.
            for tap, kept in self.columns_of_taps(sums, edge):
                with T.serial(begin, end) as line, T.serial(0, steps) as step:
                    places = [window.at(1, start + column, tap) for column in kept]
                    pixels = self._pixels((image, images, window.at(0, row, line)), places, step)
                    self._add([sums[column] for column in kept], pixels, (panel, block, tap, line, step))

    def _pixels(self, line: tuple[Scalar, ...], places: Sequence[Scalar], step: Scalar) -> list[tirx.Expr]:
        """Return the left factors of columns of an image, block and row."""
        sizes, together = self.sizes, self.sizes.instruction.k_per_instruction
        run = sizes.run if sizes.run <= len(places) else 1
        left: list[tirx.Expr] = []
        while (done := len(left)) < len(places):
            first = min(done, len(places) - run)  # the last ones overlap those before
            elements = ramp(places[first] * (sizes.block or 1) + step * together, run * together)
            pixels = self.x[(*line, elements) if sizes.block else (line[0], step, line[2], places[first])]
            left += sizes.instruction.broadcast_lhs(pixels, self.lanes)[done - first :]
        return left

    def _add(self, sums: Sums, pixels: Sequence[tirx.Expr], place: tuple[Scalar, ...]) -> None:
        """Add the products of each column's left factor with all filters, whose weights lie in a place."""
        instruction, width = self.sizes.instruction, self.lanes * self.sizes.instruction.k_per_instruction
        assert self.weights is not None
        for totals, pixel in zip(sums, pixels, strict=True):
            for number, total in enumerate(totals):
                filters = self.weights[(*place, ramp(number * width, width))]
                total.set(instruction.multiply_add(total.value, pixel, filters))


@dataclass(frozen=True, slots=True)
class _SparseCode(_Code):
    """Products of one tap with the blocks `starts[panel:]` of weights, whose channels in an image begin at `places`."""

    places: tirx.Buffer
    starts: tirx.Buffer

    def add(self, sums: Sums, at: Line, start: Scalar, edge: Scalar | None) -> None:
        (image, panel, row), instruction = at, self.sizes.instruction
        line = self.window.at(0, row, 0) * self.window.image[1]
        with T.serial(self.starts[panel], self.starts[panel + 1]) as block:
            pixels = [(line + self.window.at(1, start + column, 0)) * self.sizes.block for column in range(len(sums))]
            spots = [ramp(self.places[block] + pixel, instruction.k_per_instruction) for pixel in pixels]
            left = [instruction.broadcast_lhs(self.x[image, spot], self.lanes)[0] for spot in spots]
            self._add(sums, left, (block,))
