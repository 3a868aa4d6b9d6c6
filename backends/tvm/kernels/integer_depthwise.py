"""Depthwise convolutions of bytes with constant int8 weights by VNNI, on images in blocks of channels (NCHWc).

Four neighbouring pixels of a block are 64 bytes in a row. Transposed, so that each channel's four bytes lie together,
they are an operand of the instruction: it multiplies four taps of a row of a window at once. At the edges the four
pixels are the nearest that lie on the image, and the weights are shifted against them, with zeros for taps beyond the
edge. Sums start from offsets that undo the zero point.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .bfloat16 import imported
from .blocked_epilogue import BlockedEpilogue, operand_images, seen
from .epilogue import Epilogue
from .int8_dot import K_PER_DOT, Form, Instruction
from .machine import Machine
from .tiles import OPAQUE, ceil_div
from .vectors import Scalar, cast, held, ramp
from .windows import Window

LANES = 16
"""Channels of a block."""
_TURNED = [pixel * LANES + channel for channel in range(LANES) for pixel in range(K_PER_DOT)]
_DOTS = Instruction(Form.DOTS, LANES)
_MOST = 14
"""The most columns of a tile: beside the sums, registers hold weights, pixels and the transposition's indices."""


@dataclass(frozen=True, slots=True)
class IntegerDepthwise:
    """The sizes of a depthwise convolution of bytes.

    Attributes:
        batch: images; None where their number isn't known.
        blocks: of channels.
        window: where the windows lie.
        has_offsets: whether sums start from anything but 0.
    """

    batch: int | None
    blocks: int
    window: Window
    has_offsets: bool

    @property
    def is_possible(self) -> bool:
        """Whether there is a kernel: for images of four columns at least, and taps side by side."""
        return self.window.image[1] >= K_PER_DOT and self.window.dilations[1] == 1

    @property
    def wide(self) -> Window:
        """The windows with as many taps in a row as pixels are read: a multiple of four."""
        window = self.window
        return replace(window, kernel=(window.kernel[0], ceil_div(window.kernel[1], K_PER_DOT) * K_PER_DOT))

    def shifts(self, column: int) -> tuple[int, ...]:
        """Return, for each four taps of a window, how far from these the four pixels lie that are read."""
        starts = [self.window.at(1, column, tap) for tap in range(0, self.window.kernel[1], K_PER_DOT)]
        return tuple(min(max(start, 0), self.window.image[1] - K_PER_DOT) - start for start in starts)

    @property
    def kinds(self) -> list[tuple[int, ...]]:
        """The different shifts of columns; those of the first kind are 0."""
        none = (0,) * ceil_div(self.window.kernel[1], K_PER_DOT)
        return list(dict.fromkeys((none, *map(self.shifts, range(self.window.result[1])))))


def packed_depthwise(weights: np.ndarray, sizes: IntegerDepthwise) -> np.ndarray:
    """Pack weights `[channel, row, column]` as `[block, kind, row, four taps, channel and tap]`."""
    channels, rows, taps = weights.shape
    packed = np.zeros((sizes.blocks * LANES, len(sizes.kinds), rows, len(sizes.kinds[0]), K_PER_DOT), np.int8)
    for kind, shifts in enumerate(sizes.kinds):
        for part, shift in enumerate(shifts):
            for byte in range(K_PER_DOT):
                tap = part * K_PER_DOT + byte + shift
                if part * K_PER_DOT <= tap < min((part + 1) * K_PER_DOT, taps):
                    packed[:channels, kind, :, part, byte] = weights[:, :, tap]
    parts = packed.reshape(sizes.blocks, LANES, *packed.shape[1:]).transpose(0, 2, 3, 4, 1, 5)
    return np.ascontiguousarray(parts).reshape(*parts.shape[:4], LANES * K_PER_DOT)


@lru_cache
def integer_depthwise_kernel(sizes: IntegerDepthwise, machine: Machine, epilogue: Epilogue) -> tirx.PrimFunc:
    """Build a kernel to images in blocks.

    Its arguments are images, packed weights, a bias and scales of whole blocks, offsets if there are any, and the
    epilogue's operands.
    """
    window = sizes.window
    batch = tirx.Var("batch", "int64") if sizes.batch is None else sizes.batch
    columns = ceil_div(window.result[1], ceil_div(window.result[1], _MOST))
    inner, edges = sizes.wide.tiles(columns)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            whole = T.arg("x", T.buffer((batch, sizes.blocks, *window.image, LANES), "uint8"))
            form = (sizes.blocks, len(sizes.kinds), window.kernel[0], len(sizes.kinds[0]), LANES * K_PER_DOT)
            weights = T.arg("weights", T.buffer(form, "int8"))
            bias, scales = (T.arg(name, T.buffer((sizes.blocks * LANES,), "float32")) for name in ("bias", "scales"))
            kinds = [len(window.taps(axis)) for axis in range(2)]
            start = T.arg("offsets", T.buffer((*kinds, sizes.blocks * LANES), "int32")) if sizes.has_offsets else None
            shape = (batch, sizes.blocks, *window.result, LANES)
            beside = operand_images(epilogue, shape)
            y = T.arg("y", T.buffer(shape, epilogue.dtype))
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            rows = (batch, sizes.blocks, window.image[0], window.image[1] * LANES)
            x, y, finish = seen(whole, rows), seen(y, shape), BlockedEpilogue(epilogue, beside).seen(shape)
            code = _Code(sizes, x, weights, bias, scales, start, y, finish)
            tasks = T.parallel(0, batch * sizes.blocks * window.result[0])
            with imported(machine, epilogue.is_coarse), tasks as task:
                row, rest = task % window.result[0], task // window.result[0]
                place = (rest // sizes.blocks, rest % sizes.blocks, row)
                sums = [T.alloc_buffer((LANES,), "int32") for _ in range(columns)]
                for edge in edges:
                    code.tile(sums, place, edge, edge)
                if inner:
                    with T.serial(0, len(inner)) as step:
                        code.tile(sums, place, tirx.min(inner[0] + step * columns, inner[-1]))
        return builder.get()


@dataclass(frozen=True, slots=True)
class _Code:
    """Code for tiles, with the buffers that they read and write."""

    sizes: IntegerDepthwise
    x: tirx.Buffer
    weights: tirx.Buffer
    bias: tirx.Buffer
    scales: tirx.Buffer
    offsets: tirx.Buffer | None
    y: tirx.Buffer
    finish: BlockedEpilogue

    def tile(
        self, sums: list[tirx.Buffer], place: tuple[Scalar, Scalar, Scalar], start: Scalar, edge: int | None = None
    ) -> None:
        """Emit one tile from a column on; at an edge, that column is known."""
        (image, block, row), window, whole = place, self.sizes.window, ramp(0, LANES)
        channels = ramp(block * LANES, LANES)
        for column, total in enumerate(sums):
            T.buffer_store(total, self._start(channels, row, None if edge is None else edge + column), [whole])
        begin, end = window.rows(row)
        with T.serial(begin, end) as line:
            at = (image, block, window.at(0, row, line))
            turned: dict[int, tirx.Expr] = {}
            for part in range(len(self.sizes.kinds[0])):
                for column, total in enumerate(sums):
                    self._add(total, (at, line, part), (start, column), edge, turned)
        results = [[cast(total[whole], "float32") * self.scales[channels] + self.bias[channels]] for total in sums]
        self.finish.store(self.y, results, (image, block, row, start), LANES)

    def _add(
        self,
        total: tirx.Buffer,
        taps: tuple[tuple[Scalar, Scalar, Scalar], Scalar, int],
        place: tuple[Scalar, int],
        edge: int | None,
        turned: dict[int, tirx.Expr],
    ) -> None:
        """Add four taps of a row to the sums of a column of the tile."""
        (at, line, part), (start, column), sizes = taps, place, self.sizes
        shifts = (0,) * (part + 1) if edge is None else sizes.shifts(edge + column)
        kind = 0 if edge is None else sizes.kinds.index(shifts)
        if abs(shifts[part]) >= K_PER_DOT:
            return
        pixel = column * sizes.window.strides[1] + part * K_PER_DOT + shifts[part]
        if pixel not in turned:
            first = sizes.window.at(1, start, part * K_PER_DOT) + pixel - part * K_PER_DOT
            loaded = T.reinterpret(self.x[(*at, ramp(first * LANES, LANES * K_PER_DOT))], dtype="int8x64")
            turned[pixel] = held(tirx.Shuffle([loaded], _TURNED))
        weights = self.weights[at[1], kind, line, part, ramp(0, LANES * K_PER_DOT)]
        whole = ramp(0, LANES)
        T.buffer_store(total, _DOTS.multiply_add(total[whole], turned[pixel], weights), [whole])

    def _start(self, channels: Scalar, row: Scalar, column: int | None) -> tirx.Expr:
        """Return what sums start from; a column of None stands for one without padding at the sides."""
        if self.offsets is None:
            return T.broadcast(T.int32(0), LANES)
        window = self.sizes.window
        return self.offsets[window.kind(0, row), window.kind(1, column), channels]
