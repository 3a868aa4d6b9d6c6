"""Arguments and sizes for kernels on images."""

from collections.abc import Sequence

import numpy as np
from tvm import relax, tirx

from ....ir.graph import Node, Value
from ....ir.types import DType
from ..kernels.epilogue import Broadcast
from ..kernels.nchwc import two_axes
from ..kernels.windows import Window
from .emitter import Blocked, Emitter
from .fusion import FusionGroup, widened_from
from .layouts import blocked, blocked_type, images_of, in_blocks, is_image, row_in_blocks


def is_known(x: Value, node: Node) -> bool:
    """Whether images have a form in blocks, and results that aren't empty.

    Where sizes aren't known, padding must be given or the same for images of any size, as it is without strides, and
    results end with the last whole window.
    """
    types, get = (x.type, node.outputs[0].type), node.attributes.get
    is_padding_known = get("auto_pad", "NOTSET") in ("NOTSET", "VALID") or set(get("strides", (1,))) == {1}
    is_plain = is_padding_known and not get("ceil_mode", 0)
    return all(
        is_image(type)
        and type.dtype is DType.float32
        and 0 not in type.shape
        and (is_plain or None not in images_of(type).spatial)
        for type in types
    )


def is_worth_blocks(emitter: Emitter, x: Value) -> bool:
    """Whether images lie in blocks already, or fill at least one."""
    return x in emitter.blocked or images_of(x.type).channels >= emitter.machine.lanes


def unwidened(x: Value) -> Value:
    """Return the bfloat16 images that images were widened from, or the images themselves."""
    narrow = widened_from(x)
    return x if narrow is None else narrow


def as_image(emitter: Emitter, x: Value) -> relax.Expr:
    """Return images as a tensor with two spatial axes."""
    batch, channels, *sizes = x.shape
    return emitter.shaped(x, (batch, channels, *two_axes(sizes)))


def constant_row(numbers: np.ndarray, lanes: int) -> relax.Expr:
    """Return numbers for each channel as a row of whole blocks."""
    return relax.const(blocked(numbers.reshape(1, -1, 1), lanes).reshape(-1), "float32")


def operands(emitter: Emitter, group: FusionGroup) -> list[relax.Expr]:
    """Return the operands of a group's epilogue, in blocks."""
    pairs = zip(group.operands, group.epilogue.operands, strict=True)
    return [
        row_in_blocks(emitter, value) if operand.reach is Broadcast.CHANNELS else in_blocks(emitter, value)
        for value, operand in pairs
    ]


def image_call(
    emitter: Emitter, output: Value, name: str, kernel: tirx.PrimFunc, arguments: Sequence[relax.Expr]
) -> Blocked:
    """Call a kernel whose result is images in blocks, of a value's type."""
    return Blocked(emitter.prim_func(name, kernel, arguments, blocked_type(emitter, output.type)))


def window_of(node: Node, kernel: Sequence[int]) -> Window:
    """Return where the windows of a node lie; a single spatial axis becomes the columns of an image with one row."""
    x, get = node.operand(0), node.attributes.get
    rank = len(kernel)
    strides, dilations = get("strides", (1,) * rank), get("dilations", (1,) * rank)
    image, result = ([size or 0 for size in images_of(value.type).spatial] for value in (x, node.outputs[0]))
    mode, pads = get("auto_pad", "NOTSET"), get("pads", (0,) * 2 * rank)
    begins, ends = list(pads[:rank]), list(pads[rank:])
    if mode != "NOTSET":
        for axis in range(rank):
            reach = (result[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
            missing = max(reach - image[axis], 0) if mode.startswith("SAME") else 0
            begins[axis] = (missing + (mode == "SAME_LOWER")) // 2
            ends[axis] = missing - begins[axis]
    rows = [(1, 1, 1, 1, 1, 0, 0)] if rank == 1 else []
    axes = [*rows, *zip(image, result, kernel, strides, dilations, begins, ends, strict=True)]
    return Window(*zip(*axes, strict=True))
