"""Winograd convolutions of 3x3 taps in float32, on images in blocks of channels (NCHWc).

Transformed tiles are multiplied element by element, which the sums over channels make GEMMs (Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", 2016). A task takes some tiles through all of it, so that the transformed
tiles stay in the L2 cache.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from heapq import merge
from itertools import product
from math import prod

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..runtime.packing import POINTS, TAPS, WinogradForm, matrices
from . import convolution
from .convolution import Convolution, Tile
from .epilogue import Epilogue, Result
from .instructions.base import FMA
from .machine import Machine
from .prim_func import argument, either, kernel, symbol
from .tiles import fits
from .vector_math import loaded
from .vectors import Register, Scalar, ceil_div, held, number, ramp, spread, zeros
from .windows import BoundWindow

Load = Callable[[int, int], tirx.Expr]
"""A function from a row and a column of a tile to its vector."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The parameters of a Winograd convolution: a task transforms so many tiles, for one of some shares of the filters.

    A tile of the result has `side` pixels on a side; registers hold products of `rows` tiles and `blocks` of filters.
    """

    side: int
    tiles: int
    rows: int
    blocks: int
    shares: int

    @property
    def size(self) -> int:
        """The side of a tile of the image."""
        return self.side + TAPS - 1

    def count(self, size: Scalar) -> Scalar:
        """Return how many tiles cover so many pixels along an axis of a result."""
        return (size + (self.side - 1)) // self.side

    def origin(self, tile: Scalar, columns: Scalar) -> tuple[Scalar, Scalar]:
        """Return where in a result of some columns a tile begins."""
        across = self.count(columns)
        return tile // across * self.side, tile % across * self.side


@cache
def ways(sizes: Convolution, machine: Machine, speed: float = 1) -> tuple[Plan | Tile, ...]:
    """Return plans, and tiles of the direct convolution, `speed` times as fast as in float32, the fastest first."""
    direct, window = convolution.tiles(sizes, machine), sizes.window.assumed
    is_plain = window.kernel == (TAPS, TAPS) and window.strides == window.dilations == (1, 1)
    if not is_plain or sizes.groups > 1 or not sizes.block or min(window.result) < 2:
        return direct
    sizes = replace(sizes, window=window)
    plans: dict[tuple[int, ...], Plan] = {}
    for plan in sorted(_plans(sizes, machine), key=lambda plan: _cost(plan, sizes, machine)):
        plans.setdefault((plan.side, plan.rows, plan.blocks, plan.shares), plan)  # with the best number of tiles

    def cost(way: Plan | Tile) -> float:
        if isinstance(way, Plan):
            return _cost(way, sizes, machine)[0]
        fetched = machine.costs.fetch * ceil_div(sizes.filters, machine.lanes)
        rounds = TAPS**2 * sizes.channels * max(convolution.cost(sizes, way, machine)[0], fetched)
        return machine.costs.winograd_gain / speed * rounds

    return tuple(merge(plans.values(), direct, key=cost))


def _plans(sizes: Convolution, machine: Machine) -> Iterator[Plan]:
    filters = ceil_div(sizes.filters, machine.lanes)
    for side, blocks in product(POINTS, (count for count in range(1, filters + 1) if filters % count == 0)):
        total = prod(ceil_div(size, side) for size in sizes.window.result)
        shares = {1, *(count for count in (machine.threads,) if filters // blocks % count == 0)}
        m_splits = {ceil_div(total, count) for count in range(1, total + 1)}
        for rows, count, share in product(range(1, machine.registers), m_splits, shares):
            plan = Plan(side, count, rows, blocks, share)
            is_whole = rows <= count and fits(rows, blocks, machine)
            if is_whole and _filled(plan, sizes, machine) <= 2 * machine.costs.l2_bytes:
                yield plan


def _cost(plan: Plan, sizes: Convolution, machine: Machine) -> tuple[float, float]:
    """Estimate rounds of multiply-adds for the busiest thread, and then loads per multiply-add."""
    depth, filters = (ceil_div(count, machine.lanes) for count in (sizes.channels, sizes.filters))
    costs, positions, share = machine.costs, plan.size**2, filters // plan.shares
    total = prod(ceil_div(size, plan.side) for size in sizes.window.result)
    tasks = (sizes.batch or 1) * ceil_div(total, plan.tiles) * plan.shares
    each, loads = plan.rows * plan.blocks, plan.rows + plan.blocks
    passes = share // plan.blocks
    rounds = ceil_div(plan.tiles, plan.rows) * passes
    work = sizes.channels * (rounds * max(each, loads, costs.latency) + costs.load * share)
    work += costs.move * plan.tiles * (depth + share)
    if _filled(plan, sizes, machine) > machine.costs.l2_bytes:
        work += costs.load * plan.tiles * depth * passes
    fetched = costs.fetch * sizes.channels * filters
    return positions * max(ceil_div(tasks, machine.threads) * work, fetched), loads / each


def _filled(plan: Plan, sizes: Convolution, machine: Machine) -> int:
    """Return the bytes of a task's transformed tiles and their products."""
    return 4 * machine.lanes * plan.size**2 * plan.tiles * (ceil_div(sizes.channels, machine.lanes) + plan.blocks)


def form(plan: Plan, machine: Machine) -> WinogradForm:
    """Return the form in which the kernel reads its filters."""
    return WinogradForm(plan.side, plan.blocks * machine.lanes)


@kernel
def winograd_kernel(sizes: Convolution, plan: Plan, machine: Machine, epilogue: Epilogue) -> None:
    """Emit a kernel of images, transformed weights, a bias of whole blocks and epilogue operands to images (NCHWc)."""
    lanes, bound, batch = machine.lanes, sizes.window.bound(), symbol("batch", sizes.batch)
    depth, filters = (ceil_div(count, lanes) for count in (sizes.channels, sizes.filters))
    panels, total = filters // plan.blocks, prod(map(plan.count, bound.result))
    m_splits, share = (total + (plan.tiles - 1)) // plan.tiles, panels // plan.shares
    x = argument("x", (batch, depth, *bound.image, lanes), sizes.dtype)
    weights = argument("weights", (panels, plan.size**2, sizes.channels, plan.blocks * lanes))
    bias = argument("bias", (filters * lanes,))
    result = Result.declare(epilogue, (batch, filters, *bound.result, lanes))
    loop = T.serial if convolution.is_small(sizes, machine) else T.parallel
    with loop(0, batch * (m_splits * plan.shares)) as task:
        image, rest = task // (m_splits * plan.shares), task // plan.shares % m_splits
        first, count = rest * plan.tiles, plan.tiles
        if isinstance(total, int):
            first = tirx.min(first, total - plan.tiles)
        else:  # an image may have fewer tiles than a task
            count = tirx.min(count, total - first)
        images, products = (  # with odd strides between positions, so that they share no set of L1
            T.alloc_buffer((plan.size**2, plan.tiles * blocks | 1, lanes), "float32") for blocks in (depth, plan.blocks)
        )
        code = _Code(sizes, bound, plan, lanes, x, weights, bias, result, images, products)
        with T.serial(0, depth) as block, T.serial(0, count) as tile:
            code.transform(image, block, block * plan.tiles + tile, plan.origin(first + tile, bound.result[1]))
        with T.serial(0, share) as step:
            panel = task % plan.shares * share + step
            with T.serial(0, plan.size**2) as position, T.serial(0, (count + (plan.rows - 1)) // plan.rows) as rows:
                code.multiply(panel, position, tirx.min(rows * plan.rows, plan.tiles - plan.rows))
            with T.serial(0, plan.blocks) as number, T.serial(0, count) as tile:
                origin = plan.origin(first + tile, bound.result[1])
                code.back(image, panel * plan.blocks + number, number * plan.tiles + tile, origin)


@dataclass(frozen=True, slots=True)
class _Code:
    """Code for tiles, with the buffers that they read and write."""

    sizes: Convolution
    bound: BoundWindow
    plan: Plan
    lanes: int
    x: tirx.Buffer
    weights: tirx.Buffer
    bias: tirx.Buffer
    result: Result
    images: tirx.Buffer
    products: tirx.Buffer

    def transform(self, image: Scalar, block: Scalar, place: Scalar, origin: tuple[Scalar, Scalar]) -> None:
        """Emit the transform of a tile of a block of the image; pixels in the padding are zero."""
        size, whole = self.plan.size, ramp(0, self.lanes)
        matrix, _, _ = matrices(self.plan.side)
        start = [place - begin for place, begin in zip(origin, self.sizes.window.begins, strict=True)]

        def are_inside(first: Sequence[Scalar], size: int) -> tirx.Expr:
            pairs = zip(first, self.bound.image, strict=True)
            return tirx.all(*(tirx.all(place >= 0, place + size <= end) for place, end in pairs))

        def pixel(row: Scalar, column: Scalar) -> tirx.Expr:
            return loaded(self.x[image, block, start[0] + row, start[1] + column, whole])

        def padded() -> None:
            patch = T.alloc_buffer((size, size, self.lanes), "float32")
            with T.serial(0, size) as row, T.serial(0, size) as column:
                is_there = are_inside((start[0] + row, start[1] + column), 1)
                element = tirx.if_then_else(is_there, pixel(row, column), zeros("float32", self.lanes))
                T.buffer_store(patch, element, [row, column, whole])
            store(lambda row, column: patch[row, column, whole])

        def store(load: Load) -> None:
            for row, column, vector in _both_ways(matrix, load):
                T.buffer_store(self.images, vector, [row * size + column, place, whole])

        either(are_inside(start, size), lambda: store(pixel), padded)

    def multiply(self, panel: Scalar, position: Scalar, first: Scalar) -> None:
        """Emit the products of some tiles with a panel of filters, for one position."""
        plan, lanes, channels, whole = self.plan, self.lanes, self.sizes.channels, ramp(0, self.lanes)
        spots = product(range(plan.rows), range(plan.blocks))
        sums = {spot: Register.of(zeros("float32", lanes)) for spot in spots}
        with T.serial(0, ceil_div(channels, lanes)) as block:
            count = lanes if channels % lanes == 0 else tirx.min(lanes, channels - block * lanes)
            with T.serial(0, count) as channel:  # in one loop, addresses would take a tenth to a quarter of the time
                for (row, number), total in sums.items():
                    element = spread(self.images[position, block * plan.tiles + first + row, channel], lanes)
                    filters = self.weights[panel, position, block * lanes + channel, ramp(number * lanes, lanes)]
                    total.set(FMA.multiply_add(total.value, element, filters))
        for (row, number), total in sums.items():
            T.buffer_store(self.products, total.value, [position, number * plan.tiles + first + row, whole])

    def back(self, image: Scalar, block: Scalar, place: Scalar, origin: tuple[Scalar, Scalar]) -> None:
        """Emit a tile of the result, transformed back, and its epilogue; pixels beyond the image are dropped."""
        _, _, matrix = matrices(self.plan.side)
        side, size, lanes, whole = self.plan.side, self.plan.size, self.lanes, ramp(0, self.lanes)
        patch = T.alloc_buffer((side, side, lanes), "float32")
        found = _both_ways(matrix, lambda row, column: self.products[row * size + column, place, whole])
        for row, column, vector in found:
            T.buffer_store(patch, vector, [row, column, whole])

        def kept(begin: Scalar, end: Scalar) -> Scalar:
            is_whole = isinstance(end, int) and end % side == 0
            return side if is_whole else tirx.min(side, end - begin)

        rows, columns = map(kept, origin, self.bound.result)
        with T.serial(0, rows) as row, T.serial(0, columns) as column:
            vector = patch[row, column, whole] + self.bias[ramp(block * lanes, lanes)]
            self.result.store(vector, (image, block, origin[0] + row, origin[1] + column, whole))


def _both_ways(matrix: np.ndarray, load: Load) -> Iterator[tuple[int, int, tirx.Expr]]:
    """Transform the columns of a tile and then the rows; yield the row, the column and the vector of each result."""
    height, size = matrix.shape
    columns = [_transformed(matrix, [load(row, column) for row in range(size)]) for column in range(size)]
    for row in range(height):
        for column, vector in enumerate(_transformed(matrix, [line[row] for line in columns])):
            yield row, column, vector


def _transformed(matrix: np.ndarray, vectors: Sequence[tirx.Expr]) -> Sequence[tirx.Expr]:
    """Multiply a matrix, of which rows or columns belong to opposite points two by two, with a column of vectors.

    Two such rows or columns differ in the sign of their odd elements alone, so that the matrix is the product of a
    sparser one and of butterflies, which take the sum and the difference of two vectors.
    """
    height, size = matrix.shape
    butterflies = np.eye(size)
    for first in range(1, size - 1, 2):
        butterflies[first : first + 2, first : first + 2] = [[1, 1], [1, -1]]
    inverse = butterflies / (butterflies**2).sum(0)
    vectors = [held(vector) for vector in vectors]
    for factor in (inverse @ matrix, butterflies) if height == size else (butterflies, matrix @ inverse):
        vectors = [_combined(row, vectors) for row in factor]
    return vectors


def _combined(factors: np.ndarray, vectors: Sequence[tirx.Expr]) -> tirx.Expr:
    """Return the sum of vectors times their factors; those with a factor of 1 come first, as they are."""
    pairs = [(float(factor), vector) for factor, vector in zip(factors, vectors, strict=True) if factor]
    terms = [x if factor == 1 else x * number(factor, x) for factor, x in sorted(pairs, key=lambda pair: pair[0] != 1)]
    return held(reduce(operator.add, terms))
