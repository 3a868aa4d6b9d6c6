"""Convolutions with constant weights in float32, bfloat16 or bytes, on images in blocks of channels (NCHWc).

A tile of the result, some pixels of a row by some blocks of channels, stays in registers while the kernel walks taps
and channels (Georganas et al., "Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures", 2018).
Tiles at the left and right edge are generated without the taps that would lie in the padding, so that nothing is ever
padded. Sums of bytes are int32 and exact (`instructions/int8_dot.py`); they start from offsets that undo the images'
zero point for the taps that lie on the image. Still in registers, they are scaled to float32, by a scale for each
filter, before the epilogue is computed on them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil, gcd, lcm, prod

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .bfloat16 import BFLOAT16, imported, loaded
from .epilogue import BlockedEpilogue, Epilogue, viewed
from .instructions.base import Instruction
from .instructions.fma import FMA
from .machine import Machine
from .prim_func import kernel, symbol
from .row_tiles import Line, RowTiles, Sums
from .tiles import MOST_VECTORS, ceil_div
from .vectors import Scalar, ramp
from .windows import Window


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution's sizes.

    Attributes:
        batch: images; None where their number isn't known.
        channels: of the images.
        filters: channels of the result.
        groups: groups of whole blocks of channels, each with filters of its own.
        depth: channels that a filter reads.
        window: where the filters lie.
        block: channels of a block of the images; 0 where they are the second axis.
        instruction: what multiplies and adds.
        has_offsets: whether sums of bytes start from anything but 0.
        wide: filters of a group, if the last one has fewer than the others; whole blocks of them.
        dtype: of the images.
        is_strip: whether the images are rows of bytes (`im2row.py`), so that neighbouring columns share a block.
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
    is_strip: bool = False

    def group_blocks(self, lanes: int) -> int:
        """Return how many blocks a group's filters fill; the last group may have fewer."""
        return ceil_div(self.wide or self.filters // self.groups, lanes)

    @property
    def weights(self) -> int:
        return self.filters * self.depth * prod(self.window.kernel)

    @property
    def steps(self) -> tuple[int, int]:
        """The channels that a filter reads: a number of blocks, and the channels of each."""
        return (ceil_div(self.depth, self.block), self.block) if self.block else (1, self.depth)

    @property
    def spacing(self) -> int:
        """Elements from one column of the images to the next."""
        return 1 if self.is_strip or not self.block else self.block

    @property
    def run(self) -> int:
        """Pixels of a row that are best loaded together; 1 unless they are contiguous in memory."""
        is_dense = self.spacing == self.instruction.k_per_instruction and self.window.strides[1] == 1
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
    return tuple(sorted(_tiles(sizes, machine), key=lambda tile: cost(sizes, tile, machine)))


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
    window = _window(sizes)
    inner, edges = window.tiles(tile.columns)
    rows = (sizes.batch or 1) * (ceil_div(sizes.filters, machine.lanes) // tile.blocks) * window.result[0]
    tasks, count = (rows, len(inner) + len(edges)) if edges else (rows * len(inner), 1)
    return ceil_div(tasks, machine.threads) * count


@dataclass(frozen=True, slots=True)
class SparseConvolution:
    """A convolution's sizes, and the percentage of its blocks of weights that aren't zero."""

    convolution: Convolution
    held: int

    @staticmethod
    def of(sizes: Convolution, weights: np.ndarray, tile: SparseTile, machine: Machine) -> "SparseConvolution":
        return SparseConvolution(sizes, ceil(100 * _is_held(weights, sizes, tile, machine).mean()))


def sparse_tiles(sizes: Convolution, weights: np.ndarray, machine: Machine) -> list[SparseTile]:
    """Return the tiles that take less time without the blocks of weights `[filter, channel, 1, 1]` that are zero.

    The one with the least estimated time comes first; there are none where the dense kernel takes no more.
    """
    if sizes.window.kernel != (1, 1) or sizes.groups > 1 or not sizes.block or sizes.is_strip:
        return []
    if _window(sizes).tiles(1)[1]:  # some pixels are padding
        return []
    times: dict[SparseTile, float] = {}
    held: dict[int, float] = {}
    for tile in (SparseTile(tile.columns, tile.blocks) for tile in tiles(sizes, machine)):
        if tile.blocks <= MOST_VECTORS:
            if tile.blocks not in held:
                held[tile.blocks] = float(_is_held(weights, sizes, tile, machine).mean())
            products = tile.columns * tile.blocks
            work = max(products + machine.costs.sparse_load * (tile.columns + tile.blocks), machine.costs.latency)
            times[tile] = held[tile.blocks] * _most_tiles(sizes, tile, machine) * work
    dense = tiles(sizes, machine)[0]
    limit = machine.costs.sparse_gain * _most_tiles(sizes, dense, machine) * dense.columns * dense.blocks
    return sorted((tile for tile, time in times.items() if time < limit), key=lambda tile: times[tile])


def _tiles(sizes: Convolution, machine: Machine) -> Iterator[Tile]:
    """Yield all tiles that fit into the registers, beside a row of weights and a broadcast element."""
    blocks = gcd(sizes.group_blocks(machine.lanes), ceil_div(sizes.filters, machine.lanes))
    widest = min(_window(sizes).result[1], machine.registers)
    for count, columns in product(range(1, machine.registers), range(1, widest + 1)):
        if blocks % count == 0 and columns * count + count + 1 <= machine.registers:
            yield Tile(columns, count)


def _window(sizes: Convolution) -> Window:
    """Return the windows; those of one pixel as on an image with one row."""
    return Window.points((1, prod(sizes.window.image))) if sizes.window.is_point else sizes.window


def packed(weights: np.ndarray, sizes: Convolution, tile: Tile, machine: Machine) -> np.ndarray:
    """Pack weights `[filter, channel, row, column]` as `[panel, block, column, row, channel, filter of the panel]`.

    Channels that one instruction multiplies lie next to each other, behind the filters.
    """
    return sizes.instruction.pack(_arranged(weights, sizes, tile, machine))


def _arranged(weights: np.ndarray, sizes: Convolution, tile: Tile, machine: Machine) -> np.ndarray:
    """Arrange weights as `[panel, block, column, row, step, filter of the panel, channel of the step]`."""
    (blocks, step), together = sizes.steps, sizes.instruction.k_per_instruction
    width = tile.blocks * machine.lanes
    filters, depth, *kernel = weights.shape
    padded = np.zeros((ceil_div(filters, width) * width, blocks * step, *kernel), weights.dtype)
    padded[:filters, :depth] = weights
    parts = padded.reshape(-1, width, blocks, step // together, together, *kernel)
    return parts.transpose(0, 2, 6, 5, 3, 1, 4)


def _is_held(weights: np.ndarray, sizes: Convolution, tile: Tile, machine: Machine) -> np.ndarray:
    """Return which blocks of weights `[filter, channel, 1, 1]` aren't zero: `[panel, block of channels, step]`."""
    return np.asarray(_arranged(weights, sizes, tile, machine).any((2, 3, 5, 6)))


def prepared(weights: np.ndarray, sizes: Convolution, tile: Tile, machine: Machine) -> list[np.ndarray]:
    """Return the arguments of a kernel that hold its weights."""
    if isinstance(tile, SparseTile):
        return _compressed(weights, sizes, tile, machine)
    return [packed(weights, sizes, tile, machine)]


def _compressed(weights: np.ndarray, sizes: Convolution, tile: Tile, machine: Machine) -> list[np.ndarray]:
    """Return the blocks of weights `[filter, channel, 1, 1]` that aren't zero, and where they and their channels lie.

    The places are those of the channels in an image, and of each panel's first block.
    """
    panel, block, step = np.nonzero(_is_held(weights, sizes, tile, machine))
    values = _arranged(weights, sizes, tile, machine)[panel, block, 0, 0, step]
    places = block * prod(sizes.window.image) * sizes.block + step * sizes.instruction.k_per_instruction
    starts = np.searchsorted(panel, np.arange(ceil_div(sizes.filters, tile.blocks * machine.lanes) + 1))
    return [sizes.instruction.pack(values), places.astype(np.int32), starts.astype(np.int32)]


def start_offsets(weights: np.ndarray, zero_point: int, window: Window, lanes: int) -> np.ndarray:
    """Return the offsets that sums start from to undo the images' zero point: `[kind of row, kind of column, filter]`.

    Each is int32: minus the zero point times the sum of the weights `[filter, channel, row, column]` of the taps that
    lie on the image.
    """
    sums = weights.sum(1, dtype=np.int32)
    inside = [np.array(window.taps(axis), np.int32) for axis in range(2)]  # [kind, tap]
    offsets = -zero_point * np.einsum("ri,cj,fij->rcf", *inside, sums)
    padding = -len(sums) % lanes
    return np.pad(offsets, ((0, 0), (0, 0), (0, padding))).astype(np.int32)


@kernel
def convolution_kernel(sizes: Convolution, tile: Tile, machine: Machine, epilogue: Epilogue) -> None:
    """Emit a kernel of images, packed weights, a bias of whole blocks and the epilogue's operands to images in blocks.

    For bytes, scales and, if there are any, offsets follow the bias.
    """
    lanes, instruction, batch = machine.lanes, sizes.instruction, symbol("batch", sizes.batch)
    outer, (blocks, step) = ceil_div(sizes.filters, lanes), sizes.steps
    batch_dims = (batch, ceil_div(sizes.channels, sizes.block)) if sizes.block else (batch, sizes.channels)
    tail = (sizes.block,) if sizes.spacing > 1 else ()
    window = _window(sizes)
    inner, edges = window.tiles(tile.columns)
    together = instruction.k_per_instruction
    x = T.arg("x", T.buffer((*batch_dims, *sizes.window.image, *tail), sizes.dtype))
    panels, width = outer // tile.blocks, tile.blocks * lanes * together
    held: tuple[Scalar, ...] = (panels, blocks, *reversed(window.kernel), step // together)
    if isinstance(tile, SparseTile):
        held = (tirx.Var("held", "int64"),)
    weights = T.arg("weights", T.buffer((*held, width), instruction.rhs_dtype))
    index: tuple[tirx.Buffer, ...] = ()
    if isinstance(tile, SparseTile):
        index = T.arg("places", T.buffer(held, "int32")), T.arg("starts", T.buffer((panels + 1,), "int32"))
    bias = T.arg("bias", T.buffer((outer * lanes,), "float32"))
    scales = offsets = None
    if instruction.accumulator_dtype == "int32":
        scales = T.arg("scales", T.buffer((outer * lanes,), "float32"))
    if sizes.has_offsets:
        kinds = [len(window.taps(axis)) for axis in range(2)]
        offsets = T.arg("offsets", T.buffer((*kinds, outer * lanes), "int32"))
    finish = BlockedEpilogue.of(epilogue, (batch, outer, *sizes.window.result, lanes))
    row = (window.image[0], window.image[1] * sizes.spacing)
    x = viewed(x, (batch, prod((*batch_dims[1:], *row))) if index else (*batch_dims, *row))
    finish = finish.viewed((batch, outer, *window.result, lanes))
    dtype = instruction.accumulator_dtype
    parts = (window, finish, dtype, tile.columns, tile.blocks, x, bias, scales, offsets, sizes, weights)
    code = _SparseCode(*parts, *index) if index else _Code(*parts)
    axes = {"image": batch, "panel": panels, "row": window.result[0], "tile": 1 if edges else len(inner)}
    if sizes.weights < sizes.channels * prod(sizes.window.image):
        axes["panel"] = axes.pop("panel")  # innermost: weights stay in the cache while the images are walked
    count: Scalar = prod(axes.values())
    is_one = isinstance(count, int) and count == 1
    loop = T.serial if is_one or is_small(sizes, machine) else T.parallel
    with imported(machine, sizes.dtype == BFLOAT16 or epilogue.is_coarse), loop(0, count) as task:
        place: dict[str, Scalar] = {}
        for name, size in reversed(axes.items()):
            task, place[name] = task // size, task % size
        at = (place["image"], place["panel"], place["row"])
        if edges:
            code.row(at, inner, edges)
        else:
            code.tile(code.sums(), at, tirx.min(place["tile"] * tile.columns, inner[-1]), None)


def is_small(sizes: Convolution, machine: Machine) -> bool:
    """Whether the convolution is so small that one thread computes it."""
    costs, work = machine.costs, (sizes.batch or 0) * sizes.weights * prod(sizes.window.result)
    return sizes.batch is not None and work < costs.convolution_work and sizes.weights < costs.convolution_weights


@dataclass(frozen=True, slots=True)
class _Code(RowTiles):
    """Products of taps and channels with all filters of a tile."""

    sizes: Convolution
    weights: tirx.Buffer

    def add(self, sums: Sums, at: Line, start: Scalar, edge: int | None) -> None:
        (image, panel, row), lanes, window, sizes = at, self.finish.lanes, self.window, self.sizes
        blocks, instruction = sizes.steps[0], sizes.instruction
        group = 0 if sizes.groups == 1 else panel * self.blocks // sizes.group_blocks(lanes)
        whole, width = ramp(0, lanes), lanes * instruction.k_per_instruction
        begin, end = window.rows(row)
        with T.serial(0, blocks) as block:
            # Each column of taps has its own loops, or LLVM would keep pixels that columns share in registers it lacks.
            for tap in range(window.kernel[1]):
                kept = [column for column in range(len(sums)) if edge is None or window.is_inside(edge + column, tap)]
                if not kept:
                    continue
                with T.serial(begin, end) as line, T.serial(0, self._channels(group * blocks + block)) as step:
                    place = (panel, block, tap, line, step)
                    filters = [self.weights[(*place, ramp(number * width, width))] for number in range(self.blocks)]
                    row_at = window.at(0, row, line)
                    pixels = self._pixels((image, group * blocks + block, row_at), (start, tap), step, kept)
                    for column, pixel in zip(kept, pixels, strict=True):
                        for total, vector in zip(sums[column], filters, strict=True):
                            T.buffer_store(total, instruction.multiply_add(total[whole], pixel, vector), [whole])

    def _pixels(
        self, line: tuple[Scalar, ...], place: tuple[Scalar, int], step: Scalar, columns: list[int]
    ) -> list[tirx.Expr]:
        """Return the left factors of a tap of neighbouring columns of a tile, at an image, block and row."""
        (start, tap), sizes, together = place, self.sizes, self.sizes.instruction.k_per_instruction
        at = [self.window.at(1, start + column, tap) for column in columns]
        run = sizes.run if sizes.run <= len(at) else 1
        left: list[tirx.Expr] = []
        while (done := len(left)) < len(at):
            first = min(done, len(at) - run)  # the last ones overlap those before
            elements = ramp(at[first] * sizes.spacing + step * together, run * together)
            pixels = self.x[(*line, elements) if sizes.block else (line[0], step, line[2], at[first])]
            if sizes.instruction.lhs_dtype == "float32":
                pixels = loaded(pixels, sizes.dtype)
            left += sizes.instruction.broadcast_lhs(pixels, self.finish.lanes)[done - first :]
        return left

    def _channels(self, block: Scalar) -> Scalar:
        """Return the number of steps over the channels of a block; the filling of the last block isn't read."""
        (_, step), channels, together = self.sizes.steps, self.sizes.channels, self.sizes.instruction.k_per_instruction
        if channels % step == 0:
            return step // together
        return tirx.min(step // together, tirx.floordiv(channels - block * step + together - 1, together))


@dataclass(frozen=True, slots=True)
class _SparseCode(_Code):
    """Products of one tap with the blocks of a panel's weights that aren't zero.

    Attributes:
        places: where the first channel of each block lies in an image.
        starts: each panel's first block.
    """

    places: tirx.Buffer
    starts: tirx.Buffer

    def add(self, sums: Sums, at: Line, start: Scalar, edge: int | None) -> None:
        (image, panel, row), whole, sizes = at, ramp(0, self.finish.lanes), self.sizes
        together = sizes.instruction.k_per_instruction
        width, line = self.finish.lanes * together, self.window.at(0, row, 0) * self.window.image[1]
        with T.serial(self.starts[panel], self.starts[panel + 1]) as block:
            filters = [self.weights[block, ramp(number * width, width)] for number in range(self.blocks)]
            for column, totals in enumerate(sums):
                pixel = (line + self.window.at(1, start + column, 0)) * sizes.block
                elements = self.x[image, ramp(self.places[block] + pixel, together)]
                if sizes.instruction.lhs_dtype == "float32":
                    elements = loaded(elements, sizes.dtype)
                (left,) = sizes.instruction.broadcast_lhs(elements, self.finish.lanes)
                for total, vector in zip(totals, filters, strict=True):
                    T.buffer_store(total, sizes.instruction.multiply_add(total[whole], left, vector), [whole])
