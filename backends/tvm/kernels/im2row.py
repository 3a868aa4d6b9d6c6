"""Images of few channels as rows of bytes, pixel after pixel, that convolutions multiply four at a time.

Four bytes that are multiplied together may cross from one pixel to the next: seven pixels of three channels take six
times four bytes, where pixels filled up to four bytes would take seven. Rows and columns of padding are written out.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .epilogue import Epilogue, operand_buffers
from .int8_dot import K_PER_DOT
from .machine import Machine
from .tiles import OPAQUE, ceil_div, maybe_parallel
from .vectors import Scalar, ramp
from .windows import Pair, Window


@dataclass(frozen=True, slots=True)
class Im2Row:
    """Images as a convolution's windows read them.

    Attributes:
        batch: images; None where their number isn't known.
        channels: of the images.
        windows: how they lie on the images.
    """

    batch: int | None
    channels: int
    windows: Window

    @property
    def quads(self) -> int:
        """Groups of four bytes in a row of a window."""
        return ceil_div(((self.windows.kernel[1] - 1) * self.windows.dilations[1] + 1) * self.channels, K_PER_DOT)

    @property
    def image(self) -> Pair:
        """The rows, and the bytes of each, with all that windows reach."""
        windows = self.windows
        last = windows.at(0, windows.result[0] - 1, windows.kernel[0] - 1)
        across = (windows.result[1] - 1) * windows.strides[1] * self.channels + self.quads * K_PER_DOT
        whole = (windows.image[1] + windows.begins[1]) * self.channels
        return max(last + 1, windows.image[0]) + windows.begins[0], max(across, whole)

    @property
    def window(self) -> Window:
        """The windows as they lie on the rows: their taps are four bytes each."""
        (rows, _), windows = self.windows.kernel, self.windows
        strides, dilations = (windows.strides[0], windows.strides[1] * self.channels), (windows.dilations[0], K_PER_DOT)
        return Window(self.image, windows.result, (rows, self.quads), strides, dilations, (0, 0), (0, 0))

    def arranged(self, weights: np.ndarray) -> np.ndarray:
        """Rearrange weights `[filter, channel, row, column]` as `[filter, byte of a tap, row, tap]`."""
        filters, channels, rows, columns = weights.shape
        spread = np.zeros((filters, rows, self.quads * K_PER_DOT), weights.dtype)
        for column in range(columns):
            begin = column * self.windows.dilations[1] * channels
            spread[:, :, begin : begin + channels] = weights[:, :, :, column].transpose(0, 2, 1)
        return np.ascontiguousarray(spread.reshape(filters, rows, self.quads, K_PER_DOT).transpose(0, 3, 1, 2))


@lru_cache
def im2row_kernel(strips: Im2Row, padding: int, machine: Machine, epilogue: Epilogue) -> tirx.PrimFunc:
    """Build a kernel of an operand `[batch, channel, row, column]` to rows of bytes, `[batch, 1, row, byte]`.

    The epilogue makes the bytes of the operand; those of the padding are written, too.
    """
    batch = tirx.Var("batch", "int64") if strips.batch is None else strips.batch
    (rows, columns), (above, before) = strips.windows.image, strips.windows.begins
    (height, width), channels = strips.image, strips.channels
    lanes = machine.lanes if columns >= machine.lanes else 1
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            (x,) = operand_buffers(epilogue, (batch, channels, rows, columns), channels)
            y = T.arg("y", T.buffer((batch, 1, height, width), epilogue.dtype))
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            with T.sblock("root"), maybe_parallel(batch * height * width)(0, batch * height) as task:
                image, row = task // height, task % height

                def fill(begin: int, end: int, image: Scalar = image, row: Scalar = row) -> None:
                    with T.serial(0, end - begin) as byte:
                        T.buffer_store(y, tirx.const(padding, epilogue.dtype), [image, 0, row, begin + byte])

                with T.If(tirx.all(row >= above, row < above + rows)):
                    with T.Then():
                        fill(0, before * channels)
                        with T.serial(0, ceil_div(columns, lanes)) as step:
                            start = tirx.min(step * lanes, columns - lanes)  # the last ones overlap those before
                            place = (image, row - above, ramp(start, lanes))
                            parts = [
                                epilogue.applied(None, lambda _, at=(place[0], channel, *place[1:]): x[at])
                                for channel in range(channels)
                            ]
                            octets = ramp((before + start) * channels, lanes * channels)
                            T.buffer_store(y, _interleaved(parts, lanes), [image, 0, row, octets])
                        fill((before + columns) * channels, width)
                    with T.Else():
                        fill(0, width)
        return builder.get()


def _interleaved(parts: list[tirx.Expr], lanes: int) -> tirx.Expr:
    """Interleave the lanes of vectors."""
    if len(parts) == 1:
        return parts[0]
    return tirx.Shuffle(parts, [part * lanes + lane for lane in range(lanes) for part in range(len(parts))])
