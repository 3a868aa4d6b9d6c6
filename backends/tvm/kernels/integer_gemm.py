# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none, reportOperatorIssue=none, reportReturnType=none
"""Products of uint8 with constant weights in int8, by the instruction that multiplies and adds four pairs at once (VNNI).

Sums are of int32 and exact; they start from what undoes the left operand's zero point. In registers they become float32, by a
scale for each column, before what follows is computed on them.
"""

from functools import lru_cache
from math import gcd, prod
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .dots import DEPTH, LANES, with_dots
from .epilogue import Epilogue, operand_buffers
from .gemm import Gemm, as_matrices, as_matrix, best_tile, loop_over, stored
from .machine import Machine
from .tiles import OPAQUE, Tile, ceil_div, heights
from .vectors import lanes_at


def is_integer_gemm(weights: np.ndarray, machine: Machine) -> bool:
    """Whether there is a kernel for the machine, and the weights `[depth, columns]` make whole instructions."""
    depth, columns = weights.shape
    return machine.has_vnni and depth % DEPTH == 0 and columns >= LANES


def integer_tile(gemm: Gemm, machine: Machine) -> Tile:
    """Of whole vectors; the last tile overlaps the one before it."""
    return best_tile(Gemm(gemm.lead, gemm.depth, gemm.columns // LANES * LANES), machine)


def packed_integers(weights: np.ndarray, tile: Tile) -> np.ndarray:
    """Weights `[depth, columns]` as `[panel, depth / 4, column of the tile, 4]`, the last two axes as one."""
    depth, columns = weights.shape
    quads = weights.reshape(depth // DEPTH, DEPTH, columns).transpose(0, 2, 1)
    starts = [min(start, columns - tile.columns) for start in range(0, columns, tile.columns)]
    panels = np.stack([quads[:, start : start + tile.columns] for start in starts])
    return panels.reshape(len(starts), depth // DEPTH, tile.columns * DEPTH)


@lru_cache
def integer_gemm_kernel(gemm: Gemm, tile: Tile, machine: Machine, epilogue: Epilogue) -> tirx.PrimFunc:
    """A kernel of `[*lead, depth]`, packed weights, scales, offsets and the epilogue's operands to `[*lead, columns]`."""
    assert gemm.depth is not None
    lead = [tirx.Var(f"size{axis}", "int64") if size is None else size for axis, size in enumerate(gemm.lead)]
    rows: Any = prod(lead)
    panels, quads = ceil_div(gemm.columns, tile.columns), gemm.depth // DEPTH
    chunks = 1 if gemm.rows == 1 else machine.threads // gcd(panels, machine.threads)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            x = T.arg("x", T.buffer((*lead, gemm.depth), "uint8"))
            weights = T.arg("weights", T.buffer((panels, quads, tile.columns * DEPTH), "int8"))
            scales = T.arg("scales", T.buffer((gemm.columns,), "float32"))
            offsets = T.arg("offsets", T.buffer((gemm.columns,), "int32"))
            beside = operand_buffers(epilogue, (*lead, gemm.columns), gemm.columns)
            y = T.arg("y", T.buffer((*lead, gemm.columns), epilogue.dtype))
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            x, y = (as_matrix(buffer, rows) for buffer in (x, y))
            beside = as_matrices(beside, epilogue, rows)
            with loop_over(gemm)(0, panels * chunks) as task:
                panel, chunk = task // chunks, task % chunks
                column = tirx.min(panel * tile.columns, gemm.columns - tile.columns)
                for height, count in heights(tile.rows, rows):
                    begin, end = (tirx.floordiv(count * place, chunks) for place in (chunk, chunk + 1))
                    with T.serial(0, end - begin) as step:
                        row = tirx.min((begin + step) * height, rows - height)
                        place, part = (row, panel, column), Tile(height, tile.columns, LANES)
                        scaled = [
                            (line, start, LANES, sums.astype("float32x16") * scales[lanes_at(column + start, LANES)])
                            for line, start, sums in _sums(x, weights, offsets, place, part)
                        ]
                        stored(scaled, y, beside, (row, column), epilogue)
        return builder.get()


def _sums(x: Any, weights: Any, offsets: Any, place: tuple[Any, Any, Any], tile: Tile) -> list[tuple[int, int, Any]]:
    """Code for one tile, at a row, panel and column: line and column of each vector in it, and the sums."""
    row, panel, column = place
    sums = T.alloc_buffer((tile.rows * tile.columns,), "int32")
    for _, start, _, spot in tile.spots:
        T.buffer_store(sums, offsets[lanes_at(column + start, LANES)], [spot])
    with T.serial(0, weights.shape[1]) as k:
        for line, start, _, spot in tile.spots:
            quad = x[row + line, lanes_at(k * DEPTH, DEPTH)]
            right = weights[panel, k, lanes_at(start * DEPTH, LANES * DEPTH)]
            T.buffer_store(sums, with_dots(sums[spot], quad, right), [spot])
    return [(line, start, sums[spot]) for line, start, _, spot in tile.spots]
