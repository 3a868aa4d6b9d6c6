"""Integer weights in training: floats that are rounded onto a grid while it goes on, and integers again after it."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Node
from ...ir.types import DType


@dataclass(frozen=True, slots=True)
class Rounding:
    """How an integer constant of a model is made from a float one that is trained.

    Attributes:
        constant: the name of the integer constant.
        quantize: the node that rounds the float one.
        limits: the least and the largest integer that may come out.
    """

    constant: str
    quantize: Node
    limits: tuple[int, int]

    def integers(self) -> np.ndarray:
        """The integer constant, as the float one now has it."""
        from ...ir.interpreter import evaluate_constant  # brings torch, which listing the passes must not

        rounded = evaluate_constant(self.quantize)[0]
        return np.clip(rounded, *self.limits).astype(rounded.dtype)


def make_trainable(graph: Graph, frozen: AbstractSet[str] = frozenset()) -> list[Rounding]:
    """Give each integer constant that is dequantized a float one, from which it is rounded.

    Args:
        graph: that is to be trained.
        frozen: names of constants that stay.
    """
    nodes = [node for node in graph.nodes if node.operator == "DequantizeLinear" and _is_fixed(node)]
    return [_thaw(graph, node) for node in nodes if node.operand(0).name not in frozen]


def _is_fixed(node: Node) -> bool:
    constants = [value for value in node.inputs if isinstance(value, Constant)]
    return len(constants) == len(node.inputs) and constants[0].dtype in (DType.int8, DType.uint8, DType.int32)


def _thaw(graph: Graph, node: Node) -> Rounding:
    from ...ir.interpreter import evaluate_constant

    integers = node.inputs[0]
    assert isinstance(integers, Constant)
    op = Builder(graph, before=node, location=node.location)
    grid = {name: node.attributes[name] for name in ("axis", "block_size") if name in node.attributes}
    floats = op.constant(evaluate_constant(node)[0], f"{integers.name}_float")
    rounded = op.QuantizeLinear(floats, *node.inputs[1:], output_dtype=integers.dtype, **grid)
    limits = _limits(integers)
    graph.set_input(node, 0, op.Clip(rounded, *limits))
    return Rounding(integers.name, rounded.producer, limits)


def _limits(integers: Constant) -> tuple[int, int]:
    """The limits of an integer: 32 bits for a bias, a weight's present extremes, since a target may ask for 7 bits."""
    if integers.dtype is DType.int32:
        bounds = np.iinfo(np.int32)
        return bounds.min, bounds.max
    return int(integers.data.min()), int(integers.data.max())
