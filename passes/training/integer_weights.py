"""Integer weights in training: floats that are rounded onto a grid while it goes on, and integers again after it."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.types import DType

_INTEGERS = (DType.int4, DType.uint4, DType.int8, DType.uint8, DType.int32)


@dataclass(frozen=True, slots=True)
class Rounding:
    """How an integer constant of a model is made from a float one that is trained.

    Attributes:
        constant: the integer constant.
        floats: the float constant.
        quantize: the node that rounds the float constant.
        limits: the least and the largest integer that may come out.
    """

    constant: Constant
    floats: Constant
    quantize: Node
    limits: tuple[int, int]

    def integers(self) -> np.ndarray:
        """The integers that the float constant is rounded to now."""
        from ...ir.interpreter import evaluate_constant  # brings torch, which listing the passes must not

        rounded = evaluate_constant(self.quantize)[0]
        return np.clip(rounded, *self.limits).astype(self.constant.data.dtype)


def make_trainable(graph: Graph, frozen: AbstractSet[str] = frozenset()) -> list[Rounding]:
    """Give each integer constant that is dequantized a float one, from which it is rounded.

    Args:
        graph: the graph to train.
        frozen: names of constants that stay.
    """
    found = [(node, integers_of(node)) for node in graph.nodes]
    return [_thaw(graph, node, held) for node, held in found if held is not None and held.name not in frozen]


def integers_of(node: Node) -> Constant | None:
    """The constant integers that a node dequantizes, as they are or cast from a narrower type."""
    if node.operator != "DequantizeLinear":
        return None
    held: Value | None = node.operand(0)
    if held.producer is not None and held.producer.operator == "Cast":
        held = held.producer.operand(0)
    return held if isinstance(held, Constant) and held.dtype in _INTEGERS else None


def _thaw(graph: Graph, node: Node, integers: Constant) -> Rounding:
    from ...ir.interpreter import evaluate_constant

    op = Builder(graph, before=node, location=node.location)
    grid = {name: node.attributes[name] for name in ("axis", "block_size") if name in node.attributes}
    dtype, cast = node.operand(0).dtype, node.operand(0).producer
    if cast is not None:
        graph.set_input(node, 0, op.constant(evaluate_constant(cast)[0], f"{integers.name}_whole"))
    floats = op.constant(evaluate_constant(node)[0], f"{integers.name}_float")
    rounded = op.QuantizeLinear(floats, *node.inputs[1:], output_dtype=dtype, **grid)
    limits = _limits(integers)
    graph.set_input(node, 0, op.Clip(rounded, *limits))
    assert isinstance(floats, Constant)
    return Rounding(integers, floats, rounded.producer, limits)


def _limits(integers: Constant) -> tuple[int, int]:
    """The limits of an integer: 32 bits for a bias, a weight's present extremes, since a target may ask for 7 bits."""
    if integers.dtype is DType.int32:
        bounds = np.iinfo(np.int32)
        return bounds.min, bounds.max
    return int(integers.data.min()), int(integers.data.max())
