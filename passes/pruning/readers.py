"""Layers that contract the channels of an activation with a constant weight."""

from dataclasses import dataclass

import numpy as np

from ...ir.graph import Constant, Node, Value


@dataclass(frozen=True, slots=True)
class Reader:
    """A layer and the axes of its channels.

    Attributes:
        node: Conv, ConvTranspose, Gemm or MatMul, with the weight as second input.
        axis: the axis of the first input's channels, counted from the front.
        output_axis: the axis of the output's channels, counted from the front.
    """

    node: Node
    axis: int
    output_axis: int

    @property
    def x(self) -> Value:
        """The value that the layer reads."""
        return self.node.operand(0)

    @property
    def weight(self) -> Constant:
        """The constant that the layer multiplies by."""
        weight = self.node.inputs[1]
        assert isinstance(weight, Constant)
        return weight

    def rows(self) -> np.ndarray:
        """The weight by channels: `[inputs, outputs, elements of the kernel]`."""
        data = self.weight.data.astype(np.float64) * self.node.attributes.get("alpha", 1.0)
        if self.node.operator == "ConvTranspose":
            return data.reshape(*data.shape[:2], -1)
        if self.node.operator != "Conv":
            return (data.T if self.node.attributes.get("transB") else data)[:, :, None]
        filters = data.reshape(*data.shape[:2], -1)
        groups = int(self.node.attributes.get("group", 1))
        rows = np.zeros((groups * filters.shape[1], *filters.shape[::2]))
        for group, part in enumerate(np.split(filters, groups)):
            inputs = slice(group * part.shape[1], (group + 1) * part.shape[1])
            rows[inputs, group * len(part) : (group + 1) * len(part)] = part.transpose(1, 0, 2)
        return rows


def reader(node: Node) -> Reader | None:
    """The layer that a node is; None for other nodes, and for layers that transpose what they read."""
    weight, x = node.constant(1), node.input(0)
    if weight is None or x is None or isinstance(x, Constant) or len(node.outputs) != 1:
        return None
    if not x.type.is_ranked or not node.output.type.is_ranked:
        return None
    if node.operator == "Conv" or (node.operator == "ConvTranspose" and node.attributes.get("group", 1) == 1):
        return Reader(node, 1, 1)
    if node.operator == "Gemm" and not node.attributes.get("transA"):
        return Reader(node, 1, 1)
    if node.operator == "MatMul" and weight.ndim == 2 and x.type.rank > 1:
        return Reader(node, x.type.rank - 1, node.output.type.rank - 1)
    return None
