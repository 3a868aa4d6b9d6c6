"""Convolutions with constant weights in float32, bfloat16 or bytes, on images in blocks of channels (NCHWc).

A tile of the result, some pixels of a row by some blocks of channels, stays in registers while the kernel walks taps
and channels (Georganas et al., "Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures", 2018).
Tiles at the left and right edge are generated without the taps that would lie in the padding, so that nothing is ever
padded. Sums of bytes are int32 and exact (`dots.py`); they start from offsets that undo the images' zero point for the
taps that lie on the image. Still in registers, they are scaled to float32, by a scale for each filter, before the
epilogue is computed on them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from math import gcd, lcm

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .bfloat16 import BFLOAT16, Bf16Dot, imported, loaded
from .blocked_epilogue import BlockedEpilogue, operand_images, seen
from .epilogue import Epilogue
from .int8_dot import Instruction
from .machine import Machine
from .tiles import LATENCY, OPAQUE, ceil_div
from .vectors import Scalar, cast, ramp, spread
from .windows import Window

_SMALL, _FEW = 1 << 17, 1 << 15
"""Multiply-adds, and weights, below which waking other threads costs more than they save."""
_LOAD = 3
"""Multiply-adds that take as long as loading a vector of weights that is used once."""
_STREAMS, _STALL = 10, 0.5
"""Pixels that are read side by side without cache misses, and the cost of each further one in multiply-adds."""


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
        instruction: what multiplies bytes, or bfloat16 in pairs; None where each channel is multiplied by itself.
        has_offsets: whether sums of bytes start from anything but 0.
        wide: filters of a group, if the last one has fewer than the others; whole blocks of them.
        dtype: of the images.
        is_strip: whether the images are rows of bytes (`strips.py`), so that neighbouring columns share a block.
    """

    batch: int | None
    channels: int
    filters: int
    groups: int
    depth: int
    window: Window
    block: int
    instruction: Instruction | Bf16Dot | None = None
    has_offsets: bool = False
    wide: int = 0
    dtype: str = "float32"
    is_strip: bool = False

    def group_blocks(self, lanes: int) -> int:
        """Return how many blocks a group's filters fill; the last group may have fewer."""
        return ceil_div(self.wide or self.filters // self.groups, lanes)

    @property
    def steps(self) -> tuple[int, int]:
        """The channels that a filter reads: a number of blocks, and the channels of each."""
        return (ceil_div(self.depth, self.block), self.block) if self.block else (1, self.depth)

    @property
    def spacing(self) -> int:
        """Elements from one column of the images to the next."""
        return 1 if self.is_strip or not self.block else self.block

    @property
    def k_per_instruction(self) -> int:
        """Channels that one instruction multiplies at once."""
        return 1 if self.instruction is None else self.instruction.k_per_instruction

    @property
    def accumulator_dtype(self) -> str:
        """The type of the sums."""
        return "float32" if self.instruction is None else self.instruction.accumulator_dtype

    @property
    def run(self) -> int:
        """Pixels of a row that are best loaded together; 1 unless they are contiguous in memory."""
        is_dense = (
            self.instruction is not None and self.spacing == self.k_per_instruction and self.window.strides[1] == 1
        )
        return self.instruction.run if self.instruction is not None and is_dense else 1


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the result that registers hold: pixels of a row, and blocks of channels."""

    columns: int
    blocks: int


def merged(groups: int, weights: np.ndarray, channels: int, lanes: int) -> tuple[int, int, np.ndarray]:
    """Merge neighbouring groups until no group begins or ends within a block of channels.

    Return the number of merged groups, the filters of each if the last one has fewer (0 otherwise), and the weights,
    with zeros for the channels of other groups.
    """
    filters, depth, *kernel = weights.shape
    wide = filters // groups
    k_per_instruction = lcm(lanes // gcd(lanes, depth), lanes // gcd(lanes, wide))
    if k_per_instruction == 1 or groups == 1:
        return groups, 0, weights
    count = ceil_div(groups, k_per_instruction)
    spread = np.zeros((filters, channels if count == 1 else k_per_instruction * depth, *kernel), weights.dtype)
    for group in range(groups):
        first, rows = group % k_per_instruction * depth, slice(group * wide, (group + 1) * wide)
        spread[rows, first : first + depth] = weights[rows]
    return count, 0 if count * k_per_instruction == groups or count == 1 else k_per_instruction * wide, spread


@cache
def tiles(sizes: Convolution, machine: Machine) -> tuple[Tile, ...]:
    """Return all tiles that fit into the registers, the one with the least estimated time first."""
    return tuple(sorted(_tiles(sizes, machine), key=lambda tile: cost(sizes, tile, machine)))


def cost(sizes: Convolution, tile: Tile, machine: Machine) -> tuple[float, float]:
    """Estimate rounds of multiply-adds per tap and channel for the busiest thread, then loads per multiply-add."""
    tasks, count = _tasks(sizes, tile, machine)
    loads, products = ceil_div(tile.columns, sizes.run) + tile.blocks, tile.columns * tile.blocks
    fetched = _LOAD * tile.blocks if _window(sizes).result == (1, 1) else 0
    work = max(products, loads, fetched, LATENCY)
    if sizes.window.is_point and sizes.instruction is None:
        work += tile.blocks + _STALL * max(tile.columns - _STREAMS, 0)
    return ceil_div(tasks, machine.threads) * count * work, loads / products


def _tiles(sizes: Convolution, machine: Machine) -> Iterator[Tile]:
    """Yield all tiles that fit into the registers, beside a row of weights and a broadcast element."""
    blocks = gcd(sizes.group_blocks(machine.lanes), ceil_div(sizes.filters, machine.lanes))
    width = _window(sizes).result[1]
    for count in (count for count in range(1, machine.registers) if blocks % count == 0):
        for columns in range(1, min(width, machine.registers) + 1):
            if _fits(sizes, columns, count, machine):
                yield Tile(columns, count)


def _fits(sizes: Convolution, columns: int, count: int, machine: Machine) -> bool:
    return columns * count + count + 1 <= machine.registers


def _tasks(sizes: Convolution, tile: Tile, machine: Machine) -> tuple[int, int]:
    """Return how many tasks the threads share, and how many tiles each task has."""
    window = _window(sizes)
    inner, edges = window.tiles(tile.columns)
    panels = ceil_div(sizes.filters, machine.lanes) // tile.blocks
    tasks = (sizes.batch or 1) * panels * window.result[0]
    return (tasks, len(inner) + len(edges)) if edges else (tasks * len(inner), 1)


def _window(sizes: Convolution) -> Window:
    return sizes.window.flat() if sizes.window.is_point else sizes.window


def packed(weights: np.ndarray, sizes: Convolution, tile: Tile, machine: Machine) -> np.ndarray:
    """Pack weights `[filter, channel, row, column]` as `[panel, block, column, row, channel, filter of the panel]`.

    Channels that one instruction multiplies lie next to each other, behind the filters.
    """
    (blocks, step), k_per_instruction = sizes.steps, sizes.k_per_instruction
    width = tile.blocks * machine.lanes
    filters, depth, *kernel = weights.shape
    padded = np.zeros((ceil_div(filters, width) * width, blocks * step, *kernel), weights.dtype)
    padded[:filters, :depth] = weights
    parts = padded.reshape(-1, width, blocks, step // k_per_instruction, k_per_instruction, *kernel).transpose(
        0, 2, 6, 5, 3, 1, 4
    )
    if sizes.instruction is not None:
        return sizes.instruction.packed(parts)
    return np.ascontiguousarray(parts).reshape(*parts.shape[:5], width)


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


@lru_cache
def convolution_kernel(sizes: Convolution, tile: Tile, machine: Machine, epilogue: Epilogue) -> tirx.PrimFunc:
    """Build a kernel of images, packed weights, a bias of whole blocks and the epilogue's operands to images in blocks.

    For bytes, scales and, if there are any, offsets follow the bias.
    """
    lanes = machine.lanes
    batch = tirx.Var("batch", "int64") if sizes.batch is None else sizes.batch
    outer = ceil_div(sizes.filters, lanes)
    blocks, step = sizes.steps
    batch_dims = (batch, ceil_div(sizes.channels, sizes.block)) if sizes.block else (batch, sizes.channels)
    tail = (sizes.block,) if sizes.spacing > 1 else ()
    window = _window(sizes)
    inner, edges = window.tiles(tile.columns)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            whole = T.arg("x", T.buffer((*batch_dims, *sizes.window.image, *tail), sizes.dtype))
            k_per_instruction = sizes.k_per_instruction
            panels = (outer // tile.blocks, blocks, *reversed(window.kernel), step // k_per_instruction)
            dtype = "float32" if sizes.instruction is None else sizes.instruction.weights
            weights = T.arg("weights", T.buffer((*panels, tile.blocks * lanes * k_per_instruction), dtype))
            bias = T.arg("bias", T.buffer((outer * lanes,), "float32"))
            scales = None
            if sizes.accumulator_dtype == "int32":
                scales = T.arg("scales", T.buffer((outer * lanes,), "float32"))
            kinds = [len(window.taps(axis)) for axis in range(2)]
            offsets = T.arg("offsets", T.buffer((*kinds, outer * lanes), "int32")) if sizes.has_offsets else None
            beside = operand_images(epilogue, (batch, outer, *sizes.window.result, lanes))
            result = T.arg("y", T.buffer((batch, outer, *sizes.window.result, lanes), epilogue.dtype))
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            rows = (window.image[0], window.image[1] * sizes.spacing)
            shape = (batch, outer, *window.result, lanes)
            x, y, finish = (
                seen(whole, (*batch_dims, *rows)),
                seen(result, shape),
                BlockedEpilogue(epilogue, beside).seen(shape),
            )
            code = _Code(sizes, tile, window, lanes, x, weights, bias, scales, offsets, y, finish)
            axes = {"image": batch, "panel": panels[0], "row": window.result[0], "tile": 1 if edges else len(inner)}
            if weights_are_small(sizes):
                axes["panel"] = axes.pop("panel")  # innermost: they stay in the cache while the images are walked
            count: Scalar = 1
            for size in axes.values():
                count = count * size
            is_one = isinstance(count, int) and count == 1
            loop = T.serial if is_one or is_small(sizes) else T.parallel
            with imported(machine, sizes.dtype == BFLOAT16 or epilogue.is_coarse), loop(0, count) as task:
                place: dict[str, Scalar] = {}
                for name, size in reversed(axes.items()):
                    task, place[name] = task // size, task % size
                code.task(place, inner, edges)
        return builder.get()


def weights_are_small(sizes: Convolution) -> bool:
    """Whether there are fewer weights than elements of an image."""
    window = sizes.window
    weights = sizes.filters * sizes.depth * window.kernel[0] * window.kernel[1]
    return weights < sizes.channels * window.image[0] * window.image[1]


def is_small(sizes: Convolution) -> bool:
    """Whether the convolution is so small that one thread computes it."""
    window = sizes.window
    weights = sizes.filters * sizes.depth * window.kernel[0] * window.kernel[1]
    pixels = window.result[0] * window.result[1]
    return sizes.batch is not None and sizes.batch * weights * pixels < _SMALL and weights < _FEW


@dataclass(frozen=True, slots=True)
class _Code:
    """Code for tiles, with the buffers that they read and write."""

    sizes: Convolution
    tile: Tile
    window: Window
    lanes: int
    x: tirx.Buffer
    weights: tirx.Buffer
    bias: tirx.Buffer
    scales: tirx.Buffer | None
    offsets: tirx.Buffer | None
    y: tirx.Buffer
    finish: BlockedEpilogue

    def task(self, place: dict[str, Scalar], inner: list[int], edges: list[int]) -> None:
        """Emit the tiles of a row, or one tile if there is no padding at the sides."""
        size, columns = self.lanes, self.tile.columns
        sums = [
            [T.alloc_buffer((size,), self.sizes.accumulator_dtype) for _ in range(self.tile.blocks)]
            for _ in range(columns)
        ]
        for start in edges:
            self._tile(sums, place, start, edge=start)
        if not edges:
            self._tile(sums, place, tirx.min(place["tile"] * columns, inner[-1]))
        elif inner:
            with T.serial(0, len(inner)) as step:
                self._tile(sums, place, tirx.min(inner[0] + step * columns, inner[-1]))

    def _tile(
        self, sums: list[list[tirx.Buffer]], place: dict[str, Scalar], start: Scalar, edge: int | None = None
    ) -> None:
        """Emit one tile from a column on; at an edge, taps beyond the image are left out."""
        lanes, window, sizes = self.lanes, self.window, self.sizes
        image, panel, row = place["image"], place["panel"], place["row"]
        blocks, k_per_instruction = sizes.steps[0], sizes.k_per_instruction
        first = panel * self.tile.blocks
        group = 0 if sizes.groups == 1 else first // sizes.group_blocks(lanes)
        whole = ramp(0, lanes)
        for column, line in enumerate(sums):
            for number, held in enumerate(line):
                begin = self._start(ramp((first + number) * lanes, lanes), row, None if edge is None else edge + column)
                T.buffer_store(held, begin, [whole])
        begin, end = window.rows(row)
        with T.serial(0, blocks) as block:
            # Each column of taps has its own loops, or LLVM would keep pixels that columns share in registers it lacks.
            for tap in range(window.kernel[1]):
                kept = [column for column in range(len(sums)) if edge is None or window.is_inside(edge + column, tap)]
                if not kept:
                    continue
                with T.serial(begin, end) as line, T.serial(0, self._channels(group * blocks + block)) as step:
                    row_at, vectors = window.at(0, row, line), range(self.tile.blocks)
                    filters = [
                        self.weights[
                            panel,
                            block,
                            tap,
                            line,
                            step,
                            ramp(number * lanes * k_per_instruction, lanes * k_per_instruction),
                        ]
                        for number in vectors
                    ]
                    pixels = self._pixels((image, group * blocks + block, row_at), (start, tap), step, kept)
                    for column, pixel in zip(kept, pixels, strict=True):
                        for number in vectors:
                            held = sums[column][number]
                            T.buffer_store(held, self._added(held[whole], pixel, filters[number]), [whole])
        results = [
            [self._result(held[whole], ramp((first + number) * lanes, lanes)) for number, held in enumerate(line)]
            for line in sums
        ]
        self.finish.store(self.y, results, (image, first, row, start), lanes)

    def _pixels(
        self, line: tuple[Scalar, ...], place: tuple[Scalar, int], step: Scalar, columns: list[int]
    ) -> list[tirx.Expr]:
        """Return the operands of `_added` for a tap of neighbouring columns of a tile, at an image, block and row."""
        (start, tap), sizes = place, self.sizes
        at = [self.window.at(1, start + column, tap) for column in columns]
        if not sizes.block:
            return [self.x[(line[0], step, line[2], column)] for column in at]
        if sizes.instruction is None:
            return [loaded(self.x[(*line, column * sizes.block + step)], sizes.dtype) for column in at]
        run = sizes.run if sizes.run <= len(at) else 1
        broadcast_lhs: list[tirx.Expr] = []
        while (done := len(broadcast_lhs)) < len(at):
            first = min(done, len(at) - run)  # the last ones overlap those before
            elements = ramp(at[first] * sizes.spacing + step * sizes.k_per_instruction, run * sizes.k_per_instruction)
            broadcast_lhs += sizes.instruction.broadcast_lhs(self.x[(*line, elements)])[done - first :]
        return broadcast_lhs

    def _start(self, filters: Scalar, row: Scalar, column: int | None) -> tirx.Expr:
        """Return what sums start from; a column of None stands for one without padding at the sides."""
        if self.sizes.accumulator_dtype == "float32":
            return self.bias[filters]
        if self.offsets is None:
            return T.broadcast(T.int32(0), self.lanes)
        return self.offsets[self.window.kind(0, row), self.window.kind(1, column), filters]

    def _added(self, sums: tirx.Expr, pixel: tirx.Expr, filters: tirx.Expr) -> tirx.Expr:
        if self.sizes.instruction is not None:
            return self.sizes.instruction.multiply_add(sums, pixel, filters)
        return sums + spread(pixel, self.lanes) * filters

    def _result(self, sums: tirx.Expr, filters: Scalar) -> tirx.Expr:
        if self.sizes.accumulator_dtype == "float32":
            return sums
        assert self.scales is not None
        return cast(sums, "float32") * self.scales[filters] + self.bias[filters]

    def _channels(self, block: Scalar) -> Scalar:
        """Return the number of steps over the channels of a block; the filling of the last block isn't read."""
        (_, step), channels, k_per_instruction = self.sizes.steps, self.sizes.channels, self.sizes.k_per_instruction
        if channels % step == 0:
            return step // k_per_instruction
        return tirx.min(
            step // k_per_instruction, tirx.floordiv(channels - block * step + k_per_instruction - 1, k_per_instruction)
        )
