"""Scaled dot-product attention, head by head, of a few queries at a time, whose scores stay in the L1 cache.

A head's keys are transposed once. With no more queries than that, as when a text is generated token by token, they are
multiplied as they lie, a vector of features at a time. Factors in bfloat16 are multiplied in pairs: of features, which
lie side by side, and of keys, whose values are put together once; the softmax between them is taken in float32.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .approximations import coarse_exp, exp
from .instructions.base import FMA, Instruction
from .instructions.bf16_dot import BF16_DOT
from .machine import Machine
from .prim_func import argument, either, kernel, symbol
from .tiles import Tile, Vector, row_tiles
from .vector_math import stored
from .vectors import BFLOAT16, Register, Scalar, ceil_div, each_vector, greater, held, number, ramp, spread

_HEIGHT = 8
"""Queries whose attention is computed at a time."""


@dataclass(frozen=True, slots=True)
class Attention:
    """What an attention computes; a size is None where it isn't known.

    Attributes:
        sharing: heads of queries that share one head of keys and values.
        size, depth: the number of features of a query or key, and that of a value.
        is_flat: whether tensors are `[batch, sequence, heads * size]`, and not `[batch, heads, sequence, size]`.
        is_causal: whether a query attends to no key behind its own position.
        mask: the mask's element type: it is added to the scores, or says what a query attends to; empty without one.
        spread: the axes of the four along which the mask is the same.
        dtype, result: the element types of queries, keys and values, and of the result: float32 or bfloat16.
    """

    batch: int | None
    queries: int | None
    keys: int | None
    heads: int
    sharing: int
    size: int
    depth: int
    is_flat: bool
    is_causal: bool
    scale: float
    mask: str = ""
    spread: tuple[int, ...] = ()
    dtype: str = "float32"
    result: str = "float32"

    @property
    def is_paired(self) -> bool:
        return self.dtype == BFLOAT16

    @property
    def instruction(self) -> Instruction:
        """What multiplies queries with keys, and weights with values."""
        return BF16_DOT if self.is_paired else FMA

    @property
    def steps(self) -> int:
        """Multiply-adds of a score: one for each feature, or for each pair of features."""
        return self.size // self.instruction.k_per_instruction

    def argument(self, name: str, outer: tuple[Scalar, Scalar, int], size: int, dtype: str) -> tirx.Buffer:
        """Declare an argument; return it as `[batch, head, row, feature]`, q and k of bfloat16 in pairs of features."""
        (batch, length, heads), is_paired = outer, self.is_paired and name in "qk"
        steps, kind = (self.steps, "int32") if is_paired else (size, None)
        strides = (length * heads * steps, steps, heads * steps, 1) if self.is_flat else None
        given = (batch, length, heads * size) if self.is_flat else (batch, heads, length, size)
        return argument(name, given, dtype, (batch, heads, length, steps), kind, strides)


def is_paired_attention(size: int, depth: int, machine: Machine) -> bool:
    """Whether there is a kernel for bfloat16, which multiplies whole pairs of features and whole vectors of values."""
    return machine.has_bfloat16 and size % 2 == 0 and depth >= machine.lanes


@kernel
def attention_kernel(attention: Attention, machine: Machine) -> None:
    """Emit a kernel of queries, keys, values and the mask, if there is one, to the attention's result."""
    batch, queries = symbol("batch", attention.batch), symbol("queries", attention.queries)
    keys, heads = symbol("keys", attention.keys), attention.heads
    kept, tasks = heads // attention.sharing, heads * (attention.batch or 1)
    m_splits = machine.threads // math.gcd(tasks, machine.threads)
    q = attention.argument("q", (batch, queries, heads), attention.size, attention.dtype)
    k = attention.argument("k", (batch, keys, kept), attention.size, attention.dtype)
    v = attention.argument("v", (batch, keys, kept), attention.depth, attention.dtype)
    sizes = [1 if axis in attention.spread else size for axis, size in enumerate((batch, heads, queries, keys))]
    mask = argument("mask", sizes, attention.mask) if attention.mask else None
    y = attention.argument("y", (batch, queries, heads), attention.depth, attention.result)
    with T.parallel(0, batch * (heads * m_splits)) as task:
        head, image, chunk = task // m_splits % heads, task // (heads * m_splits), task % m_splits
        work = _Head(attention, machine, q, k, v, y, mask, image, head, keys)

        def emit(work: _Head) -> None:
            for height, row in row_tiles(_HEIGHT, queries, chunk, m_splits):
                work.tile(row, height)

        is_whole = not attention.is_paired and attention.size % machine.lanes == 0
        either(is_whole and queries <= _HEIGHT, lambda: emit(work), lambda: emit(work.turned()))


@dataclass(frozen=True, slots=True)
class _Head:
    """Code for one head of one image.

    Attributes:
        columns: the keys as `[block of lanes, feature or pair, lane]`, filled up with zeros; None where keys are
            multiplied as they lie.
        paired: the values of two keys side by side, `[pair, column]`; the last of an odd number is paired with itself,
            with no weight. None where values are float32.
    """

    attention: Attention
    machine: Machine
    q: tirx.Buffer
    k: tirx.Buffer
    v: tirx.Buffer
    y: tirx.Buffer
    mask: tirx.Buffer | None
    image: tirx.Expr
    head: tirx.Expr
    keys: Scalar
    columns: tirx.Buffer | None = None
    paired: tirx.Buffer | None = None

    def turned(self) -> "_Head":
        """Emit code that transposes the keys and pairs the values; return the same head with these."""
        attention, lanes, paired = self.attention, self.machine.lanes, None
        columns = T.alloc_buffer((self._blocks, attention.steps, lanes), self.k.dtype)
        with T.serial(0, self.keys) as key, T.serial(0, attention.steps) as column:
            T.buffer_store(columns, self.k[(*self._kept, key, column)], [key // lanes, column, key % lanes])
        if self._is_ragged:
            with T.serial(0, attention.steps) as column, T.serial(0, self._blocks * lanes - self.keys) as beyond:
                zero = tirx.const(0, columns.dtype)
                T.buffer_store(columns, zero, [self._blocks - 1, column, lanes - 1 - beyond])
        if attention.is_paired:
            paired = T.alloc_buffer((tirx.floordiv(self.keys + 1, 2), attention.depth), "int32")
            with T.serial(0, paired.shape[0]) as pair:
                for start in range(0, attention.depth, lanes):
                    at = ramp(min(start, attention.depth - lanes), lanes)
                    places = (pair * 2, tirx.min(pair * 2 + 1, self.keys - 1))
                    lower, upper = (self.v[(*self._kept, key, at)].astype(f"int32x{lanes}") for key in places)
                    T.buffer_store(paired, lower | upper << number(16, upper), [pair, at])
        return replace(self, columns=columns, paired=paired)

    def tile(self, row: tirx.Expr, height: int) -> None:
        """Emit the attention of some queries."""
        attention, lanes, is_paired = self.attention, self.machine.lanes, self.attention.is_paired
        limit = tirx.min(self.keys, row + height) if attention.is_causal else self.keys
        blocks = tirx.floordiv(limit + (lanes - 1), lanes) if attention.is_causal else self._blocks
        scores = T.alloc_buffer((height, self._blocks * lanes), "float32")
        weights = T.alloc_buffer((height, self._blocks * lanes), "uint16") if is_paired else scores
        inverse = T.alloc_buffer((height,), "float32")
        with T.serial(0, blocks) as block:
            found = self._score_as_it_lies if self.columns is None else self._score
            for line, _, _, vector in found(row, height, block):
                columns, scaled = ramp(block * lanes, lanes), vector * number(attention.scale, vector)
                if self.mask is not None and not self._is_ragged:
                    scaled = scaled + self._bias(self.mask, row + line, columns, scaled)
                T.buffer_store(scores, scaled, [line, columns])
        with T.serial(0, height) as line:
            if self.mask is not None and self._is_ragged:  # keys end within a block
                for column in each_vector(0, limit, lanes):
                    score = scores[line, column]
                    T.buffer_store(scores, score + self._bias(self.mask, row + line, column, score), [line, column])
            T.buffer_store(inverse, self._softmax(row, line, blocks, scores, weights), [line])
        vectors = ceil_div(attention.depth, lanes)
        widest = (self.machine.registers - 1) // (height + 1)
        whole = attention.depth // lanes * lanes if is_paired else attention.depth
        width = min(whole, lanes * ceil_div(vectors, ceil_div(vectors, widest)))
        with T.serial(0, ceil_div(attention.depth, width)) as panel:
            first = tirx.min(panel * width, attention.depth - width)
            self._weigh(row, Tile(height, width, lanes), first, limit, weights, inverse)

    @property
    def _kept(self) -> tuple[Scalar, Scalar]:
        """The image, and the head of keys and values that is read."""
        return self.image, self.head // self.attention.sharing

    @property
    def _blocks(self) -> tirx.Expr:
        return tirx.floordiv(self.keys + (self.machine.lanes - 1), self.machine.lanes)

    @property
    def _is_ragged(self) -> bool:
        return self.attention.keys is None or self.attention.keys % self.machine.lanes != 0

    def _score(self, row: tirx.Expr, height: int, block: Scalar) -> Iterator[Vector]:
        """Emit the products of some queries with a block of transposed keys; yield those of each query."""
        lanes, columns = self.machine.lanes, self.columns
        assert columns is not None
        return Tile(height, lanes, lanes).products(
            self.attention.steps,
            self.attention.instruction,
            lambda step, line, lanes: spread(self.q[self.image, self.head, row + line, step], lanes),
            lambda step, _, lanes: columns[block, step, ramp(0, lanes)],
        )

    def _score_as_it_lies(self, row: tirx.Expr, height: int, block: Scalar) -> Iterator[Vector]:
        """Emit the same products with keys as they lie: by vectors of features, whose lanes are summed at last."""
        lanes = self.machine.lanes
        with T.serial(0, height) as line:
            sums = [Register.of(spread(T.float32(0), lanes)) for _ in range(lanes)]
            with T.serial(0, self.attention.size // lanes) as step:
                at = ramp(step * lanes, lanes)
                query = self.q[self.image, self.head, row + line, at]
                for index, total in enumerate(sums):
                    key = block * lanes + index
                    key = tirx.min(key, self.keys - 1) if self._is_ragged else key
                    total.set(FMA.multiply_add(total.value, query, self.k[(*self._kept, key, at)]))
            yield line, 0, lanes, _horizontal_add([total.value for total in sums])

    def _softmax(
        self, row: tirx.Expr, line: Scalar, blocks: Scalar, scores: tirx.Buffer, weights: tirx.Buffer
    ) -> tirx.Expr:
        """Emit the exponentials of a query's scores; return the inverse of their sum: 0 if all keys are masked."""
        lanes, is_paired = self.machine.lanes, self.attention.is_paired
        highest, sums = (Register.of(spread(T.float32(start), lanes)) for start in (-math.inf, 0))
        with T.serial(0, blocks) as block:
            slot = ramp(block * lanes, lanes)
            seen, never = scores[line, slot], number(-math.inf, highest.value)
            if self.attention.is_causal:  # keys behind the query
                seen = tirx.Select(slot > spread(row + line, lanes), never, seen)
            if self._is_ragged:  # beyond the last key
                seen = tirx.Select(slot >= spread(tirx.const(1, "int64") * self.keys, lanes), never, seen)
            T.buffer_store(scores, seen, [line, slot])
            highest.set(greater(scores[line, slot], highest.value))
        top = highest.folded(greater)
        if self.mask is not None:
            top = tirx.Select(top > -T.infinity("float32"), top, T.float32(0))
        highest.set(spread(top, lanes))
        with T.serial(0, blocks) as block:
            slot = ramp(block * lanes, lanes)
            distance = held(scores[line, slot] - highest.value)
            weight = coarse_exp(distance) if is_paired else held(exp(distance))
            T.buffer_store(weights, stored(weight, self.attention.dtype), [line, slot])
            sums.set(sums.value + weight)
        sums.set(sums.total())
        one, total = T.float32(1), sums.first(1)
        return one / total if self.mask is None else tirx.Select(total > T.float32(0), one / total, total)

    def _bias(self, mask: tirx.Buffer, row: tirx.Expr, column: Scalar, score: tirx.Expr) -> tirx.Expr:
        """Return what the mask adds to scores of a query."""
        places = enumerate((self.image, self.head, row))
        bias = mask[(*(0 if axis in self.attention.spread else place for axis, place in places), column)]
        is_bool = self.attention.mask == "bool"
        return tirx.Select(bias, number(0.0, score), number(-math.inf, score)) if is_bool else bias

    def _weigh(
        self, row: tirx.Expr, tile: Tile, first: Scalar, limit: Scalar, weights: tirx.Buffer, inverse: tirx.Buffer
    ) -> None:
        """Emit the weighted sums of the values, in some of their columns."""
        attention, instruction = self.attention, self.attention.instruction
        together = instruction.k_per_instruction
        steps = tirx.floordiv(limit + 1, 2) if attention.is_paired else limit

        def weight(step: Scalar, line: int, lanes: int) -> tirx.Expr:
            return instruction.broadcast_lhs(weights[line, ramp(step * together, together)], lanes)[0]

        def value(step: Scalar, start: int, lanes: int) -> tirx.Expr:
            at = ramp(first + start, lanes)
            return self.v[(*self._kept, step, at)] if self.paired is None else self.paired[step, at]

        for line, start, lanes, total in tile.products(steps, instruction, weight, value):
            place = [self.image, self.head, row + line, ramp(first + start, lanes)]
            T.buffer_store(self.y, stored(total * spread(inverse[line], lanes), attention.result), place)


def _horizontal_add(vectors: Sequence[tirx.Expr]) -> tirx.Expr:
    """Return a vector with the sums of as many vectors as each has lanes."""
    lanes = size = len(vectors)
    while size > 1:
        lower = [start + at for start in range(0, 2 * lanes, size) for at in range(size // 2)]
        upper = [at + size // 2 for at in lower]
        pairs = ([vectors[index], vectors[index + 1]] for index in range(0, len(vectors), 2))
        vectors = [held(tirx.Shuffle(pair, lower) + tirx.Shuffle(pair, upper)) for pair in pairs]
        size //= 2
    return vectors[0]
