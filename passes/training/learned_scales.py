"""Scales in training: each is multiplied by a factor that is trained, and those of biases stay products of others."""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.types import DType

_LEAST = 0.1
"""The least factor: a scale stays above zero."""


@dataclass(frozen=True, slots=True)
class TrainedScale:
    """A scale that is computed while training goes on.

    Attributes:
        scale: the scale as a constant of the model.
        operands: the factors of the scale: itself and a number that is trained, or the two scales that a bias follows.
        product: the value that is computed with in place of the scale.
        least: the least value of the second operand; 0 for the scale of a bias.
    """

    scale: Constant
    operands: tuple[Constant, Constant]
    product: Value
    least: float

    def settle(self, graph: Graph) -> None:
        """Make the scale what the product is now, and put it in the product's place."""
        one, other = (operand.data for operand in self.operands)
        self.scale.data = np.asarray(one * np.maximum(other, np.float32(self.least)), self.scale.data.dtype)
        graph.replace_uses(self.product, self.scale)


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """Which scales are trained.

    Attributes:
        free: the scales that are trained; whatever is quantized with one of these is dequantized with it.
        biases: the scales of biases, each with the two scales whose product it stays.
    """

    free: Sequence[Constant] = ()
    biases: Mapping[Constant, tuple[Constant, Constant]] = field(
        default_factory=dict[Constant, tuple[Constant, Constant]]
    )


def plan_scales(graph: Graph, frozen: AbstractSet[str]) -> ScalePlan:
    """Choose the scales that are trained.

    Args:
        graph: the graph, its integer weights as they are.
        frozen: names of constants that stay.
    """
    biases: dict[Constant, tuple[Constant, Constant]] = {}
    bound: set[Constant] = set()
    for x, weight, bias in _scales_of_layers(graph):
        product = x.data * weight.data
        if product.shape == bias.data.shape and np.allclose(product, bias.data, rtol=1e-5, atol=0):
            biases[bias] = (x, weight)
        else:
            bound |= {x, weight, bias}
    free = [
        constant
        for constant in graph.constants.values()
        if constant.dtype is DType.float32
        and constant.name not in frozen
        and constant not in biases.keys() | bound
        and constant.uses
        and all(use.index == 1 and _is_there_and_back(use.node, constant) for use in constant.uses)
    ]
    return ScalePlan(free, biases)


def _is_there_and_back(node: Node, scale: Constant) -> bool:
    if node.operator == "QuantizeLinear":
        uses = node.output.uses
        return bool(uses) and all(_scale(use.node) is scale and use.index == 0 for use in uses)
    return node.operator == "DequantizeLinear" and node.operand(0).dtype is not DType.int32


def _scales_of_layers(graph: Graph) -> Iterator[tuple[Constant, Constant, Constant]]:
    """The scales of input, weight and bias of layers that have all three."""
    for node in graph.nodes:
        producers = [value.producer if value is not None else None for value in node.inputs[:3]]
        x, weight, bias = (_scale(producer) for producer in (*producers, *[None] * (3 - len(producers))))
        if x is not None and weight is not None and bias is not None and node.operator in ("Conv", "Gemm"):
            yield x, weight, bias


def _scale(node: Node | None) -> Constant | None:
    """The constant scale by which a node dequantizes, if it does so."""
    scale = node.inputs[1] if node is not None and node.operator == "DequantizeLinear" else None
    return scale if isinstance(scale, Constant) else None


def learn_scales(graph: Graph, plan: ScalePlan) -> list[TrainedScale]:
    """Multiply scales by factors of ones to train, and let the scales of biases follow.

    Rounding passes gradients straight through, so that the gradient of a scale is that of Esser et al., "Learned Step
    Size Quantization", ICLR 2020.
    """
    op = Builder(graph, before=next(iter(graph.nodes)))
    trained: list[TrainedScale] = []
    products: dict[Constant, Value] = {}
    for scale in plan.free:
        uses = scale.uses
        factor = op.constant(np.ones_like(scale.data), f"{scale.name}_factor")
        assert isinstance(factor, Constant)
        products[scale] = op.Mul(scale, op.Max(factor, np.array(_LEAST, np.float32)))
        trained.append(TrainedScale(scale, (scale, factor), products[scale], _LEAST))
        for use in uses:
            graph.set_input(use.node, use.index, products[scale])
    for bias, pair in plan.biases.items():
        uses = bias.uses
        product = op.Mul(*(products.get(scale, scale) for scale in pair))
        trained.append(TrainedScale(bias, pair, product, 0.0))
        for use in uses:
            graph.set_input(use.node, use.index, product)
    return trained
