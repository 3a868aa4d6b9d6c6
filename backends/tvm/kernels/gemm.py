"""GEMM: one loop nest for all element types, whose hooks say what products do with their operands.

A register tile of the result accumulates while the kernel walks K (Goto and van de Geijn, "Anatomy of High-Performance
Matrix Multiplication", 2008). Where M or N don't divide into tiles, the last tile overlaps the one before it and
computes some elements twice: that costs less than masks, and nothing is accessed beyond the end.
"""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from math import gcd, prod
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .epilogue import Epilogue, Result
from .instructions.base import FMA, Instruction
from .machine import Machine
from .prim_func import argument, kernel, maybe_parallel, symbol, symbols
from .tiles import Spot, Tile, Vector, fits, row_tiles
from .vectors import Scalar, cast, ceil_div, known, ramp, size_of, spread, zeros


@dataclass(frozen=True, slots=True)
class Gemm:
    """The sizes of a GEMM, None where one isn't known, and what computes it.

    Attributes:
        batch_dims: the sizes of the axes before K, which together are the rows.
        batch: how many of the leading axes number right operands instead of rows.
        is_packed: whether the right operand is packed weights.
        shares_left: whether all right operands are multiplied by the same rows.
        instruction: the instruction that multiplies and adds; weights that aren't packed are multiplied in float32.
    """

    batch_dims: tuple[int | None, ...]
    k: int | None
    n: int
    batch: int = 0
    is_packed: bool = True
    shares_left: bool = False
    instruction: Instruction = FMA

    @property
    def m(self) -> int | None:
        """The rows of one product; None where they aren't known."""
        sizes = [size for size in self.batch_dims[self.batch :] if size is not None]
        return prod(sizes) if len(sizes) == len(self.batch_dims) - self.batch else None

    def row_chunks(self, machine: Machine) -> int:
        """Return into how many parts rows are cut before columns are.

        With enough rows, each thread keeps the same rows from one layer to the next: what it reads lies in its core's
        caches, and threads fetch nothing from each other but weights.
        """
        least = machine.threads * machine.costs.rows_per_thread
        return machine.threads if self.m is not None and not self.batch and self.m >= least else 1

    def heights(self, rows: int, machine: Machine) -> float:
        """Return how many tiles of some rows lie above each other; for a single row, if the number isn't known."""
        chunks = self.row_chunks(machine)
        return 1 / rows if self.m is None else ceil_div(ceil_div(self.m, rows), chunks) * chunks


def tiles(gemm: Gemm, machine: Machine) -> list[Tile]:
    """Return all tiles that fit into the registers, the one with the least estimated time first.

    Tiles are ordered by rounds of multiply-adds, and then by the elements read per multiply-add. A row of weights stays
    in registers, and an element of the left operand or, where these are loaded together, one of every row.
    """

    def cost(tile: Tile) -> tuple[float, float]:
        vectors, work = len(tile.vectors), tile.rows * len(tile.vectors)
        count = ceil_div(gemm.n, tile.columns) * gemm.heights(tile.rows, machine)
        loads = (tile.rows + vectors * machine.lanes) / work
        return count * max(work, tile.rows + vectors, machine.costs.latency), loads

    most = machine.costs.most_rows if gemm.m is None else min(machine.costs.most_rows, gemm.m)
    n = gemm.n // machine.lanes * machine.lanes if gemm.instruction.fills_vectors else gemm.n
    found = {
        Tile(rows, min(vectors * machine.lanes, n), machine.lanes): None
        for rows, vectors in product(range(1, most + 1), range(1, machine.registers))
        if fits(rows, vectors, machine, rows if gemm.instruction.unroll_k > 1 else 1)
    }
    return sorted(found, key=cost)


def panels(rows: np.ndarray, tile: Tile) -> np.ndarray:
    """Cut `[row, N, ...]` into `[panel, row, column of the tile, ...]`; the last panel overlaps the one before it."""
    starts = [min(start, rows.shape[1] - tile.columns) for start in range(0, rows.shape[1], tile.columns)]
    return np.stack([rows[:, start : start + tile.columns] for start in starts])


def packed(weights: np.ndarray, tile: Tile, instruction: Instruction = FMA) -> np.ndarray:
    """Pack weights `[K, N]` as `[panel, step, column of the tile and product of a step]`; zeros fill the last step."""
    (k, n), together = weights.shape, instruction.k_per_instruction
    padded = np.pad(weights, ((0, -k % together), (0, 0)))
    return instruction.pack(panels(padded.reshape(-1, together, n).transpose(0, 2, 1), tile))


@dataclass(frozen=True, slots=True)
class Place:
    """A tile's first row and column in the result; its first row in the left operand; its panel or item in the right
    one, and first column there.
    """

    row: Scalar
    column: Scalar
    left: Scalar
    right: tuple[Scalar, Scalar]


@dataclass(frozen=True, slots=True)
class Nest:
    """The loops of a GEMM: each of some items multiplies as many rows of the left operand, `[row of an item, K]`, or
    all multiply the same ones, `[row, K]`.
    """

    gemm: Gemm
    tile: Tile
    machine: Machine
    items: Scalar
    rows: Scalar
    x: tirx.Buffer

    @property
    def panels(self) -> int:
        return ceil_div(self.gemm.n, self.tile.columns)

    def emit(self, make: Callable[[Scalar], "Product"], result: Result, m_splits: Scalar = 0, depth: int = 0) -> None:
        """Emit the loops around the tiles of a product, which is made for each panel, with the epilogue's operators.

        Rows are cut into parts, by default so that threads have equally many tasks; sums have K products, or `depth`.
        """
        gemm, tile, threads = self.gemm, self.tile, self.machine.threads
        if isinstance(m_splits, int) and m_splits == 0:
            chunks = gemm.row_chunks(self.machine)
            m_splits = chunks if chunks > 1 or gemm.m == 1 else threads // gcd(self.panels, threads)
        least = int(self.machine.costs.gemm_work * gemm.instruction.speed)
        work = self.items * self.rows * (depth or size_of(self.x.shape[1])) * gemm.n
        with maybe_parallel(work, least)(0, self.items * (self.panels * m_splits)) as task:
            item, chunk = task // (self.panels * m_splits), task // self.panels % m_splits
            panel = task % self.panels
            column = tirx.min(panel * tile.columns, gemm.n - tile.columns)
            product = make(panel)
            for height, first_row in row_tiles(tile.rows, self.rows, chunk, m_splits):
                row, width = item * self.rows + first_row, product.width(height, tile.columns)
                for first in (min(start, tile.columns - width) for start in range(0, tile.columns, width)):
                    right = (panel, first) if gemm.is_packed else (item, column + first)
                    place = Place(row, column + first, first_row if gemm.shares_left else row, right)
                    for line, start, lanes, sums in product.sums(place, Tile(height, width, tile.lanes)):
                        result.store(sums, (row + line, ramp(place.column + start, lanes)))


@dataclass(frozen=True, slots=True)
class Product(ABC):
    """The hooks of the nest: what a product does with its operands; a result is made of the sums of some limbs."""

    instruction: Instruction
    limbs: ClassVar[int] = 1

    def width(self, height: int, columns: int) -> int:
        """Return how many of a panel's columns a tile of some rows has."""
        return columns

    @abstractmethod
    def initialise(self, place: Place, spot: Spot) -> tirx.Expr:
        """Return what the sums of a vector start from."""

    def chains(self, tile: Tile) -> int:
        """Return how many sums an element has besides limbs, which steps in a row are added to in turn."""
        return 1

    @abstractmethod
    def walk(self, step: Callable[[Scalar, int], None], chains: int) -> None:
        """Emit the loops over K around a number of steps from a first one on."""

    @abstractmethod
    def load_a(self, row: Scalar, first: Scalar, count: int, lanes: int) -> list[Sequence[tirx.Expr]]:
        """Return the left factors of a row for vectors of some lanes: of each step, for each limb."""

    @abstractmethod
    def load_b(self, place: Place, first: Scalar, count: int, tile: Tile) -> Iterator[Mapping[int, tirx.Expr]]:
        """Yield the right factors of each step: the tile's vectors by their first columns."""

    def store_c(self, place: Place, spot: Spot, sums: Sequence[tirx.Expr]) -> tirx.Expr:
        """Return a vector of the result, given the sums of each limb."""
        return sums[0]

    def sums(self, place: Place, tile: Tile) -> Iterator[Vector]:
        """Emit a tile: line, column, lanes and sums of each vector."""
        size, dtype, chains = (tile.rows * tile.columns,), self.instruction.accumulator_dtype, self.chains(tile)
        limbs = [[T.alloc_buffer(size, dtype) for _ in range(chains)] for _ in range(self.limbs)]
        for (first, *others), spot in product(limbs, tile.spots):
            T.buffer_store(first, self.initialise(place, spot), [spot[-1]])
            for sums in others:
                T.buffer_store(sums, zeros(dtype, spot[2]), [spot[-1]])
        factors = list(product(range(tile.rows), dict.fromkeys(lanes for _, lanes in tile.vectors)))

        def step(first: Scalar, count: int) -> None:
            left = {(line, lanes): self.load_a(place.left + line, first, count, lanes) for line, lanes in factors}
            for number, right in enumerate(self.load_b(place, first, count, tile)):
                for (limb, held), (line, start, lanes, slot) in product(enumerate(limbs), tile.spots):
                    factor, sums = left[line, lanes][number][limb], held[number % chains]
                    T.buffer_store(sums, self.instruction.multiply_add(sums[slot], factor, right[start]), [slot])

        self.walk(step, chains)
        for spot in tile.spots:
            totals = [reduce(operator.add, (sums[spot[-1]] for sums in held)) for held in limbs]
            yield *spot[:3], self.store_c(place, spot, totals)


@dataclass(frozen=True, slots=True)
class Dense(Product):
    """A product with a matrix, whose sums undo the quantization of integers as `Matrix` says.

    The right operand is `[panel, step, column of the tile and product of a step]`, a single panel, or `[item, K, N]`.
    """

    x: tirx.Buffer
    right: tirx.Buffer
    offsets: tirx.Buffer | None = None
    zero_points: tirx.Buffer | None = None
    scales: tirx.Buffer | None = None

    def initialise(self, place: Place, spot: Spot) -> tirx.Expr:
        line, start, lanes, _ = spot
        if self.offsets is None:
            return zeros(self.instruction.accumulator_dtype, lanes)
        offset = self.offsets[ramp(place.column + start, lanes)]
        if self.zero_points is None:
            return offset
        row = 0 if size_of(self.zero_points.shape[0]) == 1 else place.row + line
        zero_point = self.zero_points[row, 0].astype("int32")
        return offset * spread(zero_point - self.instruction.zero_point_bias, lanes)

    def walk(self, step: Callable[[Scalar, int], None], chains: int) -> None:
        unroll, together, k = self.instruction.unroll_k, self.instruction.k_per_instruction, size_of(self.x.shape[1])
        runs = k // together // unroll
        with T.serial(0, runs) as run:
            step(run * unroll, unroll)
        if isinstance(k, int):
            if rest := k // together % unroll:
                with T.serial(0, rest) as one:
                    step(runs * unroll + one, 1)
            if k % together:
                step(k // together, 1)

    def load_a(self, row: Scalar, first: Scalar, count: int, lanes: int) -> list[Sequence[tirx.Expr]]:
        together = self.instruction.k_per_instruction
        size = count * together
        if isinstance(first, int):  # the last step of K, which may be shorter
            size = min(size, known(self.x.shape[1]) - first * together)
        return [[left] for left in self.instruction.broadcast_lhs(self.x[row, ramp(first * together, size)], lanes)]

    def load_b(self, place: Place, first: Scalar, count: int, tile: Tile) -> Iterator[Mapping[int, tirx.Expr]]:
        (index, column), together = place.right, self.instruction.k_per_instruction
        index = 0 if size_of(self.right.shape[0]) == 1 else index
        places = {start: ramp((column + start) * together, lanes * together) for start, lanes in tile.vectors}
        for step in range(count):
            yield {start: self.right[index, first + step, at] for start, at in places.items()}

    def store_c(self, place: Place, spot: Spot, sums: Sequence[tirx.Expr]) -> tirx.Expr:
        if self.scales is None:
            return sums[0]
        return cast(sums[0], "float32") * self.scales[ramp(place.column + spot[1], spot[2])]


class Operands(ABC):
    """What a kernel multiplies with, and how."""

    @abstractmethod
    def emit(self, nest: Nest, batch_dims: Sequence[Scalar], declare: Callable[[], Result]) -> None:
        """Declare the arguments behind the left operand, the result at last, and emit the kernel's code."""


@dataclass(frozen=True, slots=True)
class Matrix(Operands):
    """A matrix, and what undoes the quantization of integers.

    Attributes:
        has_offsets: whether sums start from offsets by column.
        zero_points: how the left operand's zero points, which offsets are multiplied with, are given: known and part of
            the offsets (0), one for all rows (1), or one for each row (2).
        is_scaled: whether sums are multiplied by a scale for each column; otherwise they are left to the epilogue.
    """

    has_offsets: bool = False
    zero_points: int = 0
    is_scaled: bool = False

    def emit(self, nest: Nest, batch_dims: Sequence[Scalar], declare: Callable[[], Result]) -> None:
        right, n, points = self.declare_right(nest, batch_dims), nest.gemm.n, None
        offsets = argument("offsets", (n,), "int32") if self.has_offsets else None
        if self.zero_points:
            shape, view = ((*batch_dims, 1), (nest.rows, 1)) if self.zero_points > 1 else ((1, 1), (1, 1))
            points = argument("zero_points", shape, "uint8", view)
        scales = argument("scales", (n,)) if self.is_scaled else None
        self.multiply(nest, Dense(nest.gemm.instruction, nest.x, right[0], offsets, points, scales), right, declare())

    def declare_right(self, nest: Nest, batch_dims: Sequence[Scalar]) -> Sequence[tirx.Buffer]:
        """Declare the arguments that hold the matrix."""
        gemm, k = nest.gemm, size_of(nest.x.shape[1])
        if not gemm.is_packed:
            return [argument("right", (*batch_dims[: gemm.batch], k, gemm.n), view=(nest.items, k, gemm.n))]
        together = gemm.instruction.k_per_instruction
        steps = ceil_div(k, together) if isinstance(k, int) else k
        return [argument("right", (nest.panels, steps, nest.tile.columns * together), gemm.instruction.rhs_dtype)]

    def multiply(self, nest: Nest, dense: Dense, right: Sequence[tirx.Buffer], result: Result) -> None:
        """Emit the code of a product with the arguments that hold the matrix."""
        nest.emit(lambda panel: dense, result)


@kernel
def gemm_kernel(gemm: Gemm, tile: Tile, machine: Machine, epilogue: Epilogue, operands: Operands = Matrix()) -> None:
    """Emit a kernel of `[*batch_dims, K]`, a right operand and the epilogue's operands to `[*batch_dims, N]`.

    The first operand has the rows alone where right operands share it.
    """
    batch_dims, k = symbols(gemm.batch_dims), symbol("k", gemm.k)
    items, rows = prod(batch_dims[: gemm.batch]), prod(batch_dims[gemm.batch :])
    left, lines = (batch_dims[gemm.batch :], rows) if gemm.shares_left else (batch_dims, items * rows)
    x = argument("x", (*left, k), gemm.instruction.lhs_dtype, (lines, k))
    shapes = (*batch_dims, gemm.n), (items * rows, gemm.n)
    operands.emit(Nest(gemm, tile, machine, items, rows, x), batch_dims, lambda: Result.declare(epilogue, *shapes))
