"""GEMM of uint8 with constant int8 weights, by instructions that multiply and add several pairs at once.

Sums are int32 and exact; they start from offsets that undo the left operand's zero points. The epilogue is computed
while the sums are in registers, as are the scales that make floats of them.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .bfloat16 import imported
from .epilogue import Epilogue, operand_buffers
from .gemm import Gemm, as_matrices, as_matrix, chunks_of, loop_over, stored, tiles
from .int8_dot import K_PER_DOT, Instruction
from .machine import Machine
from .tiles import OPAQUE, Tile, Vector, ceil_div, row_tiles
from .vectors import Scalar, known, ramp, spread


def is_integer_gemm(weights: np.ndarray, machine: Machine) -> bool:
    """Whether the machine multiplies integers faster than floats, and weights `[depth, columns]` fill instructions."""
    depth, columns = weights.shape
    return machine.has_integers and depth % K_PER_DOT == 0 and columns >= machine.lanes


def integer_tiles(gemm: Gemm, instruction: Instruction, machine: Machine) -> list[Tile]:
    """Return tiles of whole vectors, the best first; the last tile of a row overlaps the one before it."""
    whole = Gemm(gemm.batch_dims, gemm.depth, gemm.columns // machine.lanes * machine.lanes)
    return tiles(whole, machine, holds_rows=instruction.run > 1)


def packed_integers(weights: np.ndarray, tile: Tile, instruction: Instruction) -> np.ndarray:
    """Pack weights `[depth, columns]` as `[panel, step, column of the tile and product of a sum]`."""
    depth, columns = weights.shape
    groups = weights.reshape(depth // K_PER_DOT, K_PER_DOT, columns).transpose(0, 2, 1)
    starts = [min(start, columns - tile.columns) for start in range(0, columns, tile.columns)]
    return instruction.packed(np.stack([groups[:, start : start + tile.columns] for start in starts]))


@dataclass(frozen=True, slots=True)
class DequantParams:
    """How the operands of a product are dequantized.

    Attributes:
        zero_points: of the left operand: known and part of the offsets (0), one for all rows (1), or one each (2).
        is_scaled: whether sums are multiplied by a scale for each column; otherwise they are left to the epilogue.
    """

    zero_points: int = 0
    is_scaled: bool = False


@lru_cache
def integer_gemm_kernel(
    gemm: Gemm, grids: DequantParams, instruction: Instruction, tile: Tile, machine: Machine, epilogue: Epilogue
) -> tirx.PrimFunc:
    """Build a kernel to `[*lead, columns]`.

    Its arguments are `[*lead, depth]`, packed weights, offsets by column that the sums start from, zero points unless
    they are known (they are multiplied with the offsets), scales, and the epilogue's operands.
    """
    assert gemm.depth is not None
    batch_dims = [
        tirx.Var(f"size{axis}", "int64") if size is None else size for axis, size in enumerate(gemm.batch_dims)
    ]
    rows: Scalar = prod(batch_dims)
    panels, steps = ceil_div(gemm.columns, tile.columns), gemm.depth // K_PER_DOT
    m_splits = chunks_of(gemm, panels, machine)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            x = T.arg("x", T.buffer((*batch_dims, gemm.depth), "uint8"))
            weights = T.arg("weights", T.buffer((panels, steps, tile.columns * K_PER_DOT), instruction.weights))
            offsets = T.arg("offsets", T.buffer((gemm.columns,), "int32"))
            zero_points = scales = None
            if grids.zero_points:
                zero_points = T.arg(
                    "zero_points", T.buffer((*batch_dims, 1) if grids.zero_points > 1 else (1, 1), "uint8")
                )
            if grids.is_scaled:
                scales = T.arg("scales", T.buffer((gemm.columns,), "float32"))
            beside = operand_buffers(epilogue, (*batch_dims, gemm.columns), gemm.columns)
            y = T.arg("y", T.buffer((*batch_dims, gemm.columns), epilogue.dtype))
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            x, y = (as_matrix(buffer, rows) for buffer in (x, y))
            beside = as_matrices(beside, epilogue, rows)
            if zero_points is not None:
                zero_points = as_matrix(zero_points, rows if grids.zero_points > 1 else 1)
            product = _Product(x, weights, offsets, zero_points, grids, instruction)
            with imported(machine, epilogue.is_coarse), loop_over(gemm)(0, panels * m_splits) as task:
                chunk, panel = task // panels, task % panels
                column = tirx.min(panel * tile.columns, gemm.columns - tile.columns)
                for height, count in row_tiles(tile.rows, rows):
                    begin, end = (tirx.floordiv(count * place, m_splits) for place in (chunk, chunk + 1))
                    with T.serial(0, end - begin) as step:
                        row = tirx.min((begin + step) * height, rows - height)
                        sums = product.sums((row, panel, column), Tile(height, tile.columns, tile.lanes))
                        if scales is not None:
                            sums = [_scaled(vector, scales, column) for vector in sums]
                        stored(sums, y, beside, (row, column), epilogue)
        return builder.get()


def _scaled(vector: Vector, scales: tirx.Buffer, column: Scalar) -> Vector:
    line, start, lanes, sums = vector
    return line, start, lanes, sums.astype(f"float32x{lanes}") * scales[ramp(column + start, lanes)]


@dataclass(frozen=True, slots=True)
class _Product:
    """Code for tiles of a product."""

    x: tirx.Buffer
    weights: tirx.Buffer
    offsets: tirx.Buffer
    zero_points: tirx.Buffer | None
    grids: DequantParams
    instruction: Instruction

    def sums(self, place: tuple[Scalar, Scalar, Scalar], tile: Tile) -> list[Vector]:
        """Emit the sums of a tile at a row, panel and column: line, column, lanes and sums of each vector."""
        row, panel, column = place
        instruction, steps = self.instruction, known(self.weights.shape[1])
        sums = T.alloc_buffer((tile.rows * tile.columns,), "int32")
        for line, start, lanes, slot in tile.spots:
            offset = self.offsets[ramp(column + start, lanes)]
            if self.zero_points is not None:
                zero_point = self.zero_points[row + line if self.grids.zero_points > 1 else 0, 0].astype("int32")
                offset = offset * spread(zero_point - instruction.shift, lanes)
            T.buffer_store(sums, offset, [slot])

        def add(first: Scalar, run: int) -> None:
            """Add a run of steps, whose left operands are loaded together."""
            octets = ramp(first * K_PER_DOT, run * K_PER_DOT)
            broadcast_lhs = [instruction.broadcast_lhs(self.x[row + line, octets]) for line in range(tile.rows)]
            for step in range(run):
                for line, start, lanes, slot in tile.spots:
                    right = self.weights[panel, first + step, ramp(start * K_PER_DOT, lanes * K_PER_DOT)]
                    T.buffer_store(
                        sums,
                        instruction.multiply_add(sums[slot], broadcast_lhs[line][step], right),
                        [slot],
                    )

        runs = steps // instruction.run
        if runs:
            with T.serial(0, runs) as k:
                add(k * instruction.run, instruction.run)
        if steps % instruction.run:
            with T.serial(0, steps % instruction.run) as k:
                add(runs * instruction.run + k, 1)
        return [(line, start, lanes, sums[slot]) for line, start, lanes, slot in tile.spots]
