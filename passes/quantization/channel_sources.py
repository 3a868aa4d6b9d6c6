"""Where channels of activations come from, so that scaling them there and in the layers that read them cancels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...ir.graph import Constant, Graph, Node, Value
from ...ir.unused import drop_unused
from .layers import Layer


@dataclass(frozen=True, slots=True)
class Place:
    """A constant that channels are proportional to, with the axis that they lie along."""

    node: Node
    index: int
    axis: int


@dataclass(frozen=True, slots=True)
class ChannelSource:
    """What channels of an activation are proportional to.

    Attributes:
        places: the constants to divide, so that the channels are divided.
        channels: int, `[K]`: for each channel of the activation, the channel of the places that it comes from.
    """

    places: tuple[Place, ...]
    channels: np.ndarray

    @property
    def size(self) -> int:
        """The number of channels in the places."""
        return int(self.channels.max()) + 1

    def mean(self, numbers: np.ndarray) -> np.ndarray:
        """The means of numbers `[K]` over the activation's channels that come from the same channel of the places."""
        return np.bincount(self.channels, numbers) / np.bincount(self.channels)


def channel_source(layers: Sequence[Layer]) -> ChannelSource | str:
    """Return where the channels that some layers read come from, or why they can't be scaled there.

    Args:
        layers: the layers that read one value.
    """
    x, readers = layers[0].x, {layer.node for layer in layers}
    if x.producer is not None and ({use.node for use in x.uses} != readers or is_returned(x)):
        return "others read the same values"
    return _source(x)


def divide(graph: Graph, source: ChannelSource, scales: np.ndarray) -> None:
    """Divide the channels of a source, in place."""
    for place in source.places:
        old = place.node.inputs[place.index]
        assert isinstance(old, Constant)
        shape = [1] * old.type.rank
        shape[place.axis] = -1
        replace_constant(graph, place.node, place.index, old.data / scales.reshape(shape))


def product_places(node: Node, size: int) -> tuple[Place, ...]:
    """Return the constants of a MatMul or Gemm that its outputs' channels lie along; none if its weight is computed."""
    found = _matmul(node, size) if node.operator == "MatMul" else _gemm(node, size)
    return () if isinstance(found, str) else found.places


def replace_constant(graph: Graph, node: Node, index: int, data: np.ndarray) -> None:
    """Give a node a constant of its own in place of one that others may read too."""
    old = node.inputs[index]
    assert isinstance(old, Constant)
    graph.set_input(node, index, graph.add_constant(data.astype(old.data.dtype), old.name))
    drop_unused(graph, [old])


def _source(x: Value) -> ChannelSource | str:
    """The source of a value whose readers can all take scaled channels, or why it has none."""
    node = x.producer
    known = _KNOWN.get(node.operator) if node is not None else None
    size = x.shape[-1] if x.type.is_ranked and x.type.rank else None
    if node is None or known is None or x is not node.outputs[0] or not isinstance(size, int):
        return f"they come from {'outside the graph' if node is None else node.operator}"
    return known(node, size)


def _before(node: Node, index: int) -> ChannelSource | str:
    """The source of a node's operand that nobody else reads."""
    x = node.inputs[index]
    if x is None or x.use_count != 1 or is_returned(x):
        return "others read what they come from"
    return _source(x)


def is_returned(x: Value) -> bool:
    """Whether the graph that computes a value returns it."""
    return x.producer is not None and x.producer.owner.is_output(x)


def _constants(node: Node, size: int, indices: Sequence[int], axis: int = 0) -> ChannelSource | str:
    """A source in some inputs of a node, as far as they are present: constants with the channels along an axis."""
    places: list[Place] = []
    for index in indices:
        value = node.input(index)
        if value is None:
            continue
        rank = value.type.rank
        if not isinstance(value, Constant) or not value.dtype.is_float or rank < 1 or value.shape[axis] != size:
            layer = f"{node.operator} in {node.location}"
            return f"{layer} has a weight or bias that isn't a float constant along the channels"
        places.append(Place(node, index, axis % rank))
    return ChannelSource(tuple(places), np.arange(size))


def _norm(node: Node, size: int) -> ChannelSource | str:
    if node.attributes.get("axis", -1) not in (-1, node.outputs[0].type.rank - 1):
        return f"they come from {node.operator}, which normalizes over more than the last axis"
    return _constants(node, size, (1, 2), -1)


def _matmul(node: Node, size: int) -> ChannelSource | str:
    if isinstance(node.inputs[0], Constant) or node.operand(1).type.rank != 2:
        return "they come from a product of activations"
    return _constants(node, size, (1,), 1)


def _gemm(node: Node, size: int) -> ChannelSource | str:
    weight = _constants(node, size, (1,), 0 if node.attributes.get("transB", 0) else 1)
    bias = _constants(node, size, (2,), -1)
    if isinstance(weight, str) or isinstance(bias, str):
        return weight if isinstance(weight, str) else bias
    return ChannelSource((*weight.places, *bias.places), weight.channels)


def _sum(node: Node, size: int) -> ChannelSource | str:
    """The source before an added bias, with the bias itself."""
    for index in (0, 1):
        if isinstance(node.inputs[1 - index], Constant):
            found, bias = _before(node, index), _constants(node, size, (1 - index,), -1)
            if isinstance(found, str) or isinstance(bias, str):
                return found if isinstance(found, str) else bias
            if bias.places and not np.array_equal(found.channels, bias.channels):
                return "they are repeated before a bias is added"
            return ChannelSource((*found.places, *bias.places), found.channels)
    return "they come from a sum"


def _product(node: Node, size: int) -> ChannelSource | str:
    """The source of one of two factors, which must have all channels."""
    found: ChannelSource | str = "they come from a product of activations"
    for index in (0, 1):
        factor = node.operand(index)
        if not isinstance(factor, Constant) and factor.type.rank and factor.shape[-1] == size:
            found = _before(node, index)
            if not isinstance(found, str):
                break
    return found


def _relu(node: Node, size: int) -> ChannelSource | str:
    """Positive scales pass through."""
    return _before(node, 0)


def _attention(node: Node, size: int) -> ChannelSource | str:
    """The source of attention's values, which it takes means of; several heads of queries may share a head of them."""
    value = node.operand(2)
    heads, shared = (node.attributes.get(name) for name in ("q_num_heads", "kv_num_heads"))
    if not isinstance(heads, int) or not isinstance(shared, int) or value.type.rank != 3 or node.input(5) is not None:
        return "attention has its heads on an axis of their own, or reads past values"
    if len(node.outputs) > 1 and any(output.use_count or is_returned(output) for output in node.outputs[1:]):
        return "other results of attention are read as well"
    found, width = _before(node, 2), size // heads
    if isinstance(found, str):
        return found
    head = np.arange(size) // width // (heads // shared)
    return ChannelSource(found.places, found.channels[head * width + np.arange(size) % width])


_KNOWN = {
    "Add": _sum,
    "Attention": _attention,
    "Gemm": _gemm,
    "LayerNormalization": _norm,
    "MatMul": _matmul,
    "Mul": _product,
    "RMSNormalization": _norm,
    "Relu": _relu,
}
