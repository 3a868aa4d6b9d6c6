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
from tvm.script.ir_builder import tirx as T

from .bfloat16 import imported
from .epilogue import BlockedEpilogue, Epilogue, viewed
from .instructions.int8_dot import K_PER_DOT, Vpdpbusd
from .machine import Machine
from .prim_func import kernel, symbol
from .row_tiles import Line, RowTiles, Sums
from .tiles import ceil_div
from .vectors import Scalar, cast, held, ramp
from .windows import Window

LANES = 16
"""Channels of a block."""
_TURNED = [pixel * LANES + channel for channel in range(LANES) for pixel in range(K_PER_DOT)]
_DOTS = Vpdpbusd(LANES)
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
@kernel
def integer_depthwise_kernel(sizes: IntegerDepthwise, machine: Machine, epilogue: Epilogue) -> None:
    """Emit a kernel to images in blocks.

    Its arguments are images, packed weights, a bias and scales of whole blocks, offsets if there are any, and the
    epilogue's operands.
    """
    window, batch = sizes.window, symbol("batch", sizes.batch)
    columns = ceil_div(window.result[1], ceil_div(window.result[1], _MOST))
    x = T.arg("x", T.buffer((batch, sizes.blocks, *window.image, LANES), "uint8"))
    form = (sizes.blocks, len(sizes.kinds), window.kernel[0], len(sizes.kinds[0]), LANES * K_PER_DOT)
    weights = T.arg("weights", T.buffer(form, "int8"))
    bias, scales = (T.arg(name, T.buffer((sizes.blocks * LANES,), "float32")) for name in ("bias", "scales"))
    kinds = [len(window.taps(axis)) for axis in range(2)]
    offsets = T.arg("offsets", T.buffer((*kinds, sizes.blocks * LANES), "int32")) if sizes.has_offsets else None
    shape = (batch, sizes.blocks, *window.result, LANES)
    finish = BlockedEpilogue.of(epilogue, shape)
    x, finish = viewed(x, (batch, sizes.blocks, window.image[0], window.image[1] * LANES)), finish.viewed(shape)
    code = _Code(window, finish, _DOTS.accumulator_dtype, columns, 1, sizes, x, weights, bias, scales, offsets)
    tasks = T.parallel(0, batch * sizes.blocks * window.result[0])
    with imported(machine, epilogue.is_coarse), tasks as task:
        row, rest = task % window.result[0], task // window.result[0]
        code.row((rest // sizes.blocks, rest % sizes.blocks, row), *sizes.wide.tiles(columns))


@dataclass(frozen=True, slots=True)
class _Code(RowTiles):
    """Four taps at once, of pixels that are transposed once for all windows of a tile."""

    sizes: IntegerDepthwise
    x: tirx.Buffer
    weights: tirx.Buffer
    bias: tirx.Buffer
    scales: tirx.Buffer
    offsets: tirx.Buffer | None

    def initialise(self, block: Scalar, row: Scalar, column: int | None) -> tirx.Expr:
        return self.start_offset(self.offsets, block, row, column)

    def add(self, sums: Sums, at: Line, start: Scalar, edge: int | None) -> None:
        with T.serial(*self.window.rows(at[2])) as line:
            self._add_line([total for (total,) in sums], at, line, start, edge)

    def _add_line(self, sums: list[tirx.Buffer], at: Line, line: Scalar, start: Scalar, edge: int | None) -> None:
        """Emit a line of taps of all windows of a tile."""
        (image, block, row), sizes, window = at, self.sizes, self.window
        whole, quads = ramp(0, LANES), ramp(0, LANES * K_PER_DOT)
        turned: dict[int, tirx.Expr] = {}
        for part in range(len(sizes.kinds[0])):
            for column, total in enumerate(sums):
                shifts = sizes.kinds[0] if edge is None else sizes.shifts(edge + column)
                if abs(shifts[part]) >= K_PER_DOT:
                    continue
                pixel = column * window.strides[1] + part * K_PER_DOT + shifts[part]
                if pixel not in turned:
                    first = window.at(1, start, part * K_PER_DOT) + pixel - part * K_PER_DOT
                    place = (image, block, window.at(0, row, line), ramp(first * LANES, LANES * K_PER_DOT))
                    turned[pixel] = held(tirx.Shuffle([T.reinterpret(self.x[place], dtype="int8x64")], _TURNED))
                weights = self.weights[block, sizes.kinds.index(shifts), line, part, quads]
                T.buffer_store(total, _DOTS.multiply_add(total[whole], turned[pixel], weights), [whole])

    def store_c(self, total: tirx.Expr, block: Scalar, row: Scalar, column: int | None) -> tirx.Expr:
        channels = ramp(block * LANES, LANES)
        return cast(total, "float32") * self.scales[channels] + self.bias[channels]
