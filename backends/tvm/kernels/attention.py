"""Scaled dot-product attention, head by head.

A head's keys are transposed once. Then the scores of a few queries at a time are computed, which stay in the L1 cache;
their softmax is taken there, and multiplied with the values. So all scores of a head are never in memory at once. With
no more queries than that, as when a text is generated token by token, keys are multiplied as they lie, a vector of
features at a time.

Queries, keys and values in bfloat16 are multiplied in pairs: of features, which lie side by side, and of keys, whose
values are put together once for a head. The softmax is taken in float32, and its results are rounded to bfloat16 before
they are multiplied.
"""

import math
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .approximations import coarse_exp, exp, number
from .bfloat16 import BFLOAT16, imported, rounded, stored_as
from .instructions.base import Instruction
from .instructions.bf16_dot import BF16_DOT
from .instructions.fma import FMA
from .machine import Machine
from .prim_func import either, kernel, symbol
from .tiles import Tile, ceil_div, row_tiles
from .vectors import Scalar, each_vector, filled, held, horizontal_add, horizontal_max, ramp, spread, total, zeros

_HEIGHT = 8
"""Queries whose attention is computed at a time."""


@dataclass(frozen=True, slots=True)
class Attention:
    """What an attention computes; a size is None where it isn't known.

    Attributes:
        batch: size.
        queries: of each head.
        keys: of each head.
        heads: of the queries.
        sharing: heads of queries that share one head of keys and values.
        size: of a query and a key.
        depth: of a value.
        is_flat: whether tensors are `[batch, sequence, heads * size]`, and not `[batch, heads, sequence, size]`.
        is_causal: whether a query attends to no key behind its own position.
        scale: of the scores.
        mask: the element type of what is added to the scores, or says what a query attends to; empty without a mask.
        spread: the axes of the four along which the mask is the same.
        dtype: of queries, keys and values: float32 or bfloat16.
        result: the element type of the result, likewise.
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

    def is_whole(self, machine: Machine) -> bool:
        """Whether keys are float32, and their features fill whole vectors."""
        return not self.is_paired and self.size % machine.lanes == 0

    def shape(self, batch: Scalar, length: Scalar, heads: int, size: int) -> tuple[Scalar, ...]:
        return (batch, length, heads * size) if self.is_flat else (batch, heads, length, size)

    def place(self, batch: Scalar, row: Scalar, head: Scalar, size: int, column: Scalar) -> tuple[Scalar, ...]:
        return (batch, row, head * size + column) if self.is_flat else (batch, head, row, column)


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
    q = T.arg("q", T.buffer(attention.shape(batch, queries, heads, attention.size), attention.dtype))
    k = T.arg("k", T.buffer(attention.shape(batch, keys, kept, attention.size), attention.dtype))
    v = T.arg("v", T.buffer(attention.shape(batch, keys, kept, attention.depth), attention.dtype))
    mask = None
    if attention.mask:
        full = (batch, heads, queries, keys)
        sizes = [1 if axis in attention.spread else size for axis, size in enumerate(full)]
        mask = T.arg("mask", T.buffer(sizes, attention.mask))
    y = T.arg("y", T.buffer(attention.shape(batch, queries, heads, attention.depth), attention.result))
    v, y = (T.decl_buffer(buffer.shape, stored_as(str(buffer.dtype)), data=buffer.data) for buffer in (v, y))
    if attention.is_paired:
        q = T.decl_buffer(attention.shape(batch, queries, heads, attention.steps), "int32", data=q.data)
        k = T.decl_buffer(attention.shape(batch, keys, kept, attention.steps), "int32", data=k.data)
    loop = T.parallel(0, batch * (heads * m_splits))
    with imported(machine, BFLOAT16 in (attention.dtype, attention.result)), loop as task:
        head, image, chunk = task // m_splits % heads, task // (heads * m_splits), task % m_splits
        work = _Head(attention, machine, q, k, v, y, mask, image, head, queries, keys)
        if not attention.is_whole(machine) or (attention.queries or 0) > _HEIGHT:
            work.turned().chunk(chunk, m_splits)
        else:
            few, many = (lambda: work.chunk(chunk, m_splits)), (lambda: work.turned().chunk(chunk, m_splits))
            either(queries <= _HEIGHT, few, many)


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
    queries: Scalar
    keys: Scalar
    columns: tirx.Buffer | None = None
    paired: tirx.Buffer | None = None

    def turned(self) -> "_Head":
        """Emit code that transposes the keys and pairs the values; return the same head with these."""
        attention, lanes, paired = self.attention, self.machine.lanes, None
        columns = T.alloc_buffer((self._blocks, attention.steps, lanes), self.k.dtype)
        with T.serial(0, self.keys) as key, T.serial(0, attention.steps) as column:
            element = self.k[attention.place(self.image, key, self._kept, attention.steps, column)]
            T.buffer_store(columns, element, [key // lanes, column, key % lanes])
        if self._is_ragged:
            with T.serial(0, attention.steps) as column, T.serial(0, self._blocks * lanes - self.keys) as beyond:
                zero = tirx.const(0, columns.dtype)
                T.buffer_store(columns, zero, [self._blocks - 1, column, lanes - 1 - beyond])
        if attention.is_paired:
            paired = T.alloc_buffer((tirx.floordiv(self.keys + 1, 2), attention.depth), "int32")
            self._pair(paired)
        return replace(self, columns=columns, paired=paired)

    def chunk(self, place: Scalar, m_splits: int) -> None:
        """Emit one of `chunks` parts of the queries."""
        for height, row in row_tiles(_HEIGHT, self.queries, place, m_splits):
            self._tile(row, height)

    def _pair(self, paired: tirx.Buffer) -> None:
        attention, lanes = self.attention, self.machine.lanes
        with T.serial(0, paired.shape[0]) as pair:
            for start in range(0, attention.depth, lanes):
                at = ramp(min(start, attention.depth - lanes), lanes)
                lower, upper = (
                    self.v[attention.place(self.image, key, self._kept, attention.depth, at)].astype(f"int32x{lanes}")
                    for key in (pair * 2, tirx.min(pair * 2 + 1, self.keys - 1))
                )
                T.buffer_store(paired, lower | upper << tirx.const(16, f"int32x{lanes}"), [pair, at])

    def _tile(self, row: tirx.Expr, height: int) -> None:
        """Emit the attention of some queries."""
        attention, lanes = self.attention, self.machine.lanes
        limit = tirx.min(self.keys, row + height) if attention.is_causal else self.keys
        blocks = tirx.floordiv(limit + (lanes - 1), lanes) if attention.is_causal else self._blocks
        scores = T.alloc_buffer((height, self._blocks * lanes), "float32")
        weights = T.alloc_buffer((height, self._blocks * lanes), "uint16") if attention.is_paired else scores
        inverse = T.alloc_buffer((height,), "float32")
        with T.serial(0, blocks) as block:
            if self.columns is None:
                self._score_as_it_lies(row, height, block, scores)
            else:
                self._score(row, height, block, scores)
        with T.serial(0, height) as line:
            self._softmax(row, line, blocks, limit, scores, weights, inverse)
        vectors = ceil_div(attention.depth, lanes)
        widest = (self.machine.registers - 1) // (height + 1)
        whole = attention.depth // lanes * lanes if attention.is_paired else attention.depth
        width = min(whole, lanes * ceil_div(vectors, ceil_div(vectors, widest)))
        with T.serial(0, ceil_div(attention.depth, width)) as panel:
            first = tirx.min(panel * width, attention.depth - width)
            self._find(row, Tile(height, width, lanes), first, limit, weights, inverse)

    @property
    def _kept(self) -> tirx.Expr:
        return self.head // self.attention.sharing

    @property
    def _blocks(self) -> tirx.Expr:
        return tirx.floordiv(self.keys + (self.machine.lanes - 1), self.machine.lanes)

    @property
    def _is_ragged(self) -> bool:
        return self.attention.keys is None or self.attention.keys % self.machine.lanes != 0

    def _score(self, row: tirx.Expr, height: int, block: Scalar, scores: tirx.Buffer) -> None:
        """Emit the products of some queries with a block of transposed keys."""
        attention, lanes, columns = self.attention, self.machine.lanes, self.columns
        assert columns is not None
        tile = Tile(height, lanes, lanes)
        sums = tile.zeros()
        with T.serial(0, attention.steps) as k:

            def query(line: int, lanes: int) -> tirx.Expr:
                return spread(self.q[attention.place(self.image, row + line, self.head, attention.steps, k)], lanes)

            tile.multiply_add(sums, attention.instruction, query, lambda _, lanes: columns[block, k, ramp(0, lanes)])
        for line, _, _, slot in tile.spots:
            self._store(scores, sums[slot], (row, line), block)

    def _score_as_it_lies(self, row: tirx.Expr, height: int, block: Scalar, scores: tirx.Buffer) -> None:
        """Emit the same products with keys as they lie: by vectors of features, whose lanes are summed at last."""
        attention, lanes = self.attention, self.machine.lanes
        with T.serial(0, height) as line:
            sums = [filled(zeros("float32", lanes)) for _ in range(lanes)]
            with T.serial(0, attention.size // lanes) as step:
                at, whole = ramp(step * lanes, lanes), ramp(0, lanes)
                query = self.q[attention.place(self.image, row + line, self.head, attention.size, at)]
                for index, total in enumerate(sums):
                    key = block * lanes + index
                    key = tirx.min(key, self.keys - 1) if self._is_ragged else key
                    place = attention.place(self.image, key, self._kept, attention.size, at)
                    T.buffer_store(total, FMA.multiply_add(total[whole], query, self.k[place]), [whole])
            self._store(scores, horizontal_add([total[ramp(0, lanes)] for total in sums]), (row, line), block)

    def _store(self, scores: tirx.Buffer, vector: tirx.Expr, place: tuple[tirx.Expr, Scalar], block: Scalar) -> None:
        """Scale and store the scores of a query with a block of keys."""
        (row, line), columns = place, ramp(block * self.machine.lanes, self.machine.lanes)
        scaled = vector * number(self.attention.scale, vector)
        if self.mask is not None and not self._is_ragged:
            scaled = scaled + self._bias(row + line, columns, scaled)
        T.buffer_store(scores, scaled, [line, columns])

    def _softmax(
        self,
        row: tirx.Expr,
        line: Scalar,
        blocks: Scalar,
        limit: Scalar,
        scores: tirx.Buffer,
        weights: tirx.Buffer,
        inverse: tirx.Buffer,
    ) -> None:
        """Emit the exponentials of a query's scores, and the inverse of their sum: 0 if all keys are masked."""
        lanes = self.machine.lanes
        if self.mask is not None and self._is_ragged:
            self._add_mask(row, line, limit, scores)
        highest, sums = (filled(spread(T.float32(start), lanes)) for start in (-math.inf, 0))
        every = ramp(0, lanes)
        with T.serial(0, blocks) as block:
            slot = ramp(block * lanes, lanes)
            T.buffer_store(scores, self._seen(scores[line, slot], row + line, block), [line, slot])
            vector = scores[line, slot]
            T.buffer_store(highest, tirx.Select(vector > highest[every], vector, highest[every]), [every])
        top = horizontal_max(highest)
        if self.mask is not None:
            top = tirx.Select(top > -T.infinity("float32"), top, T.float32(0))
        T.buffer_store(highest, spread(top, lanes), [every])
        with T.serial(0, blocks) as block:
            slot = ramp(block * lanes, lanes)
            distance = held(scores[line, slot] - highest[every])
            weight = coarse_exp(distance) if self.attention.is_paired else held(exp(distance))
            T.buffer_store(weights, rounded(weight) if self.attention.is_paired else weight, [line, slot])
            T.buffer_store(sums, sums[every] + weight, [every])
        T.buffer_store(sums, total(sums), [0])
        one = T.float32(1)
        divided = one / sums[0] if self.mask is None else tirx.Select(sums[0] > T.float32(0), one / sums[0], sums[0])
        T.buffer_store(inverse, divided, [line])

    def _add_mask(self, row: tirx.Expr, line: Scalar, limit: Scalar, scores: tirx.Buffer) -> None:
        """Add the mask to scores of keys that end within a block; otherwise it is added as scores are stored."""

        def add(column: Scalar) -> None:
            score = scores[line, column]
            T.buffer_store(scores, score + self._bias(row + line, column, score), [line, column])

        each_vector(0, limit, self.machine.lanes, add)

    def _bias(self, row: tirx.Expr, column: Scalar, score: tirx.Expr) -> tirx.Expr:
        """Return what the mask adds to scores of a query."""
        assert self.mask is not None
        places = (self.image, self.head, row)
        outer = [0 if axis in self.attention.spread else place for axis, place in enumerate(places)]
        bias = self.mask[(*outer, column)]
        if self.attention.mask != "bool":
            return bias
        return tirx.Select(bias, number(0.0, score), number(-math.inf, score))

    def _seen(self, vector: tirx.Expr, row: tirx.Expr, block: Scalar) -> tirx.Expr:
        """Return scores with minus infinity for keys behind a causal query, and beyond the last key."""
        lanes = self.machine.lanes
        columns = ramp(block * lanes, lanes)
        never = number(-math.inf, vector)
        if self.attention.is_causal:
            vector = tirx.Select(columns > spread(row, lanes), never, vector)
        if self._is_ragged:
            vector = tirx.Select(columns >= spread(tirx.const(1, "int64") * self.keys, lanes), never, vector)
        return vector

    def _find(
        self, row: tirx.Expr, tile: Tile, first: Scalar, limit: Scalar, weights: tirx.Buffer, inverse: tirx.Buffer
    ) -> None:
        """Emit the weighted sums of the values, in some of their columns."""
        attention = self.attention
        sums = tile.zeros()
        with T.serial(0, tirx.floordiv(limit + 1, 2) if attention.is_paired else limit) as key:

            def weight(line: int, lanes: int) -> tirx.Expr:
                together = attention.instruction.k_per_instruction
                weight = weights[line, ramp(key * together, together)]
                return attention.instruction.broadcast_lhs(weight, lanes)[0]

            def value(start: int, lanes: int) -> tirx.Expr:
                at = ramp(first + start, lanes)
                if self.paired is not None:
                    return self.paired[key, at]
                return self.v[attention.place(self.image, key, self._kept, attention.depth, at)]

            tile.multiply_add(sums, attention.instruction, weight, value)
        for line, start, lanes, slot in tile.spots:
            place = attention.place(self.image, row + line, self.head, attention.depth, ramp(first + start, lanes))
            found = sums[slot] * spread(inverse[line], lanes)
            T.buffer_store(self.y, rounded(found) if attention.result == BFLOAT16 else found, list(place))
