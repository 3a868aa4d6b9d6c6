"""GEMM of float32 with constant weights in 2, 4 or 8 bits, with a scale and a zero point for each block along K.

Few rows are multiplied with the codes as they come out of memory, whose bandwidth is the limit: the products of a block
are summed first, and then scaled. For more rows, each panel of weights is dequantized once, and the rest is a GEMM of
float32. VNNI multiplies any number of rows with the codes: numbers are brought to a common scale in each block, and
split into three limbs, digits to the base of 256 (docs/tvm.md, "Weights of few bits").
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeAlias

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .epilogue import Result
from .gemm import Dense, Gemm, Nest, Operands, Place, Product, panels, tiles
from .instructions.base import FMA
from .instructions.few_bits import FewBits, FewBitsDot, FewBitsFma
from .machine import Machine
from .prim_func import argument, either, maybe_parallel
from .tiles import Spot, Tile, Vector
from .vectors import Register, Scalar, cast, ceil_div, greater, held, known, number, ramp, spread, zeros

Buffers: TypeAlias = tuple[tirx.Buffer, tirx.Buffer, tirx.Buffer]
"""Codes, scales and zero points."""
_LANES = 16
"""Columns of a vector of limbs' products."""
_LIMBS = 3
_BITS = 22
"""Bits of the largest number in a block, so that its first limb has 7 with the sign."""
_LONGEST = 2 ** (30 - _BITS)
"""The numbers of the longest block whose sum fits into 32 bits with its sign, whatever they are."""
_LEAST = 2.0**-100
"""The least size that the largest number of a block counts as, so that the scale has a finite reciprocal."""
_VECTORS = {1: 4, 2: 2, 3: 2, 4: 1}
"""Vectors of a register tile of limbs by its rows: each has an accumulator for every limb and one for all blocks."""


@dataclass(frozen=True, slots=True)
class FewBitsOperands(Operands):
    """Codes of weights in few bits, with scales and zero points that the rows of a block share."""

    block: int
    instruction: FewBits

    @staticmethod
    def of(codes: np.ndarray, bits: int, block: int, machine: Machine) -> "FewBitsOperands":
        """Return the operands for codes `[K, N]`: as limbs, where VNNI has vectors of 512 bits that they fill."""
        if machine.has_wide_dots and codes.shape[1] >= _LANES and block <= _LONGEST:
            return LimbOperands(block, FewBitsDot(_LANES, bits))
        return FloatOperands(block, FewBitsFma(bits, machine.is_x86))

    @abstractmethod
    def tile(self, gemm: Gemm, machine: Machine) -> Tile:
        """Return a tile with the columns of a panel and the rows that are multiplied at once."""

    def packed(self, codes: np.ndarray, scales: np.ndarray, zero_points: np.ndarray, tile: Tile) -> list[np.ndarray]:
        """Pack codes `[K, N]`, scales and zero points `[block, N]` as `[panel, word or block, column of the tile]`."""
        parts = self.instruction.words(codes), scales, self.instruction.zero_points(zero_points)
        return [panels(part, tile) for part in parts]

    def emit(self, nest: Nest, batch_dims: Sequence[Scalar], declare: Callable[[], Result]) -> None:
        k, panels, columns = known(nest.x.shape[1]), nest.panels, nest.tile.columns
        codes = argument("codes", (panels, k // self.instruction.word, columns), self.instruction.rhs_dtype)
        scales = argument("scales", (panels, k // self.block, columns))
        zero_points = argument("zero_points", (panels, k // self.block, columns), self.instruction.zero_point_dtype)
        self.multiply(nest, (codes, scales, zero_points), declare())

    @abstractmethod
    def multiply(self, nest: Nest, buffers: Buffers, result: Result) -> None:
        """Emit the kernel's code."""


class FloatOperands(FewBitsOperands):
    """Weights that are multiplied with the left operand's elements as they are."""

    def tile(self, gemm: Gemm, machine: Machine) -> Tile:
        if gemm.m is None or gemm.m > machine.costs.few_bits_rows:
            return tiles(gemm, machine)[0]
        return Tile(gemm.m, min(_few_columns(gemm.m, machine), gemm.n), machine.lanes)

    def multiply(self, nest: Nest, buffers: Buffers, result: Result) -> None:
        most, machine, blocks = nest.machine.costs.few_bits_rows, nest.machine, known(buffers[1].shape[1])

        def few() -> None:
            totals = T.alloc_buffer((most, blocks), "float32")
            with T.serial(0, nest.rows) as row, T.serial(0, blocks) as block:
                sums = Register.of(zeros("float32", machine.lanes))
                for start in range(0, self.block, machine.lanes):
                    sums.set(sums.value - nest.x[row, ramp(block * self.block + start, machine.lanes)])
                T.buffer_store(totals, sums.total(), [row, block])
            product = _FewRows(self.instruction, *buffers, totals, lambda _, *at: nest.x[at], machine)
            replace(nest, tile=replace(nest.tile, rows=most)).emit(lambda panel: product, result, 1)

        either(nest.rows <= most, few, lambda: nest.emit(lambda panel: self._dequantized(nest, buffers, panel), result))

    def _dequantized(self, nest: Nest, buffers: Buffers, panel: Scalar) -> Product:
        """Emit a buffer `[1, K, column of the tile]` with a panel's weights in float32; return the product with it."""
        codes, scales, zero_points = buffers
        whole, count = T.alloc_buffer((1, nest.x.shape[1], nest.tile.columns), "float32"), self.instruction.word
        words = self.block // count
        with T.serial(0, scales.shape[1]) as block:
            for start, lanes in nest.tile.vectors:
                at = ramp(start, lanes)
                scale, zero_point = held(scales[panel, block, at]), held(cast(zero_points[panel, block, at], "float32"))
                with T.serial(0, words) as step:
                    word = held(codes[panel, block * words + step, at])
                    for index in range(count):
                        weight = (self.instruction.unpack(word, index) - zero_point) * scale
                        T.buffer_store(whole, weight, [0, (block * words + step) * count + index, at])
        return Dense(FMA, nest.x, whole)


class LimbOperands(FewBitsOperands):
    """Weights that are multiplied with limbs of the left operand's elements."""

    def tile(self, gemm: Gemm, machine: Machine) -> Tile:
        rows, vectors = max(_VECTORS), _VECTORS[1]  # any number of rows, or one
        if gemm.m is not None:  # codes are read as they lie
            rows = min(_VECTORS, key=lambda rows: (ceil_div(gemm.m or 1, rows) * rows, -rows))
            vectors = _VECTORS[rows]
        return Tile(rows, min(vectors, gemm.n // _LANES) * _LANES, _LANES)

    def multiply(self, nest: Nest, buffers: Buffers, result: Result) -> None:
        blocks, k = known(buffers[1].shape[1]), known(nest.x.shape[1])
        limbs = T.alloc_buffer((_LIMBS, nest.rows, k), "int8")
        row_scales, totals = (T.alloc_buffer((nest.rows, blocks), "float32") for _ in range(2))
        loop = maybe_parallel(nest.rows * k, nest.machine.costs.vector_work)
        with loop(0, nest.rows) as row, T.serial(0, blocks) as block:
            places = [ramp(block * self.block + start, _LANES) for start in range(0, self.block, _LANES)]
            scale, sums = _split(nest.x, row, places, limbs)
            T.buffer_store(row_scales, scale, [row, block])
            T.buffer_store(totals, sums.total().astype("float32"), [row, block])
        product = _Limbs(self.instruction, *buffers, totals, lambda *at: limbs[at], row_scales)
        nest.emit(lambda panel: product, result)


def _split(x: tirx.Buffer, row: Scalar, places: Sequence[Scalar], limbs: tirx.Buffer) -> tuple[tirx.Expr, Register]:
    """Emit code that splits a block of a row into limbs; return its scale and the negative sums of digits.

    Infinity or NaN in the block makes its scale NaN.
    """
    bits, sums = (Register.of(zeros("int32", _LANES)) for _ in range(2))
    for place in places:  # sizes are ordered as their bits are
        found = held(T.reinterpret(x[row, place], dtype="int32x16") & number(0x7FFFFFFF, bits.value))
        bits.set(greater(found, bits.value))
    largest = held(bits.folded(greater))
    finite = greater(T.reinterpret(largest, dtype="float32"), T.float32(_LEAST)) * T.float32(2.0**-_BITS)
    scale = held(tirx.Select(largest < T.int32(0x7F800000), finite, T.float32(float("nan"))))
    inverse = held(T.float32(1) / scale)
    for place in places:
        digits = held(tirx.nearbyint(x[row, place] * spread(inverse, _LANES)).astype("int32x16"))
        sums.set(sums.value - digits)
        for limb in range(_LIMBS):
            T.buffer_store(limbs, digits.astype("int8x16"), [limb, row, place])
            digits = held((digits + number(128, digits)) >> number(8, digits))
    return scale, sums


def _few_columns(rows: int, machine: Machine) -> int:
    """Return a tile's columns for few rows: a vector takes a register for codes and, for each row, two for sums."""
    return max(min((machine.registers - 2) // (2 * rows + 1), machine.costs.few_bits_vectors), 1) * machine.lanes


@dataclass(frozen=True, slots=True)
class _Blocks(Product):
    """A product with codes `[panel, word, column of the tile]`, scaled block by block.

    Scales and zero points are `[panel, block, column of the tile]`, totals the negative sums of a row's elements
    `[row, block]`; `left` returns elements of the left operand for a limb, a row and places along K.
    """

    instruction: FewBits
    codes: tirx.Buffer
    scales: tirx.Buffer
    zero_points: tirx.Buffer
    totals: tirx.Buffer
    left: Callable[[int, Scalar, Scalar], tirx.Expr]
    block: Scalar = field(default=0, kw_only=True)

    def sums(self, place: Place, tile: Tile) -> Iterator[Vector]:
        sums = tile.zeros()
        with T.serial(0, self.scales.shape[1]) as block:
            for spot, found in zip(tile.spots, Product.sums(replace(self, block=block), place, tile), strict=True):
                T.buffer_store(sums, sums[spot[-1]] + found[-1], [spot[-1]])
        for line, start, lanes, slot in tile.spots:
            yield line, start, lanes, sums[slot]

    def walk(self, step: Callable[[Scalar, int], None], chains: int) -> None:
        words = known(self.codes.shape[1]) // known(self.scales.shape[1])
        with T.serial(0, words) as word:
            step(self.block * words + word, self.instruction.word // self.instruction.k_per_instruction)

    def load_a(self, row: Scalar, first: Scalar, count: int, lanes: int) -> list[Sequence[tirx.Expr]]:
        together, left = self.instruction.k_per_instruction, self.instruction.broadcast_lhs
        places = [ramp(first * self.instruction.word + step * together, together) for step in range(count)]
        return [[left(self.left(limb, row, at), lanes)[0] for limb in range(self.limbs)] for at in places]

    def load_b(self, place: Place, first: Scalar, count: int, tile: Tile) -> Iterator[Mapping[int, tirx.Expr]]:
        panel, column = place.right
        words = {start: held(self.codes[panel, first, ramp(column + start, lanes)]) for start, lanes in tile.vectors}
        for step in range(count):
            yield {start: held(self.instruction.unpack(vector, step)) for start, vector in words.items()}

    def beside(self, place: Place, spot: Spot) -> tuple[tirx.Expr, tirx.Expr]:
        """Return a vector's scales, and what its zero points add to the sums of a block."""
        line, start, lanes, _ = spot
        at = (place.right[0], self.block, ramp(place.right[1] + start, lanes))
        total = spread(self.totals[place.row + line, self.block], lanes)
        return self.scales[at], cast(self.zero_points[at], "float32") * total


@dataclass(frozen=True, slots=True)
class _FewRows(_Blocks):
    """A product of up to 8 rows with codes."""

    machine: Machine

    def width(self, height: int, columns: int) -> int:
        return min(_few_columns(height, self.machine), columns)

    def initialise(self, place: Place, spot: Spot) -> tirx.Expr:
        return self.beside(place, spot)[1]

    def store_c(self, place: Place, spot: Spot, sums: Sequence[tirx.Expr]) -> tirx.Expr:
        return sums[0] * self.beside(place, spot)[0]


@dataclass(frozen=True, slots=True)
class _Limbs(_Blocks):
    """A product of any number of rows with codes, in fixed point: limbs are scaled by row and block."""

    row_scales: tirx.Buffer
    limbs: ClassVar[int] = _LIMBS

    def width(self, height: int, columns: int) -> int:
        return min(_VECTORS[height] * _LANES, columns)

    def initialise(self, place: Place, spot: Spot) -> tirx.Expr:
        return zeros("int32", spot[2])

    def store_c(self, place: Place, spot: Spot, sums: Sequence[tirx.Expr]) -> tirx.Expr:
        low, middle, high = (cast(part, "float32") for part in sums)
        found = held(high * number(256, high) + middle)
        found = held(found * number(256, found) + low)
        scales, beside = self.beside(place, spot)
        return held(found + beside) * (scales * spread(self.row_scales[place.row + spot[0], self.block], spot[2]))
