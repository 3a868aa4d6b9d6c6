"""GEMM in float32, with constant weights or of two computed operands, and in bfloat16 with constant weights.

A register tile of the result accumulates while the kernel walks the depth K: each step loads a row of the packed
weights, broadcasts an element of each row and multiplies them (Goto and van de Geijn, "Anatomy of High-Performance
Matrix Multiplication", 2008). Where rows or columns don't divide into tiles, the last tile overlaps the one before it
and computes some elements twice: that costs less than masks, and nothing is accessed beyond the end.

Factors in bfloat16 are multiplied in pairs, whose products are added to float32 accumulators at once. So the weights'
rows are stored in pairs, and the last row of an odd K is paired with zeros.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import gcd, prod

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .bfloat16 import BFLOAT16, imported, pairs_added, stored_as
from .epilogue import Broadcast, Epilogue, operand_buffers
from .machine import Machine
from .tiles import LATENCY, OPAQUE, Loop, Tile, Vector, ceil_div, row_tiles
from .vectors import Scalar, ramp, spread

_MOST_ROWS = 8
"""The most rows read side by side: at a distance of a power of two, they share a set of L1."""
_ENOUGH = 32
"""Rows per thread from which a thread may read all weights: with fewer rows, weights would hold it up."""
_SMALL = 1 << 16
"""Multiply-adds below which waking other threads costs more than they save."""


@dataclass(frozen=True, slots=True)
class Gemm:
    """The sizes of a GEMM.

    Attributes:
        lead: the sizes of the axes before the last one, which together are the rows; None where a size isn't known.
        depth: the length of the sums, K; None where it isn't known.
        columns: the right operand's, N.
        batch: how many of the leading axes number right operands instead of rows.
        is_packed: whether the right operand is packed weights.
        dtype: of both operands; bfloat16 with packed weights alone.
    """

    batch_dims: tuple[int | None, ...]
    depth: int | None
    columns: int
    batch: int = 0
    is_packed: bool = True
    dtype: str = "float32"

    @property
    def steps(self) -> int | None:
        """Multiply-adds per accumulator: K, or K/2 for pairs of bfloat16; None where K isn't known."""
        return self.depth if self.depth is None or self.dtype == "float32" else ceil_div(self.depth, 2)

    @property
    def rows(self) -> int | None:
        """The rows of one product, M; None where they aren't known."""
        sizes = [size for size in self.batch_dims[self.batch :] if size is not None]
        return prod(sizes) if len(sizes) == len(self.batch_dims) - self.batch else None


def tiles(gemm: Gemm, machine: Machine, *, holds_rows: bool = False) -> list[Tile]:
    """Return all tiles that fit into the registers, the one with the least estimated time first.

    Tiles are ordered by rounds of multiply-adds, and then by the elements read per multiply-add. Where `holds_rows`, an
    element of every row stays in a register, instead of one at a time.
    """
    rows, m_splits = gemm.rows, row_chunks(gemm, machine)

    def cost(tile: Tile) -> tuple[float, float]:
        vectors, work = len(tile.vectors), tile.rows * len(tile.vectors)
        high = 1 / tile.rows if rows is None else ceil_div(ceil_div(rows, tile.rows), m_splits) * m_splits
        count = ceil_div(gemm.columns, tile.columns) * high
        return count * max(work, tile.rows + vectors, LATENCY), (tile.rows + vectors * machine.lanes) / work

    return sorted(dict.fromkeys(_tiles(gemm, machine, holds_rows=holds_rows)), key=cost)


def row_chunks(gemm: Gemm, machine: Machine) -> int:
    """Return into how many parts rows are cut before columns are.

    With enough rows, each thread keeps the same rows from one layer to the next: what it reads lies in its core's
    caches, and threads fetch nothing from each other but weights.
    """
    rows = gemm.rows
    return machine.threads if rows is not None and not gemm.batch and rows >= machine.threads * _ENOUGH else 1


def _tiles(gemm: Gemm, machine: Machine, *, holds_rows: bool) -> Iterator[Tile]:
    """Yield all tiles that fit into the registers, beside a row of weights and the elements multiplied with it."""
    most = _MOST_ROWS if gemm.rows is None else min(_MOST_ROWS, gemm.rows)
    for rows, vectors in product(range(1, most + 1), range(1, machine.registers)):
        if rows * vectors + vectors + (rows if holds_rows else 1) <= machine.registers:
            yield Tile(rows, min(vectors * machine.lanes, _tiled_columns(gemm, machine)), machine.lanes)


def _tiled_columns(gemm: Gemm, machine: Machine) -> int:
    """Return the columns that tiles may cover: pairs of bfloat16 fill whole vectors alone."""
    return gemm.columns if gemm.dtype == "float32" else gemm.columns // machine.lanes * machine.lanes


def packed(weights: np.ndarray, tile: Tile) -> np.ndarray:
    """Pack weights `[depth, columns]` as `[panel, depth, column of the tile]`."""
    columns = weights.shape[1]
    starts = [min(start, columns - tile.columns) for start in range(0, columns, tile.columns)]
    return np.stack([weights[:, start : start + tile.columns] for start in starts])


def is_paired_gemm(weights: np.ndarray, machine: Machine) -> bool:
    """Whether weights `[depth, columns]` are bfloat16, and the machine has a kernel for them."""
    return weights.dtype.name == BFLOAT16 and machine.has_bfloat16 and weights.shape[1] >= machine.lanes


def paired(weights: np.ndarray) -> np.ndarray:
    """Pack bfloat16 weights `[depth, columns]` as int32 pairs `[depth / 2, columns]`, odd rows in the upper half."""
    depth, columns = weights.shape
    even = np.zeros((ceil_div(depth, 2), 2, columns), np.uint16)
    even.reshape(-1, columns)[:depth] = weights.view(np.uint16)
    return np.ascontiguousarray(even.transpose(0, 2, 1)).view(np.int32)[..., 0]


@lru_cache
def gemm_kernel(gemm: Gemm, tile: Tile, machine: Machine, epilogue: Epilogue) -> tirx.PrimFunc:
    """Build a kernel of `[*lead, depth]`, a right operand and the epilogue's operands to `[*lead, columns]`."""
    batch_dims = [
        tirx.Var(f"size{axis}", "int64") if size is None else size for axis, size in enumerate(gemm.batch_dims)
    ]
    depth = tirx.Var("depth", "int64") if gemm.depth is None else gemm.depth
    items: Scalar = prod(batch_dims[: gemm.batch])
    rows: Scalar = prod(batch_dims[gemm.batch :])
    panels = ceil_div(gemm.columns, tile.columns)
    m_splits = chunks_of(gemm, panels, machine)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            x = T.arg("x", T.buffer((*batch_dims, depth), gemm.dtype))
            steps = depth if gemm.steps is None else gemm.steps
            form = (panels, steps, tile.columns) if gemm.is_packed else (*batch_dims[: gemm.batch], depth, gemm.columns)
            right = T.arg("right", T.buffer(form, "float32" if gemm.dtype == "float32" else "int32"))
            beside = operand_buffers(epilogue, (*batch_dims, gemm.columns), gemm.columns)
            y = T.arg("y", T.buffer((*batch_dims, gemm.columns), epilogue.dtype))
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            x, y = (as_matrix(buffer, items * rows) for buffer in (x, y))
            beside = as_matrices(beside, epilogue, items * rows)
            if not gemm.is_packed:
                right = T.decl_buffer((items, depth, gemm.columns), "float32", data=right.data)
            tasks = loop_over(gemm)(0, items * (panels * m_splits))
            with imported(machine, gemm.dtype == BFLOAT16 or epilogue.is_coarse), tasks as task:
                item, chunk, panel = task // (panels * m_splits), task // panels % m_splits, task % panels
                column = tirx.min(panel * tile.columns, gemm.columns - tile.columns)
                origin = (panel, 0) if gemm.is_packed else (item, column)
                for height, count in row_tiles(tile.rows, rows):
                    begin, end = (tirx.floordiv(count * place, m_splits) for place in (chunk, chunk + 1))
                    with T.serial(0, end - begin) as step:
                        row = item * rows + tirx.min((begin + step) * height, rows - height)
                        sums = tile_sums(x, right, row, origin, Tile(height, tile.columns, tile.lanes), gemm)
                        stored(sums, y, beside, (row, column), epilogue)
        return builder.get()


def chunks_of(gemm: Gemm, panels: int, machine: Machine) -> int:
    """Return into how many parts rows are cut, so that all threads have equally many tasks."""
    m_splits = row_chunks(gemm, machine)
    return m_splits if m_splits > 1 or gemm.rows == 1 else machine.threads // gcd(panels, machine.threads)


def loop_over(gemm: Gemm) -> Loop:
    """Return the loop over tasks: parallel unless the product is known to be small."""
    sizes = (*gemm.batch_dims, gemm.depth, gemm.columns)
    known = [size for size in sizes if size is not None]
    return T.serial if len(known) == len(sizes) and prod(known) < _SMALL else T.parallel


def as_matrix(buffer: tirx.Buffer, rows: Scalar) -> tirx.Buffer:
    """View a buffer as a matrix, with all axes before the last one as rows."""
    return T.decl_buffer((rows, buffer.shape[-1]), stored_as(str(buffer.dtype)), data=buffer.data)


def as_matrices(operands: Sequence[tirx.Buffer], epilogue: Epilogue, rows: Scalar) -> list[tirx.Buffer]:
    """View the epilogue's operands as matrices, except for those with a number for each channel."""
    pairs = zip(operands, epilogue.operands, strict=True)
    return [buffer if operand.reach is Broadcast.CHANNELS else as_matrix(buffer, rows) for buffer, operand in pairs]


def tile_sums(
    x: tirx.Buffer, right: tirx.Buffer, row: Scalar, origin: tuple[Scalar, Scalar], tile: Tile, gemm: Gemm
) -> list[Vector]:
    """Emit the sums of one register tile: line, column, lanes and sums of each vector.

    Args:
        x: the left operand.
        right: the right operand.
        row: the tile's first row.
        origin: the first index into `right`, and the first column.
        tile: the tile's size.
        gemm: the product that the tile is a part of.
    """
    sums = T.alloc_buffer((tile.rows * tile.columns,), "float32")
    for _, _, lanes, slot in tile.spots:
        T.buffer_store(sums, spread(T.float32(0), lanes), [slot])

    def add(
        step: Scalar,
        left: Callable[[Scalar], tirx.Expr],
        multiply_add: Callable[[tirx.Expr, tirx.Expr, tirx.Expr], tirx.Expr],
    ) -> None:
        for line, start, lanes, slot in tile.spots:
            factor = right[origin[0], step, ramp(origin[1] + start, lanes)]
            T.buffer_store(sums, multiply_add(sums[slot], spread(left(row + line), lanes), factor), [slot])

    if gemm.dtype == "float32":
        with T.serial(0, right.shape[1]) as k:
            add(k, lambda line: x[line, k], lambda sums, a, b: sums + a * b)
    else:
        depth = gemm.depth
        assert depth is not None
        with T.serial(0, depth // 2) as k:
            add(k, lambda line: T.reinterpret(x[line, ramp(k * 2, 2)], dtype="int32"), pairs_added)
        if depth % 2:
            add(depth // 2, lambda line: x[line, depth - 1].astype("int32"), pairs_added)
    return [(line, start, lanes, sums[slot]) for line, start, lanes, slot in tile.spots]


def stored(
    sums: Sequence[Vector],
    y: tirx.Buffer,
    beside: Sequence[tirx.Buffer],
    place: tuple[Scalar, Scalar],
    epilogue: Epilogue,
) -> None:
    """Emit the epilogue of a tile whose first row and column are given, and store its results."""
    row, column = place
    for line, start, lanes, vector in sums:
        at = ramp(column + start, lanes)

        def load(index: int, line: int = line, at: Scalar = at, lanes: int = lanes) -> tirx.Expr:
            reach = epilogue.operands[index].reach
            if reach is Broadcast.ROWS:
                return spread(beside[index][row + line, 0], lanes)
            return beside[index][(at,) if reach is Broadcast.CHANNELS else (row + line, at)]

        T.buffer_store(y, epilogue.applied(vector, load), [row + line, at])
