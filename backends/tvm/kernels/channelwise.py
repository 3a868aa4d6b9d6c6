"""Windows that stay within a channel: depthwise convolutions and pools, in float32, on images in blocks of channels.

Each window of a block of channels is one vector; a row of the result is done in tiles that fit into the registers.
"""

from dataclasses import dataclass
from functools import lru_cache

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .bfloat16 import BFLOAT16, imported, loaded
from .blocked_epilogue import BlockedEpilogue, operand_images, seen
from .epilogue import Epilogue
from .machine import Machine
from .nchwc import Images
from .tiles import OPAQUE, maybe_parallel
from .vectors import Scalar, cast, ramp, spread, vector_type
from .windows import Window

DEPTHWISE, MAXIMUM, MEAN, PADDED_MEAN = "depthwise", "max_pool", "average_pool", "padded_average_pool"
"""What is computed of a window: products with weights, the maximum, the mean of pixels, or that with padding."""
_FLOATS = frozenset({"float32", BFLOAT16})
"""Types of pixels that are computed with in float32."""


@dataclass(frozen=True, slots=True)
class Channelwise:
    """The sizes, and what is computed of each window.

    Attributes:
        batch: images; None where their number isn't known.
        blocks: of channels.
        window: where the windows lie.
        kind: what is computed of a window, one of the constants above.
        dtype: of the images. Maxima keep integers; means and convolutions take their distances to the zero point.
        zero_point: of integers.
    """

    batch: int | None
    blocks: int
    window: Window
    kind: str
    dtype: str = "float32"
    zero_point: int = 0

    @property
    def is_float(self) -> bool:
        """Whether pixels enter the float32 arithmetic as they are."""
        return self.dtype in _FLOATS

    @property
    def accumulator_dtype(self) -> str:
        """The type of maxima and sums."""
        if self.kind == DEPTHWISE or self.is_float:
            return "float32"
        return self.dtype if self.kind == MAXIMUM else "int32"


@lru_cache
def channelwise_kernel(sizes: Channelwise, machine: Machine, epilogue: Epilogue = Epilogue()) -> tirx.PrimFunc:
    """Build a kernel of images and the epilogue's operands to images in blocks.

    In front of these operands, a depthwise convolution takes weights `[block, row, column, lane]` and a bias of whole
    blocks.
    """
    window, lanes = sizes.window, machine.lanes
    batch = tirx.Var("batch", "int64") if sizes.batch is None else sizes.batch
    most = machine.registers // 2  # beside them, a row of weights and as many pixels are held
    tiles = -(-window.result[1] // most)
    columns = -(-window.result[1] // tiles)
    inner, edges = window.tiles(columns)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            x = T.arg("x", T.buffer((batch, sizes.blocks, *window.image, lanes), sizes.dtype))
            held: list[tirx.Buffer] = []
            if sizes.kind == DEPTHWISE:
                held.append(T.arg("weights", T.buffer((sizes.blocks, *window.kernel, lanes), "float32")))
                held.append(T.arg("bias", T.buffer((sizes.blocks * lanes,), "float32")))
            shape = (batch, sizes.blocks, *window.result, lanes)
            beside = operand_images(epilogue, shape)
            y = T.arg("y", T.buffer(shape, epilogue.dtype))
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            x, y, finish = seen(x, x.shape), seen(y, shape), BlockedEpilogue(epilogue, beside).seen(shape)
            code = _Code(sizes, lanes, x, held, y, finish)
            tasks = batch * sizes.blocks * window.result[0]
            loop = maybe_parallel(tasks * window.result[1] * window.kernel[0] * window.kernel[1])
            with T.sblock("root"), imported(machine, epilogue.is_coarse), loop(0, tasks) as task:
                row, rest = task % window.result[0], task // window.result[0]
                place = (rest // sizes.blocks, rest % sizes.blocks, row)
                sums = [T.alloc_buffer((lanes,), sizes.accumulator_dtype) for _ in range(columns)]
                for start in edges:
                    code.tile(sums, place, start, edge=start)
                if inner:
                    with T.serial(0, len(inner)) as step:
                        code.tile(sums, place, tirx.min(inner[0] + step * columns, inner[-1]))
        return builder.get()


@dataclass(frozen=True, slots=True)
class _Code:
    """Code for tiles, with the buffers that they read and write."""

    sizes: Channelwise
    lanes: int
    x: tirx.Buffer
    held: list[tirx.Buffer]
    y: tirx.Buffer
    finish: BlockedEpilogue

    def tile(
        self, sums: list[tirx.Buffer], place: tuple[Scalar, Scalar, Scalar], start: Scalar, edge: int | None = None
    ) -> None:
        """Emit one tile from a column on; at an edge, taps beyond the image are left out."""
        image, block, row = place
        window, whole = self.sizes.window, ramp(0, self.lanes)
        for held in sums:
            T.buffer_store(held, self._start(block), [whole])
        begin, end = window.rows(row)
        with T.serial(begin, end) as line:
            for column, held in enumerate(sums):
                for tap in range(window.kernel[1]):
                    if edge is not None and not window.is_inside(edge + column, tap):
                        continue
                    at = (image, block, window.at(0, row, line), window.at(1, start + column, tap), whole)
                    pixel = loaded(self.x[at], self.sizes.dtype)
                    T.buffer_store(held, self._step(held[whole], pixel, (block, line, tap)), [whole])
        columns = [None if edge is None else edge + column for column in range(len(sums))]
        results = [[self._end(held[whole], row, column)] for held, column in zip(sums, columns, strict=True)]
        self.finish.store(self.y, results, (image, block, row, start), self.lanes)

    def _start(self, block: Scalar) -> tirx.Expr:
        if self.sizes.kind == DEPTHWISE:
            return self.held[1][ramp(block * self.lanes, self.lanes)]
        dtype = self.sizes.accumulator_dtype
        if self.sizes.kind != MAXIMUM:
            return spread(tirx.const(0, dtype), self.lanes)
        return spread(T.float32(float("-inf")) if dtype == "float32" else tirx.min_value(dtype), self.lanes)

    def _step(self, total: tirx.Expr, pixel: tirx.Expr, tap: tuple[Scalar, Scalar, int]) -> tirx.Expr:
        if self.sizes.kind == DEPTHWISE:
            number = _shifted(pixel, "float32" if self.sizes.is_float else "int32", self.sizes.zero_point)
            return total + cast(number, "float32") * self.held[0][(*tap, ramp(0, self.lanes))]
        if self.sizes.kind != MAXIMUM:
            return total + _shifted(pixel, self.sizes.accumulator_dtype, self.sizes.zero_point)
        if not self.sizes.is_float:
            return tirx.Select(total > pixel, total, pixel)
        # NaN wins, on either side.
        return tirx.Select(total >= pixel, total, tirx.Select(tirx.isnan(total), total, pixel))

    def _end(self, total: tirx.Expr, row: Scalar, column: int | None) -> tirx.Expr:
        """Turn a window's sum into a mean, where that is wanted; a column of None needs no padding at the sides."""
        if self.sizes.kind not in (MEAN, PADDED_MEAN):
            return total
        window, is_padded = self.sizes.window, self.sizes.kind == PADDED_MEAN
        begin, end = window.rows(row, padded=is_padded)
        across = window.kernel[1] if column is None else window.columns(column, padded=is_padded)
        taps = end - begin
        count = taps if isinstance(taps, int) else taps.astype("float32")
        return cast(total, "float32") / spread(
            T.float32(count * across) if isinstance(count, int) else count * T.float32(across), self.lanes
        )


def _shifted(pixel: tirx.Expr, accumulator_dtype: str, zero_point: int) -> tirx.Expr:
    """Convert a vector for summing: integers become their distances to the zero point."""
    if accumulator_dtype == "float32" or not zero_point:
        return cast(pixel, accumulator_dtype)
    return cast(pixel, accumulator_dtype) - tirx.const(zero_point, vector_type(accumulator_dtype, pixel))


@lru_cache
def global_mean_kernel(sizes: Images, zero_point: int, machine: Machine, epilogue: Epilogue) -> tirx.PrimFunc:
    """Build a kernel from images to their means, as images of one pixel; integers count from the zero point."""
    lanes, whole = machine.lanes, ramp(0, machine.lanes)
    blocks, rows, columns, _ = sizes.blocks(lanes)
    images, pixels = tirx.Var("batch", "int64") if sizes.batch is None else sizes.batch, rows * columns
    width = next(width for width in (8, 7, 6, 5, 4, 3, 2, 1) if pixels % width == 0)  # independent sums
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            x = T.arg("x", T.buffer((images, blocks, rows, columns, lanes), sizes.dtype))
            shape = (images, blocks, 1, 1, lanes)
            beside = operand_images(epilogue, shape)
            y = T.arg("y", T.buffer(shape, epilogue.dtype))
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            flat, y = seen(x, (images, blocks, pixels, lanes)), seen(y, shape)
            finish, loop = BlockedEpilogue(epilogue, beside).seen(shape), maybe_parallel(images * blocks * pixels)
            with T.sblock("root"), imported(machine, epilogue.is_coarse), loop(0, images * blocks) as task:
                image, block = task // blocks, task % blocks
                accumulator_dtype = "float32" if sizes.dtype in _FLOATS else "int32"
                sums = [T.alloc_buffer((lanes,), accumulator_dtype) for _ in range(width)]
                for held in sums:
                    T.buffer_store(held, spread(tirx.const(0, accumulator_dtype), lanes), [whole])
                with T.serial(0, pixels // width) as step:
                    for number, held in enumerate(sums):
                        pixel = loaded(flat[image, block, step * width + number, whole], sizes.dtype)
                        T.buffer_store(held, held[whole] + _shifted(pixel, accumulator_dtype, zero_point), [whole])
                total = sums[0][whole]
                for held in sums[1:]:
                    total = total + held[whole]
                mean = cast(total, "float32") / spread(T.float32(pixels), lanes)
                place = (image, block, 0, 0)
                T.buffer_store(y, finish.applied(mean, place, lanes), [*place, whole])
        return builder.get()
