# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none, reportOperatorIssue=none, reportReturnType=none
"""Convolutions with constant weights, in float32, on images whose channels lie in blocks of a vector register's size.

A tile of the result, some pixels of a row by some blocks of channels, is kept in registers while taps and channels are walked
(Georganas et al., "Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures", 2018). Tiles at the left
and right edge are written out without the taps that would lie in the padding, so that nothing is ever padded.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, lru_cache
from math import gcd, lcm
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .epilogue import Epilogue
from .finish import Finish, operand_images
from .machine import Machine
from .tiles import LATENCY, OPAQUE, ceil_div
from .vectors import lanes_at, spread
from .windows import Window

_SMALL, _FEW = 1 << 17, 1 << 15
"""Multiply-adds, and weights, below which waking other threads costs more than they save."""
_LOAD = 3
"""Multiply-adds that take as long as loading a vector of weights that is used once."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution's sizes.

    Attributes:
        batch: images; None where their number isn't known.
        channels: of the images.
        filters: channels of the result.
        groups: of blocks of channels that have filters of their own.
        depth: channels that a filter reads.
        window: where the filters lie.
        is_blocked: whether the images' channels lie in blocks; otherwise they are the second axis.
    """

    batch: int | None
    channels: int
    filters: int
    groups: int
    depth: int
    window: Window
    is_blocked: bool

    def steps(self, lanes: int) -> tuple[int, int]:
        """The channels that a filter reads as so many blocks of so many."""
        return (ceil_div(self.depth, lanes), lanes) if self.is_blocked else (1, self.depth)


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the result that registers hold: pixels of a row, and blocks of channels."""

    columns: int
    blocks: int


def merged(groups: int, weights: np.ndarray, channels: int, lanes: int) -> tuple[int, np.ndarray]:
    """As few groups as there are runs of whole blocks that no group crosses, and weights with zeros for other groups' channels."""
    filters, depth, *kernel = weights.shape
    wide = filters // groups
    together = lcm(lanes // gcd(lanes, depth), lanes // gcd(lanes, wide))
    if together == 1 or groups == 1:
        return groups, weights
    count = ceil_div(groups, together)
    spread = np.zeros((filters, channels if count == 1 else together * depth, *kernel), np.float32)
    for group in range(groups):
        first, rows = group % together * depth, slice(group * wide, (group + 1) * wide)
        spread[rows, first : first + depth] = weights[rows]
    return count, spread


@cache
def best_tile(sizes: Convolution, machine: Machine) -> Tile:
    """The tile with the least estimated time: rounds of multiply-adds for the busiest thread, and then loads for each."""
    return min(_tiles(sizes, machine), key=lambda tile: _cost(sizes, tile, machine))


def rounds(sizes: Convolution, machine: Machine) -> int:
    """Rounds of multiply-adds for each tap and channel, for the busiest thread."""
    return _cost(sizes, best_tile(sizes, machine), machine)[0]


def _cost(sizes: Convolution, tile: Tile, machine: Machine) -> tuple[int, float]:
    tasks, tiles = _tasks(sizes, tile, machine)
    loads, products = tile.columns + tile.blocks, tile.columns * tile.blocks
    fetched = _LOAD * tile.blocks if _window(sizes).result == (1, 1) else 0
    return ceil_div(tasks, machine.threads) * tiles * max(products, loads, fetched, LATENCY), loads / products


def _tiles(sizes: Convolution, machine: Machine) -> Iterator[Tile]:
    """All that fit into the registers, beside a row of weights and a broadcast element."""
    blocks = ceil_div(sizes.filters, machine.lanes) // sizes.groups
    width = _window(sizes).result[1]
    for count in (count for count in range(1, machine.registers) if blocks % count == 0):
        for columns in range(1, min(width, machine.registers) + 1):
            if columns * count + count + 1 <= machine.registers:
                yield Tile(columns, count)


def _tasks(sizes: Convolution, tile: Tile, machine: Machine) -> tuple[int, int]:
    """How many tasks threads share, and how many tiles each of them has."""
    window = _window(sizes)
    inner, edges = window.tiles(tile.columns)
    panels = ceil_div(sizes.filters, machine.lanes) // tile.blocks
    tasks = (sizes.batch or 1) * panels * window.result[0]
    return (tasks, len(inner) + len(edges)) if edges else (tasks * len(inner), 1)


def _window(sizes: Convolution) -> Window:
    return sizes.window.flat() if sizes.window.is_point else sizes.window


def packed(weights: np.ndarray, sizes: Convolution, machine: Machine) -> np.ndarray:
    """Weights `[filter, channel, row, column]` as `[panel, block, column, row, channel, filter of the panel]`."""
    blocks, step = sizes.steps(machine.lanes)
    width = best_tile(sizes, machine).blocks * machine.lanes
    filters, depth, *kernel = weights.shape
    padded = np.zeros((ceil_div(filters, width) * width, blocks * step, *kernel), np.float32)
    padded[:filters, :depth] = weights
    return np.ascontiguousarray(padded.reshape(-1, width, blocks, step, *kernel).transpose(0, 2, 5, 4, 3, 1))


@lru_cache
def convolution_kernel(sizes: Convolution, machine: Machine, epilogue: Epilogue) -> tirx.PrimFunc:
    """A kernel of images, packed weights, a bias of whole blocks and the epilogue's operands to images in blocks."""
    tile, lanes = best_tile(sizes, machine), machine.lanes
    batch = tirx.Var("batch", "int64") if sizes.batch is None else sizes.batch
    outer = ceil_div(sizes.filters, lanes)
    blocks, step = sizes.steps(lanes)
    lead = (batch, ceil_div(sizes.channels, lanes)) if sizes.is_blocked else (batch, sizes.channels)
    tail = (lanes,) if sizes.is_blocked else ()
    window = _window(sizes)
    inner, edges = window.tiles(tile.columns)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            whole = T.arg("x", T.buffer((*lead, *sizes.window.image, *tail), "float32"))
            panels = (outer // tile.blocks, blocks, *reversed(window.kernel), step, tile.blocks * lanes)
            weights = T.arg("weights", T.buffer(panels, "float32"))
            bias = T.arg("bias", T.buffer((outer * lanes,), "float32"))
            beside = operand_images(epilogue, (batch, outer, *sizes.window.result, lanes))
            result = T.arg("y", T.buffer((batch, outer, *sizes.window.result, lanes), "float32"))
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            x = T.decl_buffer((*lead, *window.image, *tail), "float32", data=whole.data)
            shape = (batch, outer, *window.result, lanes)
            y = T.decl_buffer(shape, "float32", data=result.data)
            finish = Finish(epilogue, beside).viewed(shape)
            code = _Code(sizes, tile, window, lanes, x, weights, bias, y, finish)
            axes = {"image": batch, "panel": panels[0], "row": window.result[0], "tile": 1 if edges else len(inner)}
            if weights_are_small(sizes):
                axes["panel"] = axes.pop("panel")  # innermost: they stay in the cache while the images are walked
            count: Any = 1
            for size in axes.values():
                count = count * size
            is_one = isinstance(count, int) and count == 1
            loop = T.serial if is_one or is_small(sizes) else T.parallel
            with loop(0, count) as task:
                place: dict[str, Any] = {}
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
    """Whether one thread does it."""
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
    x: Any
    weights: Any
    bias: Any
    y: Any
    finish: Finish

    def task(self, place: dict[str, Any], inner: list[int], edges: list[int]) -> None:
        """The tiles of a row, or one tile if there is no padding at the sides."""
        size, columns = self.lanes, self.tile.columns
        sums = [[T.alloc_buffer((size,), "float32") for _ in range(self.tile.blocks)] for _ in range(columns)]
        for start in edges:
            self._tile(sums, place, start, edge=start)
        if not edges:
            begin = place["tile"] * columns
            self._tile(sums, place, tirx.min(begin, inner[-1]), fresh=begin)
        elif inner:
            with T.serial(0, len(inner)) as step:
                self._tile(sums, place, tirx.min(inner[0] + step * columns, inner[-1]))

    def _tile(
        self, sums: list[list[Any]], place: dict[str, Any], start: Any, edge: int | None = None, fresh: Any = None
    ) -> None:
        """One tile, from a column; at an edge the taps beyond it are left out, and what isn't fresh another task writes."""
        lanes, window, sizes = self.lanes, self.window, self.sizes
        image, panel, row = place["image"], place["panel"], place["row"]
        blocks, step = sizes.steps(lanes)
        first = panel * self.tile.blocks
        group = 0 if sizes.groups == 1 else first // (ceil_div(sizes.filters, lanes) // sizes.groups)
        whole = lanes_at(0, lanes)
        for line in sums:
            for number, held in enumerate(line):
                T.buffer_store(held, self.bias[lanes_at((first + number) * lanes, lanes)], [whole])
        begin, end = window.rows(row)
        with T.serial(0, blocks) as block:
            # Each column of taps has loops of its own: LLVM would keep pixels that columns share in registers it hasn't.
            for tap in range(window.kernel[1]):
                kept = [column for column in range(len(sums)) if edge is None or window.is_inside(edge + column, tap)]
                if not kept:
                    continue
                with T.serial(begin, end) as line, T.serial(0, self._channels(group * blocks + block, step)) as channel:
                    row_at, vectors = window.at(0, row, line), range(self.tile.blocks)
                    filters = [
                        self.weights[panel, block, tap, line, channel, lanes_at(number * lanes, lanes)]
                        for number in vectors
                    ]
                    for column in kept:
                        at = (row_at, window.at(1, start + column, tap))
                        pixel = (
                            self.x[image, group * blocks + block, *at, channel]
                            if sizes.is_blocked
                            else self.x[image, channel, *at]
                        )
                        for number in vectors:
                            held = sums[column][number]
                            T.buffer_store(held, held[whole] + spread(pixel, lanes) * filters[number], [whole])
        overlaps = fresh is not None and self.window.result[1] % len(sums) != 0
        for column, line in enumerate(sums):
            with ExitStack() as frames:
                if overlaps:
                    frames.enter_context(T.If(start + column >= fresh))
                    frames.enter_context(T.Then())
                for number, held in enumerate(line):
                    at = (image, first + number, row, start + column)
                    vector = held[whole] if self.finish.is_long else self.finish.applied(held[whole], at, lanes)
                    T.buffer_store(self.y, vector, [*at, whole])
        if self.finish.is_long:
            begin = tirx.max(start, fresh) if overlaps else start
            with T.serial(0, self.tile.blocks) as number, T.serial(begin, start + len(sums)) as column:
                self.finish.apply_to(self.y, (image, first + number, row, column), lanes)

    def _channels(self, block: Any, step: int) -> Any:
        """How many channels of a block of the images there are: what fills the last one up isn't read."""
        channels = self.sizes.channels
        return step if channels % step == 0 else tirx.min(step, channels - block * step)
