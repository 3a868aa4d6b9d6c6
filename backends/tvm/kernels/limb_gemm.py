"""GEMM of float32 with constant 4-bit weights, by the VNNI dot product of bytes.

In each row, a block of numbers is brought to a common scale, on which the largest number has 22 bits, and split into
three digits to the base of 256. This fixed-point form is off by 2^-23 of the largest number at most. The digits are
multiplied with the codes: three instructions for 64 products, where float32 takes four, and only sums of whole blocks
are converted.
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
from .gemm import Gemm, as_matrices, as_matrix, chunks_of, loop_over, packed, stored
from .int8_dot import K_PER_DOT, Form, Instruction
from .machine import Machine
from .tiles import OPAQUE, Tile, Vector, ceil_div, maybe_parallel, row_tiles
from .vectors import Scalar, held, horizontal_max, known, ramp, spread, total

LANES = 16
"""Columns of a vector."""
_DOTS = Instruction(Form.DOTS, LANES)
_DIGITS = 3
_BITS = 22
"""Bits of the largest number in a block, so that its first digit has 7 with the sign."""
_LEAST = 2.0**-100
"""The least size that the largest number of a block counts as, so that the scale has a finite reciprocal."""
_VECTORS = {1: 4, 2: 2, 3: 2, 4: 1}
"""Vectors of a register tile by its rows: each has an accumulator for every digit and one for all blocks."""
_WORD = 2 * K_PER_DOT
"""Codes of a column that are packed together: those of the first four rows lie in the lower bits of bytes."""


def is_limb_gemm(codes: np.ndarray, machine: Machine) -> bool:
    """Whether the machine has VNNI in 512 bits, and the weights `[depth, columns]` fill a vector."""
    return machine.has_wide_dots and codes.shape[1] >= LANES


def limb_tile(gemm: Gemm) -> Tile:
    """Return a tile as wide as a panel of weights; its rows are multiplied at once, in parts of its columns."""
    rows = max(_VECTORS)
    if gemm.rows is not None:
        rows = min(_VECTORS, key=lambda rows: (ceil_div(gemm.rows or 1, rows) * rows, -rows))
    return Tile(rows, min(_VECTORS[1], gemm.columns // LANES) * LANES, LANES)


def packed_limbs(codes: np.ndarray, tile: Tile) -> np.ndarray:
    """Pack codes `[depth, columns]` as `[panel, word, byte]` in int8, four bytes for each column of the tile."""
    depth, columns = codes.shape
    pairs = codes.reshape(depth // _WORD, 2, K_PER_DOT, columns)
    octets = np.ascontiguousarray((pairs[:, 0] | pairs[:, 1] << 4).transpose(0, 2, 1))
    return packed(octets.view(np.int32)[..., 0], tile).view(np.int8)


@lru_cache
def limb_gemm_kernel(gemm: Gemm, block: int, tile: Tile, machine: Machine, epilogue: Epilogue) -> tirx.PrimFunc:
    """Build a kernel of `[*lead, depth]`, packed codes, scales and zero points by block, and the epilogue's operands.

    Its result is `[*lead, columns]`. Scales and zero points (uint8) are packed like a right operand of float32.
    """
    assert gemm.depth is not None
    batch_dims = [
        tirx.Var(f"size{axis}", "int64") if size is None else size for axis, size in enumerate(gemm.batch_dims)
    ]
    rows: Scalar = prod(batch_dims)
    panels, blocks = ceil_div(gemm.columns, tile.columns), gemm.depth // block
    m_splits = chunks_of(gemm, panels, machine)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            x = T.arg("x", T.buffer((*batch_dims, gemm.depth), "float32"))
            codes = T.arg("codes", T.buffer((panels, gemm.depth // _WORD, tile.columns * K_PER_DOT), "int8"))
            scales, zero_points = (
                T.arg(name, T.buffer((panels, blocks, tile.columns), dtype))
                for name, dtype in (("scales", "float32"), ("zero_points", "uint8"))
            )
            beside = operand_buffers(epilogue, (*batch_dims, gemm.columns), gemm.columns)
            y = T.arg("y", T.buffer((*batch_dims, gemm.columns), epilogue.dtype))
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            x, y = (as_matrix(buffer, rows) for buffer in (x, y))
            beside = as_matrices(beside, epilogue, rows)
            left = _Left(
                T.alloc_buffer((_DIGITS, rows, gemm.depth), "int8"),
                *(T.alloc_buffer((rows, blocks), "float32") for _ in range(2)),
            )
            with maybe_parallel(rows * gemm.depth)(0, rows) as row, T.serial(0, blocks) as place:
                left.store(x, row, place, block)
            product = _Product(left, codes, scales, zero_points)
            with imported(machine, epilogue.is_coarse), loop_over(gemm)(0, panels * m_splits) as task:
                chunk, panel = task // panels, task % panels
                column = tirx.min(panel * tile.columns, gemm.columns - tile.columns)
                for height, count in row_tiles(tile.rows, rows):
                    begin, end = (tirx.floordiv(count * place, m_splits) for place in (chunk, chunk + 1))
                    width = min(_VECTORS[height] * LANES, tile.columns)
                    with T.serial(0, end - begin) as step:
                        row = tirx.min((begin + step) * height, rows - height)
                        for start in range(0, tile.columns, width):
                            first = min(start, tile.columns - width)
                            sums = product.sums((row, panel, first), Tile(height, width, LANES))
                            stored(sums, y, beside, (row, column + first), epilogue)
        return builder.get()


@dataclass(frozen=True, slots=True)
class _Left:
    """The buffers that hold the left operand's digits.

    Attributes:
        digits: `[digit, row, depth]`, the lowest first.
        scales: `[row, block]`.
        totals: the negative sums of a block's numbers, on its scale.
    """

    digits: tirx.Buffer
    scales: tirx.Buffer
    horizontal_add: tirx.Buffer

    def store(self, x: tirx.Buffer, row: Scalar, block: Scalar, size: int) -> None:
        """Emit code that splits a block of a row into digits; infinity or NaN in the block makes its scale NaN."""
        places = [ramp(block * size + start, LANES) for start in range(0, size, LANES)]
        whole = ramp(0, LANES)
        bits, sums = (T.alloc_buffer((LANES,), "int32") for _ in range(2))
        for buffer in (bits, sums):
            T.buffer_store(buffer, spread(T.int32(0), LANES), [whole])
        for place in places:  # sizes are ordered as their bits are
            found = held(T.reinterpret(x[row, place], dtype="int32x16") & spread(T.int32(0x7FFFFFFF), LANES))
            T.buffer_store(bits, tirx.Select(found > bits[whole], found, bits[whole]), [whole])
        largest = held(horizontal_max(bits))
        size_of = T.reinterpret(largest, dtype="float32")
        finite = tirx.Select(size_of > T.float32(_LEAST), size_of, T.float32(_LEAST)) * T.float32(2.0**-_BITS)
        scale = held(tirx.Select(largest < T.int32(0x7F800000), finite, T.float32(float("nan"))))
        inverse = held(T.float32(1) / scale)
        for place in places:
            number = held(tirx.nearbyint(x[row, place] * spread(inverse, LANES)).astype("int32x16"))
            T.buffer_store(sums, sums[whole] - number, [whole])
            for digit in range(_DIGITS):
                T.buffer_store(self.digits, number.astype("int8x16"), [digit, row, place])
                number = held((number + spread(T.int32(128), LANES)) >> spread(T.int32(8), LANES))
        T.buffer_store(self.scales, scale, [row, block])
        T.buffer_store(self.horizontal_add, total(sums).astype("float32"), [row, block])


@dataclass(frozen=True, slots=True)
class _Product:
    """Code for tiles of a product."""

    left: _Left
    codes: tirx.Buffer
    scales: tirx.Buffer
    zero_points: tirx.Buffer

    def sums(self, place: tuple[Scalar, Scalar, int], tile: Tile) -> list[Vector]:
        """Emit the sums of a tile at a row, a panel and a column in it: line, column, lanes and sums of each vector."""
        row, panel, first = place
        sums = T.alloc_buffer((tile.rows * tile.columns,), "float32")
        for _, _, lanes, slot in tile.spots:
            T.buffer_store(sums, spread(T.float32(0), lanes), [slot])
        blocks = known(self.scales.shape[1])
        words = known(self.codes.shape[1]) // blocks
        with T.serial(0, blocks) as block:
            parts = [T.alloc_buffer((tile.rows * tile.columns,), "int32") for _ in range(_DIGITS)]
            for part in parts:
                for _, _, lanes, slot in tile.spots:
                    T.buffer_store(part, spread(T.int32(0), lanes), [slot])
            with T.serial(0, words) as step:
                self._add(parts, (row, panel, first), block * words + step, tile)
            for line, start, lanes, slot in tile.spots:
                at = ramp(first + start, lanes)
                low, middle, high = (part[slot].astype(f"float32x{lanes}") for part in parts)
                found = held(high * spread(T.float32(256), lanes) + middle)
                found = held(found * spread(T.float32(256), lanes) + low)
                zero_point = self.zero_points[panel, block, at].astype(f"float32x{lanes}")
                found = held(found + zero_point * spread(self.left.horizontal_add[row + line, block], lanes))
                scale = self.scales[panel, block, at] * spread(self.left.scales[row + line, block], lanes)
                T.buffer_store(sums, sums[slot] + found * scale, [slot])
        return [(line, start, lanes, sums[slot]) for line, start, lanes, slot in tile.spots]

    def _add(self, parts: list[tirx.Buffer], place: tuple[Scalar, Scalar, int], word: tirx.Expr, tile: Tile) -> None:
        """Emit code that adds the products of a word of codes."""
        row, panel, first = place
        low = spread(T.int32(0x0F0F0F0F), LANES)
        octets = [
            held(
                T.reinterpret(
                    self.codes[panel, word, ramp((first + start) * K_PER_DOT, LANES * K_PER_DOT)], dtype="int32x16"
                )
            )
            for start, _ in tile.vectors
        ]
        for half in range(2):
            codes = {
                start: held(T.reinterpret((both >> spread(T.int32(4 * half), LANES)) & low, dtype="int8x64"))
                for (start, _), both in zip(tile.vectors, octets, strict=True)
            }
            for digit, part in enumerate(parts):
                for line, start, lanes, slot in tile.spots:
                    quad = self.left.digits[digit, row + line, ramp(word * _WORD + half * K_PER_DOT, K_PER_DOT)]
                    same = T.reinterpret(T.broadcast(T.reinterpret(quad, dtype="int32"), lanes), dtype="int8x64")
                    T.buffer_store(part, _DOTS.multiply_add(part[slot], codes[start], same), [slot])
