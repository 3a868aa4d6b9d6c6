"""Which layers can be computed in 8-bit integers, and why the others can't."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...ir.graph import Constant, Graph, Node, Value
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ...ir.types import DType
from ..base import PassContext

WeightKey = tuple[Constant, int]
"""A weight and the axis of its output channels."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A node with a constant float weight that an integer kernel can compute.

    Attributes:
        node: a Conv, Gemm or MatMul.
        x: the activation that it reads.
        weight: the other factor.
        axis: of the output channels in the weight.
    """

    node: Node
    x: Value
    weight: Constant
    axis: int

    @property
    def key(self) -> WeightKey:
        """What layers have in common that read the same weight in the same direction."""
        return self.weight, self.axis

    @property
    def matrix(self) -> np.ndarray:
        """The weight of a MatMul or Gemm as `[K, N]`."""
        return self.weight.data if self.axis == 1 else self.weight.data.T

    @property
    def bias(self) -> np.ndarray | None:
        """One number for each output channel, None where there is no bias."""
        bias = self.node.constant(2)
        return None if bias is None else np.broadcast_to(bias.reshape(-1), self.weight.data.shape[self.axis])


@dataclass(frozen=True, slots=True)
class Selection:
    """The layers to quantize, and a sentence for each one that stays in float."""

    layers: Sequence[Layer]
    misses: Sequence[str]


def select_layers(graph: Graph, operators: frozenset[str], context: PassContext, block: int = 1) -> Selection:
    """Sort a graph's layers by whether they can be quantized.

    Args:
        graph: of any kind.
        operators: that have a profitable integer kernel.
        context: which says whether a layer is asked for.
        block: weights of a column that are quantized together: whole blocks make up a column.
    """
    layers: list[Layer] = []
    misses: list[str] = []
    for node in graph.nodes:
        if not has_trait(node.operator, Trait.CONTRACTING) or not context.selects(node):
            continue
        reason = _obstacle(node, operators) or _remainder(node, block)
        if reason:
            misses.append(f"{node.location}: {node.operator} stays in float: {reason}")
        elif context.applies("quantize", node):
            layers.append(_layer(node))
    return Selection(layers, misses)


def _layer(node: Node) -> Layer:
    x, weight = node.inputs[:2]
    assert x is not None and isinstance(weight, Constant)  # _obstacle made sure
    by_row = node.operator == "Conv" or bool(node.attributes.get("transB", 0))
    return Layer(node, x, weight, 0 if by_row else 1)


def _obstacle(node: Node, operators: frozenset[str]) -> str:
    """Why a node can't be quantized; empty where it can."""
    if node.operator not in operators:
        return "its integer kernel is absent or slower than float on this target"
    x, weight = node.inputs[:2]
    assert x is not None and weight is not None
    if isinstance(x, Constant) or not isinstance(weight, Constant):
        quantized = weight.producer is not None and weight.producer.operator == "DequantizeLinear"
        return "it is quantized already" if quantized else "its factors are both activations, or its weight is computed"
    if x.dtype is not DType.float32:
        return f"it computes in {x.dtype}"
    if node.operator == "MatMul" and weight.data.ndim != 2:
        return f"its weight has {weight.data.ndim} dimensions"
    if node.operator == "Gemm":
        return _gemm_obstacle(node, weight)
    return "its bias is computed" if node.input(2) is not None and node.constant(2) is None else ""


def _remainder(node: Node, block: int) -> str:
    layer = _layer(node)
    depth = layer.weight.data.size // layer.weight.data.shape[layer.axis]
    return f"its depth, {depth}, is no multiple of a block of {block}" if depth % block else ""


def _gemm_obstacle(node: Node, weight: Constant) -> str:
    if node.attributes.get("transA", 0) or {node.attributes.get(key, 1.0) for key in ("alpha", "beta")} != {1.0}:
        return "it transposes its input or scales its terms"
    if node.input(2) is None:
        return ""
    bias = node.constant(2)
    if bias is None:
        return "its bias is computed"
    columns = weight.data.shape[0 if node.attributes.get("transB", 0) else 1]
    return "" if bias.shape[-1:] in ((), (1,), (columns,)) and bias.size in (1, columns) else "its bias differs by row"


def drop_unused(graph: Graph, constants: Iterable[Constant]) -> None:
    """Erase those of some constants that nobody reads any more."""
    for constant in dict.fromkeys(constants):
        if not constant.use_count and not graph.is_output(constant):
            graph.erase_constant(constant)
