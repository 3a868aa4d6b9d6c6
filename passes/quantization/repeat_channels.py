"""Outlier channel splitting: a channel is computed several times over, so that each carries a share of its weights.

Channels behind the activation function of a feed-forward block can't be scaled by the weights before it. But these can
repeat channels, at the price of a few columns there and rows behind (Zhao et al., "Improving Neural Network
Quantization without Retraining using Outlier Channel Splitting", ICML 2019).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...ir.graph import Constant, Graph, Value
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ...ir.types import TensorType
from .channel_sources import Place, is_returned, product_places, replace_constant
from .layers import Layer


@dataclass(frozen=True, slots=True)
class ChannelPath:
    """What computes an activation from a product on, channel by channel.

    Attributes:
        values: the values from the activation back to the product's result.
        places: the constants with a number, or a column, for each channel.
    """

    values: tuple[Value, ...]
    places: tuple[Place, ...]

    def repeat(self, graph: Graph, channels: np.ndarray) -> None:
        """Compute some of the channels, by their numbers, in place of all of them."""
        for place in self.places:
            constant = place.node.inputs[place.index]
            assert isinstance(constant, Constant)
            replace_constant(graph, place.node, place.index, np.take(constant.data, channels, place.axis))
        for value in reversed(self.values):
            value.type = TensorType(value.dtype, (*value.shape[:-1], len(channels)))


def channel_path(readers: Sequence[Layer]) -> ChannelPath | None:
    """Return how the channels that some layers read are computed; None if others read them or the way is unknown.

    Args:
        readers: the layers that read one value.
    """
    x, nodes = readers[0].x, {layer.node for layer in readers}
    values: list[Value] = []
    places: list[Place] = []
    while True:
        node = x.producer
        size = x.shape[-1] if x.type.is_ranked and x.type.rank else None
        if node is None or {use.node for use in x.uses} != nodes or is_returned(x) or not isinstance(size, int):
            return None
        values.append(x)
        nodes = {node}
        if node.operator in ("MatMul", "Gemm"):
            product = product_places(node, size)
            return ChannelPath(tuple(values), (*places, *product)) if product else None
        if node.operator == "Add":
            index = next((index for index in (0, 1) if isinstance(node.inputs[index], Constant)), None)
            bias = None if index is None else node.operand(index)
            if index is None or bias is None or bias.shape[-1:] != (size,):
                return None
            places.append(Place(node, index, bias.type.rank - 1))
            x = node.operand(1 - index)
        elif has_trait(node.operator, Trait.ELEMENTWISE) and len(node.inputs) == 1:
            x = node.operand(0)
        else:
            return None
