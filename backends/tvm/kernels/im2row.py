"""Images of few channels as rows of bytes, pixel after pixel, that convolutions multiply four at a time.

Four bytes that are multiplied together may cross from one pixel to the next: seven pixels of three channels take six
times four bytes, where pixels filled up to four bytes would take seven. Rows and columns of padding are written out.
"""

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .epilogue import Epilogue, operand_buffers
from .instructions.int8_dot import K_PER_DOT
from .machine import Machine
from .prim_func import either, kernel, maybe_parallel, symbol
from .tiles import ceil_div
from .vectors import ramp
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


@kernel
def im2row_kernel(strips: Im2Row, padding: int, machine: Machine, epilogue: Epilogue) -> None:
    """Emit a kernel of an operand `[batch, channel, row, column]` to rows of bytes, `[batch, 1, row, byte]`.

    The epilogue makes the bytes of the operand; those of the padding are written, too.
    """
    batch, channels = symbol("batch", strips.batch), strips.channels
    (rows, columns), (above, before), (height, width) = strips.windows.image, strips.windows.begins, strips.image
    lanes = machine.lanes if columns >= machine.lanes else 1
    (x,) = operand_buffers(epilogue, (batch, channels, rows, columns), channels)
    y = T.arg("y", T.buffer((batch, 1, height, width), epilogue.dtype))
    loop = maybe_parallel(batch * height * width, machine.costs.vector_work)
    with T.sblock("root"), loop(0, batch * height) as task:
        image, row = task // height, task % height

        def fill(begin: int, end: int) -> None:
            with T.serial(0, end - begin) as byte:
                T.buffer_store(y, tirx.const(padding, epilogue.dtype), [image, 0, row, begin + byte])

        def interleave() -> None:
            fill(0, before * channels)
            with T.serial(0, ceil_div(columns, lanes)) as step:
                start = tirx.min(step * lanes, columns - lanes)  # the last ones overlap those before
                places = [(image, channel, row - above, ramp(start, lanes)) for channel in range(channels)]
                parts = [epilogue.applied(None, lambda _, at=at: x[at]) for at in places]
                octets = ramp((before + start) * channels, lanes * channels)
                T.buffer_store(y, _interleaved(parts, lanes), [image, 0, row, octets])
            fill((before + columns) * channels, width)

        either(tirx.all(row >= above, row < above + rows), interleave, lambda: fill(0, width))


def _interleaved(parts: list[tirx.Expr], lanes: int) -> tirx.Expr:
    """Interleave the lanes of vectors."""
    if len(parts) == 1:
        return parts[0]
    return tirx.Shuffle(parts, [part * lanes + lane for lane in range(lanes) for part in range(len(parts))])
