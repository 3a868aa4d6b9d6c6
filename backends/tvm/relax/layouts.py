"""Images in blocks of channels as wide as a vector register (NCHWc): `[batch, block, row, column, lane]`.

A value is held plain, in blocks, or both: it is converted when another form is first asked for, and only once.
Convolutions give blocks, and operators on each channel alone continue with them, so that a network has no conversions
between its first convolution and its last pool. Lanes beyond the last channel hold anything, and nobody reads them.
"""

from collections.abc import Sequence
from functools import partial
from itertools import count

import numpy as np
from tvm import relax

from ....ir.dims import Dim
from ....ir.graph import Constant, Graph, Node, Value
from ....ir.operators import has_trait
from ....ir.traits import Trait
from ....ir.types import DType, TensorType
from ..kernels.epilogue import Broadcast, Epilogue, Operand, PostOp, pixels_kernel
from ..kernels.nchwc import Images, block_kernel, two_axes, unblock_kernel
from ..kernels.vectors import ceil_div
from .emitter import Emitter, known_size, known_sizes
from .fusion import QUANTIZING, step_attributes, step_operands


def hold_blocked(emitter: Emitter, value: Value, tensor: relax.Expr) -> None:
    """Hold a value in blocks; it is converted where it is asked for in its plain form."""
    emitter.blocked[value] = tensor
    emitter.defer(value, partial(_plain, emitter, value))


def _plain(emitter: Emitter, value: Value) -> relax.Expr:
    """Convert a value from blocks to its plain form.

    With one pixel and full blocks, both forms have the same order in memory, so that a reshape will do.
    """
    images, tensor = images_of(value.type), emitter.blocked[value]
    if set(images.spatial) == {1} and images.channels % emitter.machine.lanes == 0:
        return emitter.reshaped(tensor, emitter.shape(value.shape))
    kernel = unblock_kernel(images, emitter.machine)
    return emitter.prim_func("unblock", kernel, [tensor], value.type)


def in_blocks(emitter: Emitter, value: Value) -> relax.Expr:
    """Convert a value to blocks of as many channels as a vector register has lanes."""
    if value not in emitter.blocked:
        emitter.blocked[value] = _converted(emitter, value, value.shape)
    return emitter.blocked[value]


def row_in_blocks(emitter: Emitter, value: Value) -> relax.Expr:
    """Return a value with a number for each channel, and no other axes, as a row of whole blocks."""
    (channels,) = [size for size in value.shape if size != 1] or [1]
    assert isinstance(channels, int)
    dims = (1, channels, 1, 1)
    if isinstance(value, Constant):
        return relax.const(blocked(value.data.reshape(dims), emitter.machine.lanes).reshape(-1))
    held = in_blocks(emitter, value) if value.shape == dims else _converted(emitter, value, dims)
    blocks = images_of(TensorType(value.dtype, dims)).blocks(emitter.machine.lanes)
    return emitter.block.emit(emitter.reshaped(held, emitter.shape((blocks * emitter.machine.lanes,))))


def blocked_type(emitter: Emitter, plain: TensorType, lanes: int = 0) -> TensorType:
    """Return the type that images have in blocks."""
    lanes = lanes or emitter.machine.lanes
    batch, _, *spatial = plain.shape
    return TensorType(plain.dtype, (batch, images_of(plain).blocks(lanes), *two_axes(spatial), lanes))


def twin_of(emitter: Emitter, node: Node) -> Node | None:
    """Return the node rewritten for blocks, if it is elementwise and reads blocks."""
    is_elementwise = node.operator in QUANTIZING or _gives_floats(node)
    is_elementwise &= is_image(node.outputs[0].type)
    if not (is_elementwise or _is_rounding(node)) or not any(value in emitter.blocked for value in node.inputs):
        return None
    graph = Graph(node.operator)
    inputs: list[Value | None] = []
    for value in step_operands(node):
        operand = None if value is None else _operand(emitter, value, node.output)
        if (value is None) != (operand is None):
            return None
        inputs.append(None if operand is None else _input(emitter, graph, *operand))
    type = blocked_type(emitter, node.output.type)
    return graph.add_node(node.operator, inputs, [type], dict(step_attributes(node)), location=node.location)


def blocked_elementwise(emitter: Emitter, twin: Node) -> relax.Expr:
    """Call a kernel for a twin, if it has one of the operators that kernels know."""
    given = [value for value in twin.inputs if value is not None]
    numbers = count(1)
    inputs = tuple(None if value is None else next(numbers) for value in twin.inputs)
    step = PostOp(twin.operator, () if _is_rounding(twin) else tuple(sorted(twin.attributes.items())), inputs)
    operands = tuple(Operand(Broadcast.ELEMENTS, str(value.dtype)) for value in given)
    epilogue = Epilogue(operands, (step,), str(twin.output.dtype))
    tensors, shapes = [emitter.tensor(value) for value in given], tuple(known_sizes(value.shape) for value in given)
    kernel = pixels_kernel(known_sizes(twin.output.shape), shapes, epilogue, emitter.machine)
    return emitter.prim_func(twin.operator.lower(), kernel, tensors, twin.output.type)


def _operand(emitter: Emitter, value: Value, output: Value) -> tuple[relax.Expr, TensorType] | None:
    """Return an operand in blocks or, if all channels share it, with one lane; None if neither is possible."""
    dims = (1,) * (output.type.rank - value.type.rank) + value.shape
    type = TensorType(value.dtype, dims)
    if not is_image(type) or any(size not in (1, of) for size, of in zip(dims[2:], output.shape[2:], strict=True)):
        return None
    if not value.type.rank:
        return emitter.tensor(value), value.type
    if dims[1] != 1 or output.shape[1] == 1:
        held = in_blocks(emitter, value) if dims == value.shape else _converted(emitter, value, dims)
        return held, blocked_type(emitter, type)
    type = TensorType(value.dtype, (*blocked_type(emitter, type).shape[:-1], 1))
    return emitter.shaped(value, type.shape), type


def _input(emitter: Emitter, graph: Graph, tensor: relax.Expr, type: TensorType) -> Value:
    value = graph.add_input(f"x{len(graph.inputs)}", type)
    emitter.bind(value, tensor)
    return value


def _converted(emitter: Emitter, value: Value, dims: Sequence[Dim]) -> relax.Expr:
    """Convert a value to blocks, in a shape that has axes of one element in front of its own."""
    type = TensorType(value.dtype, tuple(dims))
    if isinstance(value, Constant):
        return relax.const(blocked(value.data.reshape(type.static_shape), emitter.machine.lanes))
    kernel = block_kernel(images_of(type), emitter.machine)
    return emitter.block.emit(
        emitter.prim_func("block", kernel, [emitter.shaped(value, dims)], blocked_type(emitter, type))
    )


def is_image(type: TensorType) -> bool:
    """Whether tensors of a type are images that have a form in blocks."""
    is_held = type.dtype in (DType.float32, DType.bfloat16, DType.uint8, DType.int8)
    return is_held and type.rank in (3, 4) and isinstance(type.shape[1], int)


def images_of(type: TensorType) -> Images:
    """Return the sizes of images, for a type that `is_image` accepts."""
    batch, channels, *spatial = type.shape
    assert isinstance(channels, int)
    return Images(known_size(batch), channels, known_sizes(spatial), str(type.dtype))


def _gives_floats(node: Node) -> bool:
    """Whether a node computes float32, element by element."""
    is_elementwise = node.operator != "Cast" and has_trait(node.operator, Trait.ELEMENTWISE)
    return is_elementwise and node.outputs[0].dtype is DType.float32


def _is_rounding(node: Node) -> bool:
    """Whether a node rounds images in float32 to bfloat16, or widens them back."""
    types = {value.dtype for value in (*node.inputs, *node.outputs) if value is not None}
    return node.operator == "Cast" and types == {DType.float32, DType.bfloat16} and is_image(node.output.type)


def blocked(array: np.ndarray, lanes: int) -> np.ndarray:
    """Arrange an array `[batch, channel, *spatial]` in blocks, with zeros beyond the last channel."""
    batch, channels, *spatial = array.shape
    (rows, columns), blocks = two_axes(spatial), ceil_div(channels, lanes)
    padded = np.zeros((batch, blocks * lanes, rows * columns), array.dtype)
    padded[:, :channels] = array.reshape(batch, channels, -1)
    return np.ascontiguousarray(padded.reshape(batch, blocks, lanes, rows, columns).transpose(0, 1, 3, 4, 2))
