"""Depthwise convolutions of bytes with constant int8 weights by VNNI, on images in blocks of channels (NCHWc).

Four neighbouring pixels of a block are 64 bytes in a row. Transposed, so that each channel's four bytes lie together,
they are an operand of the instruction: it multiplies four taps of a row of a window at once. At the edges the four
pixels are the nearest that lie on the image, and the weights are shifted against them, with zeros for taps beyond the
edge. Sums start from offsets that undo the zero point.
"""

from dataclasses import dataclass, replace

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .channelwise import Channelwise
from .epilogue import BlockedEpilogue, Epilogue, viewed
from .instructions.int8_dot import K_PER_DOT, Vpdpbusd
from .machine import Machine
from .prim_func import kernel, symbol
from .row_tiles import Line, RowTiles, Sums
from .tiles import ceil_div
from .vectors import Scalar, held, ramp
from .windows import Window

LANES = 16
"""Channels of a block."""
_TURNED = [pixel * LANES + channel for channel in range(LANES) for pixel in range(K_PER_DOT)]
_DOTS = Vpdpbusd(LANES)
_MOST = 14
"""The most columns of a tile: beside the sums, registers hold weights, pixels and the transposition's indices."""


@dataclass(frozen=True, slots=True)
class Quads:
    """The taps of windows, four at a time."""

    window: Window

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


def packed_depthwise(weights: np.ndarray, quads: Quads) -> np.ndarray:
    """Pack weights `[channel, row, column]` as `[block, kind, row, four taps, channel and tap]`."""
    channels, rows, taps = weights.shape
    blocks, kinds = ceil_div(channels, LANES), quads.kinds
    packed = np.zeros((blocks * LANES, len(kinds), rows, len(kinds[0]), K_PER_DOT), np.int8)
    for kind, shifts in enumerate(kinds):
        for part, shift in enumerate(shifts):
            for byte in range(K_PER_DOT):
                tap = part * K_PER_DOT + byte + shift
                if part * K_PER_DOT <= tap < min((part + 1) * K_PER_DOT, taps):
                    packed[:channels, kind, :, part, byte] = weights[:, :, tap]
    parts = packed.reshape(blocks, LANES, *packed.shape[1:]).transpose(0, 2, 3, 4, 1, 5)
    return np.ascontiguousarray(parts).reshape(*parts.shape[:4], LANES * K_PER_DOT)


@kernel
def integer_depthwise_kernel(sizes: Channelwise, machine: Machine, epilogue: Epilogue) -> None:
    """Emit a kernel to images in blocks.

    Its arguments are images, packed weights, a bias and scales of whole blocks, offsets if there are any, and the
    epilogue's operands.
    """
    window, quads, batch = sizes.window, Quads(sizes.window), symbol("batch", sizes.batch)
    columns = ceil_div(window.result[1], ceil_div(window.result[1], _MOST))
    x = T.arg("x", T.buffer((batch, sizes.blocks, *window.image, LANES), "uint8"))
    form = (sizes.blocks, len(quads.kinds), window.kernel[0], len(quads.kinds[0]), LANES * K_PER_DOT)
    weights = T.arg("weights", T.buffer(form, "int8"))
    bias, scales = (T.arg(name, T.buffer((sizes.blocks * LANES,), "float32")) for name in ("bias", "scales"))
    kinds = [len(window.taps(axis)) for axis in range(2)]
    offsets = T.arg("offsets", T.buffer((*kinds, sizes.blocks * LANES), "int32")) if sizes.zero_point else None
    shape = (batch, sizes.blocks, *window.result, LANES)
    finish = BlockedEpilogue.of(epilogue, shape)
    x, finish = viewed(x, (batch, sizes.blocks, window.image[0], window.image[1] * LANES)), finish.viewed(shape)
    code = _Code(window, finish, _DOTS.accumulator_dtype, columns, 1, x, bias, scales, offsets, quads, weights)
    code.emit(batch, sizes.blocks, quads.wide.tiles(columns), machine)


@dataclass(frozen=True, slots=True)
class _Code(RowTiles):
    """Four taps at once, of pixels that are transposed once for all windows of a tile."""

    quads: Quads
    weights: tirx.Buffer

    def add(self, sums: Sums, at: Line, start: Scalar, edge: int | None) -> None:
        with T.serial(*self.window.rows(at[2])) as line:
            self._add_line([total for (total,) in sums], at, line, start, edge)

    def _add_line(self, sums: list[tirx.Buffer], at: Line, line: Scalar, start: Scalar, edge: int | None) -> None:
        """Emit a line of taps of all windows of a tile."""
        (image, block, row), window, kinds = at, self.window, self.quads.kinds
        whole, every = ramp(0, LANES), ramp(0, LANES * K_PER_DOT)
        turned: dict[int, tirx.Expr] = {}
        for part in range(len(kinds[0])):
            for column, total in enumerate(sums):
                shifts = kinds[0] if edge is None else self.quads.shifts(edge + column)
                if abs(shifts[part]) >= K_PER_DOT:
                    continue
                pixel = column * window.strides[1] + part * K_PER_DOT + shifts[part]
                if pixel not in turned:
                    first = window.at(1, start, part * K_PER_DOT) + pixel - part * K_PER_DOT
                    place = (image, block, window.at(0, row, line), ramp(first * LANES, LANES * K_PER_DOT))
                    turned[pixel] = held(tirx.Shuffle([T.reinterpret(self.x[place], dtype="int8x64")], _TURNED))
                weights = self.weights[block, kinds.index(shifts), line, part, every]
                T.buffer_store(total, _DOTS.multiply_add(total[whole], turned[pixel], weights), [whole])
