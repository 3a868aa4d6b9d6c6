"""Kernels that put images into blocks of channels (NCHWc), take them out, join them and interleave them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeVar

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .epilogue import Epilogue, Result, each_pixel
from .machine import Machine
from .prim_func import argument, either, kernel, maybe_parallel, symbols
from .vectors import Scalar, ceil_div, ramp, transposed
from .windows import Window

_Size = TypeVar("_Size")


@dataclass(frozen=True, slots=True)
class Images:
    """Sizes of images `[batch, channel, *spatial]` of up to two spatial axes; those of None aren't known."""

    batch: int | None
    channels: int
    spatial: tuple[int | None, ...]
    dtype: str = "float32"

    def blocks(self, lanes: int) -> int:
        """Return the number of blocks of channels."""
        return ceil_div(self.channels, lanes)

    def bound(self) -> tuple[Scalar, Sequence[Scalar]]:
        """Return the batch and the spatial sizes in a kernel, with variables for those that aren't known."""
        batch, *spatial = symbols((self.batch, *self.spatial))
        return batch, spatial


def two_axes(spatial: Iterable[_Size]) -> tuple[_Size | int, _Size | int]:
    """Return the rows and columns of images; with one spatial axis, they have one row."""
    *rows, columns = spatial
    return rows[0] if rows else 1, columns


@kernel
def block_kernel(images: Images, machine: Machine) -> None:
    """Emit a kernel from images (NCHW) to blocks of channels (NCHWc), with anything beyond the last channel."""
    _turn(images, machine, to_blocks=True)


@kernel
def unblock_kernel(images: Images, machine: Machine) -> None:
    """Emit a kernel from blocks of channels (NCHWc) to images (NCHW)."""
    _turn(images, machine, to_blocks=False)


def _turn(images: Images, machine: Machine, *, to_blocks: bool) -> None:
    """Emit arguments, and code that transposes squares of a block's channels and of as many pixels.

    Where an image has fewer pixels than that, elements are moved one by one.
    """
    (batch, spatial), lanes, blocks = images.bound(), machine.lanes, images.blocks(machine.lanes)
    pixels, whole = prod(spatial), ramp(0, lanes)
    plain = (batch, images.channels, *spatial), (batch, images.channels, pixels)
    blocked = (batch, blocks, *two_axes(spatial), lanes), (batch, blocks, pixels, lanes)
    pairs = zip("xy", (plain, blocked) if to_blocks else (blocked, plain), strict=True)
    x, y = (argument(name, shape, images.dtype, view) for name, (shape, view) in pairs)
    loop = maybe_parallel(batch * blocks * pixels * lanes, machine.costs.vector_work)

    def squares() -> None:
        steps = (pixels + (lanes - 1)) // lanes
        with loop(0, batch * blocks * steps) as task:
            image, block = task // (blocks * steps), task // steps % blocks
            start = tirx.min(task % steps * lanes, pixels - lanes)  # the last ones overlap those before
            row, channels = ramp(start, lanes), [block * lanes + lane for lane in range(lanes)]
            places = [(image, block, start + pixel, whole) for pixel in range(lanes)]
            if to_blocks:
                rows = [x[image, tirx.min(channel, images.channels - 1), row] for channel in channels]
                for place, vector in zip(places, transposed(rows), strict=True):
                    T.buffer_store(y, vector, place)
            else:
                for channel, vector in zip(channels, transposed([x[place] for place in places]), strict=True):
                    with T.If(channel < images.channels), T.Then():
                        T.buffer_store(y, vector, [image, channel, row])

    def elements() -> None:
        with loop(0, batch * blocks) as task, T.serial(0, pixels) as pixel:
            image, block = task // blocks, task % blocks
            with T.serial(0, tirx.min(lanes, images.channels - block * lanes)) as lane:
                outside, inside = (image, block * lanes + lane, pixel), (image, block, pixel, lane)
                here, there = (outside, inside) if to_blocks else (inside, outside)
                T.buffer_store(y, x[here], there)

    either(pixels >= lanes, squares, elements)


@kernel
def quads_kernel(images: Images, machine: Machine, epilogue: Epilogue) -> None:
    """Emit a kernel of up to four channels (NCHW) to blocks of four bytes by the epilogue, filled with anything."""
    batch, spatial = images.bound()
    (rows, columns), quad = two_axes(spatial), 4
    lanes = machine.lanes if isinstance(columns, int) and columns >= machine.lanes else 1
    x = argument("operand0", (batch, images.channels, rows, columns), epilogue.operands[0].dtype)
    y = argument("y", (batch, 1, rows, columns, quad), epilogue.dtype, (batch, rows, columns * quad))
    interleaved = [channel * lanes + lane for lane in range(lanes) for channel in range(quad)]
    loop = maybe_parallel(batch * rows * columns, machine.costs.vector_work)
    with loop(0, batch * rows) as task, T.serial(0, (columns + (lanes - 1)) // lanes) as step:
        start = tirx.min(step * lanes, columns - lanes)  # the last ones overlap those before
        image, row, pixels = task // rows, task % rows, ramp(start, lanes)
        vectors = [x[image, channel, row, pixels] for channel in range(images.channels)]
        parts = [epilogue.applied(None, lambda _, vector=vector: vector) for vector in vectors]
        parts += parts[:1] * (quad - len(parts))
        T.buffer_store(y, tirx.Shuffle(parts, interleaved), [image, row, ramp(start * quad, lanes * quad)])


@kernel
def join_kernel(joined: tuple[Images, ...], machine: Machine) -> None:
    """Emit a kernel that concatenates images in blocks along the channels; all but the last fill their blocks."""
    (batch, spatial), dtype, lanes = joined[0].bound(), joined[0].dtype, machine.lanes
    (rows, columns), counts = two_axes(spatial), [images.blocks(lanes) for images in joined]
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
    (batch, spatial), lanes, channels = images.bound(), machine.lanes, images.blocks(machine.lanes)
    (down, across), blocks = window.strides, channels // prod(window.strides)
    x = argument("x", (batch, channels, *two_axes(spatial), lanes), images.dtype)
    shape = (batch, blocks, *window.bound().result, lanes)
    result = Result.declare(epilogue, shape)
    with each_pixel(shape, machine) as place:
        image, first, *pixel, whole = place
        row, column = (at + begin % by for at, begin, by in zip(pixel, window.begins, window.strides, strict=True))
        block = (row % down * across + column % across) * blocks + first
        result.store(x[image, block, row // down, column // across, whole], place)
