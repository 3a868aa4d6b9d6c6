"""GEMM with constant weights of which whole blocks are zero: only the others are held, and multiplied.

A block is what one instruction multiplies: some neighbours along K, by a tile's columns. Blocks of a panel lie behind
each other, with the first row along K of each beside them (block compressed sparse columns). Each is loaded once for
all rows of a tile, whose left factors are broadcast from where the index says.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .gemm import Dense, Gemm, Nest, Operands, Place, Product, panels
from .instructions.base import Instruction
from .tiles import Tile, ceil_div
from .vectors import Scalar, ramp


@dataclass(frozen=True, slots=True)
class SparseTile(Tile):
    """A tile whose weights are held without the blocks that are zero."""

    is_sparse: bool = True


def compressed(weights: np.ndarray, tile: Tile, instruction: Instruction) -> list[np.ndarray]:
    """Return the blocks of weights `[K, N]` that aren't zero, their first rows, and where each panel's blocks begin."""
    (k, n), together = weights.shape, instruction.k_per_instruction
    blocks = panels(weights.reshape(k // together, together, n).transpose(0, 2, 1), tile)
    panel, step = blocks.any((2, 3)).nonzero()
    starts = np.searchsorted(panel, np.arange(len(blocks) + 1)).astype(np.int32)
    return [instruction.pack(blocks[panel, step]), (step * together).astype(np.int32), starts]


@dataclass(frozen=True, slots=True)
class SparseMatrix(Operands):
    has_offsets: bool = False

    def declare(self, gemm: Gemm, tile: Tile, batch_dims: Sequence[Scalar], k: Scalar) -> Callable[[Nest], None]:
        instruction, count = gemm.instruction, tirx.Var("blocks", "int64")
        right = T.arg("right", T.buffer((count, tile.columns * instruction.k_per_instruction), instruction.rhs_dtype))
        rows = T.arg("rows", T.buffer((count,), "int32"))
        starts = T.arg("starts", T.buffer((ceil_div(gemm.n, tile.columns) + 1,), "int32"))
        offsets = scales = None
        if self.has_offsets:
            offsets = T.arg("offsets", T.buffer((gemm.n,), "int32"))

        def emit(nest: Nest) -> None:
            nest.emit(
                lambda panel: _Blocks(instruction, nest.x, right, offsets, rows=rows, starts=starts, panel=panel),
                tile,
                gemm.m_splits(tile, nest.machine),
            )

        return emit


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks(Dense):
    """A product with the blocks of a panel."""

    rows: tirx.Buffer
    starts: tirx.Buffer
    panel: Scalar

    def walk(self, step: Callable[[Scalar, int], None]) -> None:
        with T.serial(self.starts[self.panel], self.starts[self.panel + 1]) as block:
            step(block, 1)

    def load_a(self, row: Scalar, first: Scalar, count: int, lanes: int) -> list[Sequence[tirx.Expr]]:
        elements = self.x[row, ramp(self.rows[first], self.instruction.k_per_instruction)]
        return [[left] for left in self.instruction.broadcast_lhs(elements, lanes)]

    def load_b(self, place: Place, first: Scalar, count: int, tile: Tile) -> Iterator[Mapping[int, tirx.Expr]]:
        column, together = place.right[1], self.instruction.k_per_instruction
        yield {
            start: self.right[first, ramp((column + start) * together, lanes * together)]
            for start, lanes in tile.vectors
        }
