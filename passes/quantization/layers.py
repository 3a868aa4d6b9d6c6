"""Which layers can compute in integers, or with integer weights, and why the others can't."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...ir.block_weight import BlockScheme
from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ...ir.types import DType
from ..base import PassContext
from ..legalization.expansions.integers import MATMUL_NBITS

WeightKey = tuple[Constant, int]
"""A weight and the axis of its output channels."""
NO_LAYER = "none of the layers that are selected multiplies by weights"


@dataclass(frozen=True, slots=True)
class Layer:
    """A node with a constant float weight that an integer kernel can compute.

    Attributes:
        node: a Conv, Gemm or MatMul.
        x: the activation that it reads.
        weight: the other factor, or the constant that it transposes, as in a head that shares the embedding table.
        axis: the axis of the output channels in the weight.
    """

    node: Node
    x: Value
    weight: Constant
    axis: int

    @property
    def key(self) -> WeightKey:
        """The weight and its axis, which are the same for layers that read a weight in the same direction."""
        return self.weight, self.axis

    @property
    def is_tied(self) -> bool:
        """Whether the weight's rows, one for each output channel, are looked up as well, as in an embedding table."""
        return self.axis == 0 and any(use.node.operator == "Gather" and not use.index for use in self.weight.uses)

    @property
    def shares_weight(self) -> bool:
        """Whether the weight has other readers or is read through a Transpose: a changed copy would come on top."""
        return self.is_turned or self.weight.use_count > 1

    @property
    def is_turned(self) -> bool:
        """Whether a MatMul reads the weight through a Transpose."""
        return self.node.operator == "MatMul" and self.axis == 0

    @property
    def matrix(self) -> np.ndarray:
        """The weight as `[K, N]`; that of a Conv has what a window holds, channel after channel, along K."""
        return self.weight.data if self.axis == 1 else self.weight.data.reshape(len(self.weight.data), -1).T

    def laid_out(self, matrix: np.ndarray) -> np.ndarray:
        """Return a weight `[K, N]` as the node reads it."""
        return matrix if self.axis == 1 or self.is_turned else matrix.T.reshape(self.weight.data.shape)

    @property
    def bias(self) -> np.ndarray | None:
        """One number for each output channel, None where there is no bias."""
        bias = self.node.constant(2)
        return None if bias is None else np.broadcast_to(bias.reshape(-1), self.weight.data.shape[self.axis])


@dataclass(frozen=True, slots=True)
class SelectedLayers:
    """The layers to quantize, and a sentence for each one that stays in float."""

    layers: Sequence[Layer]
    misses: Sequence[str]


def select_layers(
    graph: Graph, operators: frozenset[str], context: PassContext, rewrite: str = "quantize", stays: str = "in float"
) -> SelectedLayers:
    """Sort a graph's layers by whether they can be quantized.

    Args:
        graph: any graph.
        operators: the operators that have a profitable integer kernel.
        context: the context that says whether a layer may be rewritten.
        rewrite: the name that each layer's rewrite is counted under.
        stays: what the other layers stay, in the words of their messages.
    """
    layers: list[Layer] = []
    misses: list[str] = []
    for node in graph.nodes:
        if not has_trait(node.operator, Trait.CONTRACTING) or not context.selects(node) or _is_rounded(node):
            continue
        if reason := _obstacle(node, operators):
            misses.append(f"{node.location}: {node.operator} stays {stays}: {reason}")
        elif context.applies(rewrite, node):
            layers.append(_layer(node))
    misses += rounded_layers(graph, context)
    if not layers and not misses:
        misses.append(NO_LAYER)
    return SelectedLayers(layers, misses)


def rounded_layers(graph: Graph, context: PassContext) -> list[str]:
    """A sentence for each selected layer that computes in integers, as in a model that was quantized before."""
    found: list[str] = []
    for node in filter(context.selects, graph.nodes):
        if node.operator == MATMUL_NBITS or (has_trait(node.operator, Trait.CONTRACTING) and _is_rounded(node)):
            found.append(f"{node.location}: {node.operator} stays as it is: it is quantized already")
        elif has_trait(node.operator, Trait.WITHOUT_GRADIENT) and not has_trait(node.operator, Trait.QUANTIZING):
            found.append(f"{node.location}: {node.operator} stays as it is: it computes in integers already")
    return found


def _is_rounded(node: Node) -> bool:
    producer = _weight(node).producer
    return producer is not None and producer.operator == "DequantizeLinear"


def _layer(node: Node) -> Layer:
    weight = _weight(node)
    assert isinstance(weight, Constant)  # _obstacle made sure
    by_row = node.operator == "Conv" or weight is not node.inputs[1] or bool(node.attributes.get("transB", 0))
    return Layer(node, node.operand(0), weight, 0 if by_row else 1)


def _weight(node: Node) -> Value:
    """The right factor, or the matrix that a MatMul reads the Transpose of.

    Clean-up keeps the Transpose of a weight that has other readers, since folding it would hold the weight twice.
    """
    factor = node.operand(1)
    turn = factor.producer if node.operator == "MatMul" and factor.type.has_rank(2) else None
    return factor if turn is None or turn.operator != "Transpose" or not _swaps(turn) else turn.operand(0)


def _swaps(node: Node) -> bool:
    return tuple(node.attributes.get("perm", (1, 0))) == (1, 0)


def _obstacle(node: Node, operators: frozenset[str]) -> str:
    """Why a node can't be quantized; empty where it can."""
    if node.operator not in operators:
        return "its integer kernel is absent or slower than float on this target"
    x, weight = node.operand(0), _weight(node)
    if not x.type.is_ranked:
        return "the rank of what it multiplies isn't known"
    if isinstance(x, Constant) or not isinstance(weight, Constant):
        return "its factors are both activations, or its weight is computed"
    if x.dtype is not DType.float32:
        return f"it computes in {x.dtype}"
    if node.operator == "MatMul" and weight.data.ndim != 2:
        return f"its weight has {weight.data.ndim} dimensions"
    if node.operator == "Gemm":
        return _gemm_obstacle(node, weight)
    return "its bias is computed" if node.input(2) is not None and node.constant(2) is None else ""


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


def float_inputs(layers: Sequence[Layer]) -> list[Value]:
    """What layers read beside activations, to be dropped once they read something else."""
    turns = [layer.node.operand(1) for layer in layers if layer.is_turned]
    held = [value for layer in layers for value in (layer.weight, *layer.node.inputs[1:])]
    return [*turns, *(value for value in held if isinstance(value, Constant))]


def tied_bits(bits: int) -> int:
    """The bits of a weight whose rows are looked up as well: 8, or 7 where 8 would saturate or fewer are asked for."""
    return max(bits, 7)


def scheme_of(layer: Layer, scheme: BlockScheme) -> BlockScheme:
    """The scheme of a layer's weight where others get `scheme`: one of 8 bits if its rows are looked up as well."""
    return replace(scheme, bits=8) if layer.is_tied else scheme


def held_integers(op: Builder, integers: np.ndarray, bits: int, name: str) -> Value:
    """Emit a weight's integers, int8; those of 4 bits and less are held in half the bytes, and widened at load time."""
    if bits > 4:
        return op.constant(integers, name)
    return op.Cast(op.constant(integers.astype(DType.int4.numpy, order="C"), name), to=DType.int8)
