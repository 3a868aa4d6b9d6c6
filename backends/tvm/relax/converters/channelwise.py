"""Operators within the channels of images in blocks (pools and elementwise operators), and their concatenation."""

from dataclasses import replace

from tvm import relax

from .....ir.graph import Node, Value
from .....ir.types import DType
from ...kernels.channelwise import MAXIMUM, MEAN, PADDED_MEAN, Channelwise, channelwise_kernel
from ...kernels.epilogue import Broadcast, Epilogue, PostOp, pixels_kernel
from ...kernels.nchwc import join_kernel, two_axes
from ...kernels.vector_math import ELEMENTS
from ...kernels.windows import Window
from ..emitter import Blocked, Converter, Emitter, known_sizes
from ..fusion import Anchor, FusedKernel, FusionGroup, reach, source, step_attributes, step_operands
from ..images import image_call, is_known, is_worth_blocks, operands, window_of
from ..importer import imported
from ..layouts import blocked_type, images_of, in_blocks, is_image
from .pool import average_pool, max_pool


def _pool_anchor(node: Node) -> Anchor | None:
    """Return an anchor for a pool of integers or widened bfloat16, or of floats that are quantized or rounded next.

    Integers have integer maxima, which the prologue dequantizes; their means are of distances to the zero point, which
    it scales.
    """
    x = node.operand(0)
    if len(node.outputs) > 1 or not is_known(x, node):
        return None
    anchor = Anchor(node, channels=x.type.rank - 1, fusable=ELEMENTS)
    if source(x).dtype.is_float:
        return anchor if source(x) is not x or _is_narrowed(node.output) else None
    assert x.producer is not None
    attributes = step_attributes(x.producer)
    scale = dict(attributes)["scale"]
    is_maximum = node.operator == "MaxPool"
    prologue = PostOp("DequantizeLinear", attributes, (0,)) if is_maximum else PostOp("Mul", (), (0, scale))
    return replace(anchor, prologue=prologue)


def _pool(emitter: Emitter, group: FusionGroup) -> Blocked:
    x = group.anchor.operand(0)
    images = source(x)
    zero_point = 0 if x.producer is None or images.dtype.is_float else dict(step_attributes(x.producer))["zero_point"]
    return _pooled(emitter, group, images, zero_point)


def pool(emitter: Emitter, node: Node) -> relax.Expr | Blocked:
    """Lower a pool that no group contains: maxima and means.

    Positions of maxima, and images that don't fill a block, are left to other converters.
    """
    x = node.operand(0)
    if len(node.outputs) > 1 or not is_known(x, node) or not is_worth_blocks(emitter, x):
        return _PLAIN[node.operator](emitter, node)
    return _pooled(emitter, FusionGroup(node, (), Epilogue(), ()), x, 0)


def _pooled(emitter: Emitter, group: FusionGroup, x: Value, zero_point: int) -> Blocked:
    """Call a kernel for a pool of images `x` with a zero point, and for its epilogue."""
    node, images = group.anchor, images_of(x.type)
    if node.operator == "GlobalAveragePool":
        rows, columns = two_axes(size or 0 for size in images.spatial)
        name, kind, window = "mean", MEAN, Window.whole_image((rows, columns))
    else:
        name, kind, window = "pool", MAXIMUM, window_of(node, node.attributes["kernel_shape"])
    if node.operator == "AveragePool":
        kind = PADDED_MEAN if node.attributes.get("count_include_pad", 0) else MEAN
    blocks = images.blocks(emitter.machine.lanes)
    sizes = Channelwise(images.batch, blocks, window, kind, images.dtype, zero_point)
    kernel = channelwise_kernel(sizes, emitter.machine, group.epilogue)
    return image_call(emitter, group.output, name, kernel, [in_blocks(emitter, x), *operands(emitter, group)])


def _element_anchor(node: Node) -> Anchor | None:
    """Return an anchor for an elementwise operator on images, where bytes or bfloat16 are read or written."""
    given = [value for value in step_operands(node) if value is not None]
    if node.output.type.rank != 4 or not is_image(node.output.type):
        return None
    reaches = {value: reach(value, node.output, 3) for value in given}
    if None in reaches.values() or any(value.dtype is not DType.float32 for value in given):
        return None
    is_read = any(source(value) is not value and reaches[value] is Broadcast.ELEMENTS for value in given)
    return Anchor(node, channels=3, fusable=ELEMENTS, is_step=True) if is_read or _is_narrowed(node.output) else None


def _elements(emitter: Emitter, group: FusionGroup) -> Blocked:
    sizes = known_sizes(blocked_type(emitter, group.output.type).shape)
    row = (images_of(group.output.type).blocks(emitter.machine.lanes) * emitter.machine.lanes,)
    shapes = tuple(row if operand.reach is Broadcast.CHANNELS else sizes for operand in group.epilogue.operands)
    kernel = pixels_kernel(sizes, shapes, group.epilogue, emitter.machine)
    return image_call(emitter, group.output, "elements", kernel, operands(emitter, group))


def join(emitter: Emitter, node: Node) -> Blocked | None:
    """Concatenate channels if any image lies in blocks and all but the last fill their blocks; else return None."""
    values = [value for value in node.inputs if value is not None]
    if node.attributes["axis"] % node.output.type.rank != 1 or not all(is_known(value, node) for value in values):
        return None
    images = tuple(images_of(value.type) for value in values)
    fills = all(each.channels % emitter.machine.lanes == 0 for each in images[:-1])
    if not fills or not any(value in emitter.blocked for value in values):
        return None
    kernel = join_kernel(images, emitter.machine)
    return image_call(emitter, node.output, "join", kernel, [in_blocks(emitter, value) for value in values])


def _is_narrowed(value: Value) -> bool:
    """Whether a value's only reader quantizes it or rounds it to bfloat16."""
    if value.use_count != 1:
        return False
    reader = value.uses[0].node
    return reader.operator == "QuantizeLinear" or reader.outputs[0].dtype is DType.bfloat16


_PLAIN: dict[str, Converter] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": imported,
    "MaxPool": max_pool,
}
"""What lowers pools of images that aren't held in blocks."""
CONVERTERS: dict[str, Converter] = dict.fromkeys(_PLAIN, pool)

FUSED_KERNELS = {
    **dict.fromkeys(ELEMENTS.keys() - {"Cast", "DequantizeLinear", "Table"}, FusedKernel(_element_anchor, _elements)),
    **dict.fromkeys(CONVERTERS, FusedKernel(_pool_anchor, _pool)),
}
