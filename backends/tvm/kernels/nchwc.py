"""Kernels that put images into blocks of channels (NCHWc), take them out, join them and interleave them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .bfloat16 import imported, stored_as
from .blocked_epilogue import BlockedEpilogue, operand_images, seen
from .epilogue import Epilogue
from .machine import Machine
from .tiles import OPAQUE, ceil_div, maybe_parallel
from .vectors import Scalar, ramp

Move = Callable[[tirx.Buffer, tirx.Buffer, tirx.Expr, tirx.Expr, tirx.Expr], None]
"""A function that emits the move of an element, given both buffers, the image, the block and the pixel."""


@dataclass(frozen=True, slots=True)
class Images:
    """Sizes of images `[batch, channel, *spatial]`, of up to two spatial axes.

    Attributes:
        batch: None where it isn't known.
        channels: of each image.
        spatial: the sizes of the spatial axes.
        dtype: of their elements.
    """

    batch: int | None
    channels: int
    spatial: tuple[int, ...]
    dtype: str = "float32"

    def blocks(self, lanes: int) -> tuple[int, int, int, int]:
        """Return the sizes in blocks behind the batch's: blocks, rows, columns and lanes; missing axes have size 1."""
        rows, columns = (1,) * (2 - len(self.spatial)) + self.spatial
        return ceil_div(self.channels, lanes), rows, columns, lanes


@lru_cache
def block_kernel(images: Images, lanes: int) -> tirx.PrimFunc:
    """Build a kernel from images (NCHW) to blocks of channels (NCHWc), with zeros beyond the last channel."""

    def move(x: tirx.Buffer, y: tirx.Buffer, image: Scalar, block: Scalar, pixel: tirx.Expr) -> None:
        for lane in range(lanes):
            channel = block * lanes + lane
            element = x[image, channel, pixel]
            if 0 < images.channels % lanes <= lane:
                element = tirx.if_then_else(channel < images.channels, element, tirx.const(0, stored_as(images.dtype)))
            T.buffer_store(y, element, [image, block, pixel, lane])

    return _kernel(images, lanes, move, is_blocked=False)


@lru_cache
def unblock_kernel(images: Images, lanes: int) -> tirx.PrimFunc:
    """Build a kernel from blocks of channels (NCHWc) to images (NCHW)."""

    def move(x: tirx.Buffer, y: tirx.Buffer, image: Scalar, block: Scalar, pixel: tirx.Expr) -> None:
        with T.serial(0, tirx.min(lanes, images.channels - block * lanes)) as lane:
            T.buffer_store(y, x[image, block, pixel, lane], [image, block * lanes + lane, pixel])

    return _kernel(images, lanes, move, is_blocked=True)


def _kernel(images: Images, lanes: int, move: Move, *, is_blocked: bool) -> tirx.PrimFunc:
    batch = tirx.Var("batch", "int64") if images.batch is None else images.batch
    blocks, *sizes, _ = images.blocks(lanes)
    pixels = prod(sizes)
    forms = [
        ((batch, images.channels, *images.spatial), (batch, images.channels, pixels)),
        ((batch, blocks, *sizes, lanes), (batch, blocks, pixels, lanes)),
    ]
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            flat: list[tuple[tirx.Buffer, tuple[Scalar, ...]]] = []
            for name, (shape, view) in zip(("x", "y"), reversed(forms) if is_blocked else forms, strict=True):
                flat.append((T.arg(name, T.buffer(shape, images.dtype)), view))
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            with T.sblock("root"):  # where Relax looks whether a kernel of one tensor is a reshape
                x, y = (seen(buffer, view) for buffer, view in flat)
                loop = maybe_parallel(batch * blocks * pixels * lanes)
                with loop(0, batch * blocks) as task, T.serial(0, pixels) as pixel:
                    move(x, y, task // blocks, task % blocks, pixel)
        return builder.get()


@lru_cache
def join_kernel(joined: tuple[Images, ...], machine: Machine) -> tirx.PrimFunc:
    """Build a kernel that concatenates images in blocks along the channels; all but the last fill their blocks."""
    batch = tirx.Var("batch", "int64") if joined[0].batch is None else joined[0].batch
    counts = [images.blocks(machine.lanes)[0] for images in joined]
    _, rows, columns, lanes = joined[0].blocks(machine.lanes)
    dtype = joined[0].dtype
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            operands = [
                T.arg(f"operand{index}", T.buffer((batch, count, rows, columns, lanes), dtype))
                for index, count in enumerate(counts)
            ]
            y = T.arg("y", T.buffer((batch, sum(counts), rows, columns, lanes), dtype))
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            with maybe_parallel(batch * rows * columns * sum(counts))(0, batch * rows) as task:
                image, row, first = task // rows, task % rows, 0
                for operand, count in zip(operands, counts, strict=True):
                    with T.serial(0, count) as block, T.serial(0, columns) as column:
                        place, whole = (row, column), ramp(0, lanes)
                        T.buffer_store(y, operand[image, block, *place, whole], [image, first + block, *place, whole])
                    first += count
        return builder.get()


@dataclass(frozen=True, slots=True)
class Interleaving:
    """Images whose pixels are interleaved from several smaller images.

    Attributes:
        batch: None where it isn't known.
        blocks: of channels.
        parts: how many smaller images there are, by rows and by columns; their channels lie behind each other.
        image: rows and columns of each smaller image.
        begins: rows and columns that are left out in front.
        result: rows and columns of the whole image.
    """

    batch: int | None
    blocks: int
    parts: tuple[int, int]
    image: tuple[int, int]
    begins: tuple[int, int]
    result: tuple[int, int]


@lru_cache
def interleave_kernel(sizes: Interleaving, machine: Machine, epilogue: Epilogue) -> tirx.PrimFunc:
    """Build a kernel of smaller images and the epilogue's operands to whole images."""
    lanes = machine.lanes
    batch = tirx.Var("batch", "int64") if sizes.batch is None else sizes.batch
    (down, across), (rows, columns) = sizes.parts, sizes.result
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            x = T.arg("x", T.buffer((batch, down * across * sizes.blocks, *sizes.image, lanes), "float32"))
            shape = (batch, sizes.blocks, rows, columns, lanes)
            beside = operand_images(epilogue, shape)
            y = T.arg("y", T.buffer(shape, epilogue.dtype))
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            y, finish = seen(y, shape), BlockedEpilogue(epilogue, beside).seen(shape)
            tasks, code = batch * sizes.blocks * rows, imported(machine, epilogue.is_coarse)
            with (
                T.sblock("root"),
                code,
                maybe_parallel(tasks * columns)(0, tasks) as task,
                T.serial(0, columns) as column,
            ):
                place = (task // rows // sizes.blocks, task // rows % sizes.blocks, task % rows, column)
                row_at, column_at = (index + begin for index, begin in zip(place[2:], sizes.begins, strict=True))
                block = (row_at % down * across + column_at % across) * sizes.blocks + place[1]
                vector = x[place[0], block, row_at // down, column_at // across, ramp(0, lanes)]
                finish.store(y, [[vector]], place, lanes)
        return builder.get()
