# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none
"""Images in blocks of channels as wide as a vector register (NCHWc): `[batch, block, row, column, lane]`.

A value is held plain, in blocks, or both: it is converted when another form is first asked for, and only once.
Convolutions give blocks, and operators on each channel alone continue with them, so that a network has no conversions
between its first convolution and its last pool. Lanes beyond the last channel hold anything, and nobody reads them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import relax

from ...ir.dims import Dim
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.traits import Trait, has_trait
from ...ir.types import DType, TensorType
from .groups import QUANTIZING, step_attributes, step_operands
from .kernels.blocks import Images, block_kernel, unblock_kernel
from .kernels.pixelwise import Form, Pixelwise, pixelwise_kernel

if TYPE_CHECKING:
    from .lowering import Lowering


@dataclass(frozen=True, slots=True)
class Blocked:
    """The result of a converter in blocks."""

    tensor: Any


class Layouts:
    """The values that are held in blocks."""

    def __init__(self, lowering: "Lowering") -> None:
        self._lowering = lowering
        self._held: dict[Value, Any] = {}

    def __contains__(self, value: Value | None) -> bool:
        return value in self._held

    def hold(self, value: Value, tensor: Any) -> None:
        self._held[value] = tensor

    def held(self, value: Value) -> Any:
        """Return a value's blocks; None where it is only held plain."""
        return self._held.get(value)

    def plain(self, value: Value) -> Any:
        """Convert a value from blocks to its plain form.

        With one pixel and full blocks, both forms have the same order in memory, so that a reshape will do.
        """
        images, lowering = images_of(value.type), self._lowering
        if prod(images.spatial) == 1 and images.channels % lowering.machine.lanes == 0:
            return relax.op.reshape(self._held[value], lowering.shape(value.shape))
        kernel = unblock_kernel(images, lowering.machine.lanes)
        return lowering.prim_func("unblock", kernel, [self._held[value]], value.type)

    def blocked(self, value: Value, lanes: int = 0) -> Any:
        """Convert a value to blocks of as many channels as a vector register has lanes, or of another number."""
        if lanes not in (0, self._lowering.machine.lanes):
            return self._converted(value, value.shape, lanes)
        if value not in self._held:
            self._held[value] = self._converted(value, value.shape)
        return self._held[value]

    def row(self, value: Value) -> Any:
        """Return a value with a number for each channel, and no other axes, as a row of whole blocks."""
        (channels,) = [size for size in value.shape if size != 1] or [1]
        assert isinstance(channels, int)
        dims = (1, channels, 1, 1)
        if isinstance(value, Constant):
            return relax.const(blocked(value.data.reshape(dims), self._lowering.machine.lanes).reshape(-1))
        held = self.blocked(value) if value.shape == dims else self._converted(value, dims)
        return self._lowering.block.emit(relax.op.reshape(held, (-1,)))

    def type(self, plain: TensorType, lanes: int = 0) -> TensorType:
        """Return the type that images have in blocks."""
        blocks = images_of(plain).blocks(lanes or self._lowering.machine.lanes)
        return TensorType(plain.dtype, (plain.shape[0], *blocks))

    def twin(self, node: Node) -> Node | None:
        """Return the node rewritten for blocks, if it is elementwise and reads blocks."""
        is_elementwise = node.operator in QUANTIZING or _gives_floats(node)
        is_elementwise &= is_image(node.outputs[0].type)
        if not (is_elementwise or _is_rounding(node)) or not any(value in self._held for value in node.inputs):
            return None
        graph = Graph(node.operator)
        inputs: list[Value | None] = []
        for value in step_operands(node):
            operand = None if value is None else self._operand(value, node.output)
            if (value is None) != (operand is None):
                return None
            inputs.append(None if operand is None else self._input(graph, *operand))
        type = self.type(node.output.type)
        return graph.add_node(node.operator, inputs, [type], dict(step_attributes(node)), location=node.location)

    def pixelwise(self, twin: Node) -> Any:
        """Call a kernel for a twin, if it has one of the operators that kernels know."""
        given = [value for value in twin.inputs if value is not None]
        sizes = Pixelwise(
            twin.operator,
            () if _is_rounding(twin) else tuple(sorted(twin.attributes.items())),
            tuple(None if value is None else _form(value.type) for value in twin.inputs),
            _form(twin.output.type),
        )
        tensors = [self._lowering.tensor(value) for value in given]
        name = twin.operator.lower()
        return self._lowering.prim_func(
            name, pixelwise_kernel(sizes, self._lowering.machine), tensors, twin.output.type
        )

    def _operand(self, value: Value, output: Value) -> tuple[Any, TensorType] | None:
        """Return an operand in blocks or, if all channels share it, with one lane; None if neither is possible."""
        dims = (1,) * (output.type.rank - value.type.rank) + value.shape
        type = TensorType(value.dtype, dims)
        if not is_image(type):
            return None
        if not value.type.rank:
            return self._lowering.tensor(value), value.type
        if dims[1] != 1 or output.shape[1] == 1:
            return (self.blocked(value) if dims == value.shape else self._converted(value, dims)), self.type(type)
        type = TensorType(value.dtype, (*self.type(type).shape[:-1], 1))
        tensor = relax.op.reshape(self._lowering.tensor(value), self._lowering.shape(type.shape))
        return self._lowering.block.emit(tensor), type

    def _input(self, graph: Graph, tensor: Any, type: TensorType) -> Value:
        value = graph.add_input(f"x{len(graph.inputs)}", type)
        self._lowering.hold(value, tensor)
        return value

    def _converted(self, value: Value, dims: Sequence[Dim], lanes: int = 0) -> Any:
        """Convert a value to blocks, in a shape that has axes of one element in front of its own."""
        lowering, type = self._lowering, TensorType(value.dtype, tuple(dims))
        lanes = lanes or lowering.machine.lanes
        if isinstance(value, Constant):
            return relax.const(blocked(value.data.reshape(type.static_shape), lanes))
        tensor = relax.op.reshape(lowering.tensor(value), lowering.shape(dims))
        kernel = block_kernel(images_of(type), lanes)
        return lowering.block.emit(lowering.prim_func("block", kernel, [tensor], self.type(type, lanes)))


def is_image(type: TensorType) -> bool:
    """Whether tensors of a type are images that have a form in blocks."""
    is_held = type.dtype in (DType.float32, DType.bfloat16, DType.uint8, DType.int8)
    return is_held and type.rank in (3, 4) and all(isinstance(dim, int) for dim in type.shape[1:])


def images_of(type: TensorType) -> Images:
    """Return the sizes of images, for a type that `is_image` accepts."""
    batch, *sizes = type.shape
    channels, *spatial = (size for size in sizes if isinstance(size, int))
    return Images(batch if isinstance(batch, int) else None, channels, tuple(spatial), str(type.dtype))


def _gives_floats(node: Node) -> bool:
    """Whether a node computes float32, element by element."""
    is_elementwise = node.operator != "Cast" and has_trait(node.operator, Trait.ELEMENTWISE)
    return is_elementwise and node.outputs[0].dtype is DType.float32


def _is_rounding(node: Node) -> bool:
    """Whether a node rounds images in float32 to bfloat16, or widens them back."""
    types = {value.dtype for value in (*node.inputs, *node.outputs) if value is not None}
    return node.operator == "Cast" and types == {DType.float32, DType.bfloat16} and is_image(node.output.type)


def _form(type: TensorType) -> Form:
    return str(type.dtype), tuple(dim if isinstance(dim, int) else None for dim in type.shape)


def blocked(array: np.ndarray, lanes: int) -> np.ndarray:
    """Arrange an array `[batch, channel, *spatial]` in blocks, with zeros beyond the last channel."""
    batch, channels, *_ = array.shape
    blocks, rows, columns, _ = Images(batch, channels, array.shape[2:]).blocks(lanes)
    padded = np.zeros((batch, blocks * lanes, rows * columns), array.dtype)
    padded[:, :channels] = array.reshape(batch, channels, -1)
    return np.ascontiguousarray(padded.reshape(batch, blocks, lanes, rows, columns).transpose(0, 1, 3, 4, 2))
