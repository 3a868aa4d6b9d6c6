"""Kernels that put images into blocks of channels (NCHWc), take them out, join them and interleave them."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .epilogue import Epilogue, Result, each_pixel
from .machine import Machine
from .prim_func import argument, kernel, maybe_parallel, symbol
from .vectors import ceil_div, ramp
from .windows import Window


@dataclass(frozen=True, slots=True)
class Images:
    """Sizes of images `[batch, channel, *spatial]` of up to two spatial axes; a batch of None isn't known."""

    batch: int | None
    channels: int
    spatial: tuple[int, ...]
    dtype: str = "float32"

    def blocks(self, lanes: int) -> tuple[int, int, int, int]:
        """Return the sizes in blocks behind the batch's: blocks, rows, columns and lanes; missing axes have size 1."""
        rows, columns = (1,) * (2 - len(self.spatial)) + self.spatial
        return ceil_div(self.channels, lanes), rows, columns, lanes


@kernel
def block_kernel(images: Images, machine: Machine) -> None:
    """Emit a kernel from images (NCHW) to blocks of channels (NCHWc), with zeros beyond the last channel."""
    lanes = machine.lanes
    with _each_pixel(images, machine, is_blocked=False) as (x, y, image, block, pixel):
        for lane in range(lanes):
            channel = block * lanes + lane
            element = x[image, channel, pixel]
            if 0 < images.channels % lanes <= lane:
                element = tirx.if_then_else(channel < images.channels, element, tirx.const(0, x.dtype))
            T.buffer_store(y, element, [image, block, pixel, lane])


@kernel
def unblock_kernel(images: Images, machine: Machine) -> None:
    """Emit a kernel from blocks of channels (NCHWc) to images (NCHW)."""
    with _each_pixel(images, machine, is_blocked=True) as (x, y, image, block, pixel):
        channel = block * machine.lanes
        with T.serial(0, tirx.min(machine.lanes, images.channels - channel)) as lane:
            T.buffer_store(y, x[image, block, pixel, lane], [image, channel + lane, pixel])


@contextmanager
def _each_pixel(
    images: Images, machine: Machine, *, is_blocked: bool
) -> Generator[tuple[tirx.Buffer, tirx.Buffer, tirx.Expr, tirx.Expr, tirx.Expr]]:
    """Return a context for the channels of a pixel in a block, given both buffers, where pixels are one axis."""
    batch, (blocks, *sizes, lanes) = symbol("batch", images.batch), images.blocks(machine.lanes)
    pixels = prod(images.spatial)
    plain = (batch, images.channels, *images.spatial), (batch, images.channels, pixels)
    blocked = (batch, blocks, *sizes, lanes), (batch, blocks, pixels, lanes)
    pairs = zip("xy", (blocked, plain) if is_blocked else (plain, blocked), strict=True)
    x, y = (argument(name, shape, images.dtype, view) for name, (shape, view) in pairs)
    loop = maybe_parallel(batch * blocks * pixels * lanes, machine.costs.vector_work)
    with loop(0, batch * blocks) as task, T.serial(0, pixels) as pixel:
        yield x, y, task // blocks, task % blocks, pixel


@kernel
def quads_kernel(images: Images, machine: Machine, epilogue: Epilogue) -> None:
    """Emit a kernel of up to four channels (NCHW) to blocks of four bytes by the epilogue, filled with anything."""
    batch, (_, rows, columns, quad) = symbol("batch", images.batch), images.blocks(4)
    lanes = machine.lanes if columns >= machine.lanes else 1
    x = argument("operand0", (batch, images.channels, rows, columns), epilogue.operands[0].dtype)
    y = argument("y", (batch, 1, rows, columns, quad), epilogue.dtype, (batch, rows, columns * quad))
    interleaved = [channel * lanes + lane for lane in range(lanes) for channel in range(quad)]
    loop = maybe_parallel(batch * rows * columns, machine.costs.vector_work)
    with loop(0, batch * rows) as task, T.serial(0, ceil_div(columns, lanes)) as step:
        start = tirx.min(step * lanes, columns - lanes)  # the last ones overlap those before
        image, row, pixels = task // rows, task % rows, ramp(start, lanes)
        vectors = [x[image, channel, row, pixels] for channel in range(images.channels)]
        parts = [epilogue.applied(None, lambda _, vector=vector: vector) for vector in vectors]
        parts += parts[:1] * (quad - len(parts))
        T.buffer_store(y, tirx.Shuffle(parts, interleaved), [image, row, ramp(start * quad, lanes * quad)])


@kernel
def join_kernel(joined: tuple[Images, ...], machine: Machine) -> None:
    """Emit a kernel that concatenates images in blocks along the channels; all but the last fill their blocks."""
    batch, dtype = symbol("batch", joined[0].batch), joined[0].dtype
    counts = [images.blocks(machine.lanes)[0] for images in joined]
    _, rows, columns, lanes = joined[0].blocks(machine.lanes)
    names = [*(f"operand{index}" for index in range(len(joined))), "y"]
    shapes = [(batch, count, rows, columns, lanes) for count in (*counts, sum(counts))]
    *operands, y = (argument(name, shape, dtype) for name, shape in zip(names, shapes, strict=True))
    loop = maybe_parallel(batch * rows * columns * sum(counts), machine.costs.vector_work)
    with loop(0, batch * rows) as task:
        image, row, first = task // rows, task % rows, 0
        for operand, count in zip(operands, counts, strict=True):
            with T.serial(0, count) as block, T.serial(0, columns) as column:
                pixel = (row, column, ramp(0, lanes))
                T.buffer_store(y, operand[(image, block, *pixel)], [image, first + block, *pixel])
            first += count


@kernel
def interleave_kernel(images: Images, window: Window, machine: Machine, epilogue: Epilogue) -> None:
    """Emit a kernel of images with the channels of each phase of strides, and epilogue operands, to whole ones."""
    batch, (channels, *sizes, lanes) = symbol("batch", images.batch), images.blocks(machine.lanes)
    (down, across), blocks = window.strides, channels // prod(window.strides)
    x = argument("x", (batch, channels, *sizes, lanes), images.dtype)
    shape = (batch, blocks, *window.result, lanes)
    result = Result.declare(epilogue, shape)
    with each_pixel(shape, machine) as place:
        image, first, *pixel, whole = place
        row, column = (at + begin % by for at, begin, by in zip(pixel, window.begins, window.strides, strict=True))
        block = (row % down * across + column % across) * blocks + first
        result.store(x[image, block, row // down, column // across, whole], place)
