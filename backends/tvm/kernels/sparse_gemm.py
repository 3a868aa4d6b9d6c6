"""GEMM with constant weights of which whole blocks are zero: only the others are held, and multiplied.

A block is what instructions multiply at once: `k_per_instruction` rows of the weights, by a tile's columns. Blocks of a
panel lie behind each other, with the first row of each beside them (block compressed sparse columns). A block is loaded
once for all rows of a tile, whose left factors are broadcast from where the index says. Tiles of few vectors add to a
few sums in turn for each element, since one addition waits for the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .convolution import Convolution
from .epilogue import Result
from .gemm import Dense, Gemm, Matrix, Nest, Product, panels, tiles
from .instructions.base import Instruction
from .machine import Machine
from .prim_func import argument
from .tiles import Tile, fits
from .vectors import Scalar, ceil_div, ramp

_MOST_CHAINS, _LEAST_RUNS = 4, 4
"""Sums of an element that blocks in a row are added to in turn, and the least blocks of each."""

_BESIDE = 4
"""Blocks that take as long as the start and the end of a sum, where few are left."""


@dataclass(frozen=True, slots=True)
class SparseTile(Tile):
    """A tile whose weights are held without the blocks that are zero."""

    is_sparse: bool = True


@dataclass(frozen=True, slots=True)
class SparseSizes:
    """The sizes of a product or convolution, and how many blocks of its weights aren't zero.

    Attributes:
        held: for a product, the blocks of a panel that aren't zero, on average; for a convolution, their percentage.
    """

    sizes: Gemm | Convolution
    held: int


def _blocks(weights: np.ndarray, tile: Tile, instruction: Instruction) -> np.ndarray:
    """Cut weights `[K, N]` into `[panel, step, column of the tile, product of a step]`."""
    (k, n), together = weights.shape, instruction.k_per_instruction
    return panels(weights.reshape(k // together, together, n).transpose(0, 2, 1), tile)


def mean_held_blocks(weights: np.ndarray, tile: Tile, instruction: Instruction) -> int:
    """Return how many blocks of a panel of weights `[K, N]` aren't zero, on average."""
    return ceil(_blocks(weights, tile, instruction).any((2, 3)).sum(1).mean())


def compressed(weights: np.ndarray, tile: Tile, instruction: Instruction) -> list[np.ndarray]:
    """Return the blocks of weights `[K, N]` that aren't zero, their first rows, and where each panel's blocks begin."""
    blocks = _blocks(weights, tile, instruction)
    panel, step = np.nonzero(blocks.any((2, 3)))
    starts = np.searchsorted(panel, np.arange(len(blocks) + 1))
    rows = step * instruction.k_per_instruction
    return [instruction.pack(blocks[panel, step]), rows.astype(np.int32), starts.astype(np.int32)]


def sparse_tiles(gemm: Gemm, weights: np.ndarray, machine: Machine) -> list[SparseTile]:
    """Return the tiles with which products take less time without the blocks of weights `[K, N]` that are zero.

    The one with the least estimated time comes first; there are none where the dense kernel takes no more.
    """
    together, costs, whole = gemm.instruction.k_per_instruction, machine.costs, gemm.n // machine.lanes
    if weights.shape[0] % together or not whole:
        return []
    times: dict[SparseTile, float] = {}
    for vectors in range(1, min(costs.sparse_vectors, whole) + 1):
        widest = Tile(1, vectors * machine.lanes, machine.lanes)
        count = np.count_nonzero(_blocks(weights, widest, gemm.instruction).any((2, 3)))
        for rows in range(1, min(costs.most_rows, gemm.m or costs.most_rows) + 1):
            tile = SparseTile(rows, vectors * machine.lanes, machine.lanes)
            if fits(rows, vectors, machine):
                work = rows * vectors + costs.sparse_load * (rows + vectors)
                times[tile] = count * gemm.heights(rows, machine) * work
    dense = tiles(gemm, machine)[0]
    products = ceil_div(gemm.n, machine.lanes) * weights.shape[0] // together * dense.rows
    limit = costs.sparse_gain * products * gemm.heights(dense.rows, machine)
    return sorted((tile for tile, time in times.items() if time < limit), key=lambda tile: times[tile])


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseMatrix(Matrix):
    """A matrix that is held without the blocks that are zero.

    Attributes:
        held: how many blocks of a panel are held, on average.
    """

    held: int

    @classmethod
    def of(cls, matrix: Matrix, held: int) -> "SparseMatrix":
        """Return a matrix with so many blocks of a panel, whose sums are dequantized as those of another matrix."""
        return cls(matrix.has_offsets, matrix.zero_points, matrix.is_scaled, held=held)

    def declare_right(self, nest: Nest, batch_dims: Sequence[Scalar]) -> Sequence[tirx.Buffer]:
        instruction, count = nest.gemm.instruction, tirx.Var("blocks", "int64")
        width = nest.tile.columns * instruction.k_per_instruction
        return [
            argument("right", (count, width), instruction.rhs_dtype, (1, count, width)),
            argument("block_rows", (count,), "int32"),
            argument("starts", (nest.panels + 1,), "int32"),
        ]

    def multiply(self, nest: Nest, dense: Dense, right: Sequence[tirx.Buffer], result: Result) -> None:
        """Emit the code for parts of so few rows that they stay in the cache while all panels are walked through."""
        together, depth = nest.machine.costs.sparse_rows, (self.held + _BESIDE) * dense.instruction.k_per_instruction
        beside = (dense.offsets, dense.zero_points, dense.scales)
        _, rows, starts = right

        def product_of(panel: Scalar) -> Product:
            return _Sparse(
                *(dense.instruction, dense.x, dense.right, *beside),
                rows=rows,
                bounds=(starts[panel], starts[panel + 1]),
                in_flight=2 * nest.machine.costs.latency,
                most_chains=min(self.held // _LEAST_RUNS, _MOST_CHAINS),
            )

        nest.emit(product_of, result, (nest.rows + together - 1) // together, depth)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sparse(Dense):
    """A product with the blocks of a panel.

    Attributes:
        rows: the first row of each block.
        bounds: the panel's first block, and the one behind its last.
        in_flight: sums that are added to at once.
        most_chains: the most sums of each element.
    """

    rows: tirx.Buffer
    bounds: tuple[tirx.Expr, tirx.Expr]
    in_flight: int
    most_chains: int

    def chains(self, tile: Tile) -> int:
        return max(min(self.in_flight // len(tile.spots), self.most_chains), 1)

    def walk(self, step: Callable[[Scalar, int], None], chains: int) -> None:
        begin, end = self.bounds
        middle = begin
        if chains > 1:
            runs = (end - begin) // chains
            middle = begin + runs * chains
            with T.serial(0, runs) as run:
                step(begin + run * chains, chains)
        with T.serial(middle, end) as block:
            step(block, 1)

    def load_a(self, row: Scalar, first: Scalar, count: int, lanes: int) -> list[Sequence[tirx.Expr]]:
        together, left = self.instruction.k_per_instruction, self.instruction.broadcast_lhs
        places = [ramp(self.rows[first + step], together) for step in range(count)]
        return [left(self.x[row, place], lanes) for place in places]
