"""Windows that stay within a channel: depthwise convolutions and pools, in float32, on images in blocks of channels.

Each window of a block of channels is one vector; a row of the result is done in tiles that fit into the registers.
"""

from dataclasses import dataclass
from functools import reduce
from operator import add

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .bfloat16 import BFLOAT16, imported, loaded
from .epilogue import BlockedEpilogue, Epilogue, viewed
from .instructions.fma import FMA
from .machine import Machine
from .nchwc import Images
from .prim_func import kernel, maybe_parallel, symbol
from .row_tiles import Line, RowTiles, Sums
from .tiles import ceil_div
from .vectors import Scalar, cast, filled, ramp, spread, vector_type, zeros
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


@kernel
def channelwise_kernel(sizes: Channelwise, machine: Machine, epilogue: Epilogue = Epilogue()) -> None:
    """Emit a kernel of images and the epilogue's operands to images in blocks.

    In front of these operands, a depthwise convolution takes weights `[block, row, column, lane]` and a bias of whole
    blocks.
    """
    window, lanes, batch = sizes.window, machine.lanes, symbol("batch", sizes.batch)
    most = machine.registers // 2  # beside them, a row of weights and as many pixels are held
    columns = ceil_div(window.result[1], ceil_div(window.result[1], most))
    x = T.arg("x", T.buffer((batch, sizes.blocks, *window.image, lanes), sizes.dtype))
    weights = bias = None
    if sizes.kind == DEPTHWISE:
        weights = T.arg("weights", T.buffer((sizes.blocks, *window.kernel, lanes), "float32"))
        bias = T.arg("bias", T.buffer((sizes.blocks * lanes,), "float32"))
    shape = (batch, sizes.blocks, *window.result, lanes)
    finish = BlockedEpilogue.of(epilogue, shape)
    x, finish = viewed(x, x.shape), finish.viewed(shape)
    code = _Code(window, finish, sizes.accumulator_dtype, columns, 1, x, bias, None, None, sizes, weights)
    code.emit(batch, sizes.blocks, window.tiles(columns), machine)


@dataclass(frozen=True, slots=True)
class _Code(RowTiles):
    """Pools, and convolutions in float32."""

    sizes: Channelwise
    weights: tirx.Buffer | None

    def initialise(self, block: Scalar, row: Scalar, column: int | None) -> tirx.Expr:
        if self.sizes.kind != MAXIMUM:
            return RowTiles.initialise(self, block, row, column)
        dtype = self.accumulator_dtype
        least = T.float32(float("-inf")) if dtype == "float32" else tirx.min_value(dtype)
        return spread(least, self.finish.lanes)

    def add(self, sums: Sums, at: Line, start: Scalar, edge: int | None) -> None:
        (image, block, row), window, whole = at, self.window, ramp(0, self.finish.lanes)
        with T.serial(*window.rows(row)) as line:
            for column, (total,) in enumerate(sums):
                for tap in range(window.kernel[1]):
                    if edge is not None and not window.is_inside(edge + column, tap):
                        continue
                    place = (image, block, window.at(0, row, line), window.at(1, start + column, tap), whole)
                    pixel = loaded(self.x[place], self.sizes.dtype)
                    T.buffer_store(total, self._step(total[whole], pixel, (block, line, tap, whole)), [whole])

    def _step(self, total: tirx.Expr, pixel: tirx.Expr, tap: tuple[Scalar, ...]) -> tirx.Expr:
        if self.weights is not None:
            number = _shifted(pixel, "float32" if self.sizes.is_float else "int32", self.sizes.zero_point)
            return FMA.multiply_add(total, cast(number, "float32"), self.weights[tap])
        if self.sizes.kind != MAXIMUM:
            return total + _shifted(pixel, self.accumulator_dtype, self.sizes.zero_point)
        if not self.sizes.is_float:
            return tirx.Select(total > pixel, total, pixel)
        # NaN wins, on either side.
        return tirx.Select(total >= pixel, total, tirx.Select(tirx.isnan(total), total, pixel))

    def store_c(self, total: tirx.Expr, block: Scalar, row: Scalar, column: int | None) -> tirx.Expr:
        """Turn a window's sum into a mean, where that is wanted."""
        if self.sizes.kind not in (MEAN, PADDED_MEAN):
            return total
        window, is_padded = self.window, self.sizes.kind == PADDED_MEAN
        begin, end = window.rows(row, padded=is_padded)
        across = window.kernel[1] if column is None else window.columns(column, padded=is_padded)
        taps = end - begin
        count = T.float32(taps * across) if isinstance(taps, int) else taps.astype("float32") * T.float32(across)
        return cast(total, "float32") / spread(count, self.finish.lanes)


def _shifted(pixel: tirx.Expr, accumulator_dtype: str, zero_point: int) -> tirx.Expr:
    """Convert a vector for summing: integers become their distances to the zero point."""
    if accumulator_dtype == "float32" or not zero_point:
        return cast(pixel, accumulator_dtype)
    return cast(pixel, accumulator_dtype) - tirx.const(zero_point, vector_type(accumulator_dtype, pixel))


@kernel
def global_mean_kernel(sizes: Images, zero_point: int, machine: Machine, epilogue: Epilogue) -> None:
    """Emit a kernel from images to their means, as images of one pixel; integers count from the zero point."""
    lanes, whole, images = machine.lanes, ramp(0, machine.lanes), symbol("batch", sizes.batch)
    blocks, rows, columns, _ = sizes.blocks(lanes)
    pixels = rows * columns
    width = next(width for width in (8, 7, 6, 5, 4, 3, 2, 1) if pixels % width == 0)  # independent sums
    dtype = "float32" if sizes.dtype in _FLOATS else "int32"
    x = T.arg("x", T.buffer((images, blocks, rows, columns, lanes), sizes.dtype))
    shape = (images, blocks, 1, 1, lanes)
    finish = BlockedEpilogue.of(epilogue, shape)
    flat, finish = viewed(x, (images, blocks, pixels, lanes)), finish.viewed(shape)
    loop = maybe_parallel(images * blocks * pixels, machine.costs.vector_work)
    with T.sblock("root"), imported(machine, epilogue.is_coarse), loop(0, images * blocks) as task:
        image, block = task // blocks, task % blocks
        sums = [filled(zeros(dtype, lanes)) for _ in range(width)]
        with T.serial(0, pixels // width) as step:
            for number, held in enumerate(sums):
                pixel = loaded(flat[image, block, step * width + number, whole], sizes.dtype)
                T.buffer_store(held, held[whole] + _shifted(pixel, dtype, zero_point), [whole])
        total = reduce(add, (held[whole] for held in sums))
        finish.store_one(cast(total, "float32") / spread(T.float32(pixels), lanes), (image, block, 0, 0))
