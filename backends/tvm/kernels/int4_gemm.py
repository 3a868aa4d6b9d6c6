"""GEMM of float32 with constant 4-bit weights, with a scale and a zero point for each block along the depth K.

Few rows are multiplied with the codes as they come out of memory, whose bandwidth is the limit: the products of a block
are summed first, and then scaled. For more rows, each panel of weights is dequantized once, and the rest is a GEMM of
float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .bfloat16 import imported
from .epilogue import Epilogue, operand_buffers
from .gemm import Gemm, as_matrices, as_matrix, chunks_of, loop_over, packed, stored, tile_sums, tiles
from .machine import Machine
from .rows import filled
from .tiles import OPAQUE, Tile, Vector, ceil_div, row_tiles
from .vectors import Scalar, cast, held, known, ramp, spread, total, vector_type

WORD = 8
"""Codes in 32 bits."""
_FEW = 8
"""Rows up to which codes are unpacked for each tile: for more rows, unpacking a whole panel once is faster."""
_WIDEST = 8
"""The most vectors in a tile of few rows."""


def int4_tile(gemm: Gemm, machine: Machine) -> Tile:
    """Return a tile with the columns of a panel and the rows that are multiplied at once with an unpacked panel."""
    if gemm.rows is None or gemm.rows > _FEW:
        return tiles(gemm, machine)[0]
    return Tile(gemm.rows, min(_few_columns(gemm.rows, machine), gemm.columns), machine.lanes)


def packed_int4(codes: np.ndarray, tile: Tile) -> np.ndarray:
    """Pack codes `[depth, columns]` from 0 to 15, less 8, as `[panel, word, column of the tile]`.

    The first row lies in the lowest bits.
    """
    depth, columns = codes.shape
    signed = (codes ^ WORD).reshape(depth // WORD, WORD, columns)
    words = np.zeros((depth // WORD, columns), np.uint32)
    for index in range(WORD):
        words |= signed[:, index].astype(np.uint32) << np.uint32(4 * index)
    return packed(words.view(np.int32), tile)


@lru_cache
def int4_gemm_kernel(gemm: Gemm, block: int, tile: Tile, machine: Machine, epilogue: Epilogue) -> tirx.PrimFunc:
    """Build a kernel of `[*lead, depth]`, packed codes, scales and zero points by block, and the epilogue's operands.

    Its result is `[*lead, columns]`. Scales and zero points (less 8) are packed like a right operand of float32.
    """
    assert gemm.depth is not None
    batch_dims = [
        tirx.Var(f"size{axis}", "int64") if size is None else size for axis, size in enumerate(gemm.batch_dims)
    ]
    rows: Scalar = prod(batch_dims)
    panels = ceil_div(gemm.columns, tile.columns)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            x = T.arg("x", T.buffer((*batch_dims, gemm.depth), "float32"))
            codes = T.arg("codes", T.buffer((panels, gemm.depth // WORD, tile.columns), "int32"))
            scales, zero_points = (
                T.arg(name, T.buffer((panels, gemm.depth // block, tile.columns), dtype))
                for name, dtype in (("scales", "float32"), ("zero_points", "int8"))
            )
            beside = operand_buffers(epilogue, (*batch_dims, gemm.columns), gemm.columns)
            y = T.arg("y", T.buffer((*batch_dims, gemm.columns), epilogue.dtype))
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            x, y = (as_matrix(buffer, rows) for buffer in (x, y))
            beside = as_matrices(beside, epilogue, rows)
            product = _Product(gemm, rows, block, tile, machine, x, codes, scales, zero_points)

            def store(sums: Sequence[Vector], row: Scalar, column: Scalar) -> None:
                stored(sums, y, beside, (row, column), epilogue)

            with imported(machine, epilogue.is_coarse):
                if gemm.rows is not None:
                    (product.few if gemm.rows <= _FEW else product.many)(store)
                else:
                    with T.If(rows <= _FEW):
                        with T.Then():
                            product.few(store)
                        with T.Else():
                            product.many(store)
        return builder.get()


def _few_columns(rows: int, machine: Machine) -> int:
    """Return a tile's columns for few rows: a vector takes a register for codes and, for each row, two for sums."""
    return max(min((machine.registers - 2) // (2 * rows + 1), _WIDEST), 1) * machine.lanes


@dataclass(frozen=True, slots=True)
class _Product:
    """Code for a product, with few rows or with many."""

    gemm: Gemm
    rows: Scalar
    block: int
    tile: Tile
    machine: Machine
    x: tirx.Buffer
    codes: tirx.Buffer
    scales: tirx.Buffer
    zero_points: tirx.Buffer

    def few(self, store: Callable[[Sequence[Vector], Scalar, Scalar], None]) -> None:
        """Emit products of up to 8 rows with codes, summed by block and then scaled."""
        rows, blocks = self.rows, self.scales.shape[1]
        horizontal_add = T.alloc_buffer((_FEW, blocks), "float32")
        with T.serial(0, rows) as row, T.serial(0, blocks) as block:
            T.buffer_store(horizontal_add, self._total(row, block), [row, block])
        with loop_over(self.gemm)(0, self.scales.shape[0]) as panel:
            column = self._column(panel)
            for height, count in row_tiles(_FEW, rows):
                width = min(_few_columns(height, self.machine), self.tile.columns)
                starts = range(0, self.tile.columns, width)
                with T.serial(0, count) as step:
                    row = tirx.min(step * height, rows - height)
                    for start in (min(start, self.tile.columns - width) for start in starts):
                        sums = self._sums(horizontal_add, (row, panel, start), Tile(height, width, self.tile.lanes))
                        store(sums, row, column + start)

    def many(self, store: Callable[[Sequence[Vector], Scalar, Scalar], None]) -> None:
        """Emit products of any number of rows with panels that are dequantized to float32 first."""
        rows, panels = self.rows, known(self.scales.shape[0])
        m_splits = chunks_of(self.gemm, panels, self.machine)
        with loop_over(self.gemm)(0, panels * m_splits) as task:
            chunk, panel = task // panels, task % panels
            column, whole = self._column(panel), self._dequantized(panel)
            for height, count in row_tiles(self.tile.rows, rows):
                begin, end = (tirx.floordiv(count * place, m_splits) for place in (chunk, chunk + 1))
                with T.serial(0, end - begin) as step:
                    row = tirx.min((begin + step) * height, rows - height)
                    tile = Tile(height, self.tile.columns, self.tile.lanes)
                    store(tile_sums(self.x, whole, row, (0, 0), tile, self.gemm), row, column)

    def _column(self, panel: Scalar) -> tirx.Expr:
        return tirx.min(panel * self.tile.columns, self.gemm.columns - self.tile.columns)

    def _total(self, row: Scalar, block: Scalar) -> tirx.Expr:
        """Emit the negative sum of a row's elements in a block."""
        lanes = self.machine.lanes
        gathered, place = filled(self.machine, T.float32(0)), ramp(0, lanes)
        for start in range(0, self.block, lanes):
            vector = self.x[row, ramp(block * self.block + start, lanes)]
            T.buffer_store(gathered, gathered[place] - vector, [place])
        return total(gathered)

    def _sums(self, horizontal_add: tirx.Buffer, place: tuple[Scalar, Scalar, int], tile: Tile) -> list[Vector]:
        """Emit the sums of a tile at a row, a panel and a column in it: line, column, lanes and sums of each vector."""
        row, panel, first = place
        sums, part = (T.alloc_buffer((tile.rows * tile.columns,), "float32") for _ in range(2))
        for _, _, lanes, slot in tile.spots:
            T.buffer_store(sums, spread(T.float32(0), lanes), [slot])
        with T.serial(0, self.scales.shape[1]) as block:
            for line, start, lanes, slot in tile.spots:
                zero_point = cast(self.zero_points[panel, block, ramp(first + start, lanes)], "float32")
                T.buffer_store(part, zero_point * spread(horizontal_add[row + line, block], lanes), [slot])
            with T.serial(0, self.block // WORD) as step:
                word = block * (self.block // WORD) + step
                codes = {
                    start: held(self.codes[panel, word, ramp(first + start, lanes)]) for start, lanes in tile.vectors
                }
                for index in range(WORD):
                    numbers = {start: held(self._number(words, index)) for start, words in codes.items()}
                    for line, start, lanes, slot in tile.spots:
                        left = spread(self.x[row + line, word * WORD + index], lanes)
                        T.buffer_store(part, part[slot] + left * numbers[start], [slot])
            for _, start, lanes, slot in tile.spots:
                scale = self.scales[panel, block, ramp(first + start, lanes)]
                T.buffer_store(sums, sums[slot] + part[slot] * scale, [slot])
        return [(line, start, lanes, sums[slot]) for line, start, lanes, slot in tile.spots]

    def _dequantized(self, panel: Scalar) -> tirx.Buffer:
        """Emit a buffer `[1, depth, column of the tile]` with a panel's dequantized weights."""
        assert self.gemm.depth is not None
        whole = T.alloc_buffer((1, self.gemm.depth, self.tile.columns), "float32")
        with T.serial(0, self.scales.shape[1]) as block:
            for start, lanes in self.tile.vectors:
                at = ramp(start, lanes)
                scale = held(self.scales[panel, block, at])
                zero_point = held(cast(self.zero_points[panel, block, at], "float32"))
                with T.serial(0, self.block // WORD) as step:
                    word = block * (self.block // WORD) + step
                    codes = held(self.codes[panel, word, at])
                    for index in range(WORD):
                        number = (self._number(codes, index) - zero_point) * scale
                        T.buffer_store(whole, number, [0, word * WORD + index, at])
        return whole

    def _number(self, words: tirx.Expr, index: int) -> tirx.Expr:
        """Return the codes at an index in words, as floats from -8 to 7."""
        lanes = words.ty.dtype.lanes
        if lanes == 16 and self.machine.is_x86:  # a table in a register, of whose index 4 bits count
            shifted = words >> tirx.const(4 * index, "int32x16") if index else words
            table = tirx.Shuffle([T.float32((code + 8) % 16 - 8) for code in range(16)], list(range(16)))
            instruction = T.llvm_lookup_intrinsic_id("llvm.x86.avx512.permvar.sf.512")
            return T.call_llvm_pure_intrin(instruction, table, shifted, dtype="float32x16")
        wide = vector_type("int32", words)
        top = words << tirx.const(28 - 4 * index, wide) if index < WORD - 1 else words
        return cast(top >> tirx.const(28, wide), "float32")
