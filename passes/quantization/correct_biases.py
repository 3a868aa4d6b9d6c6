"""Bias correction: what quantization shifts the mean of a layer's channels by is taken back through their biases.

Errors of rounding are far from independent where inputs repeat themselves, as a page's background does, and add up from
layer to layer. The empirical form of Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", 2019: layer by layer, against the float graph on the same inputs. What an activation function clips is
clipped before means are taken, since most of a channel may lie where nobody sees how far off it is. A mean over few
samples is uncertain by itself, most of all where an image has few pixels left, and so it is shrunk (James and Stein,
"Estimation with Quadratic Loss", 1961).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from ...ir.graph import Constant, Graph, Node, Value
from ...ir.quantization import LARGEST_BIAS
from ...ir.unused import drop_unused
from ..added_bias import added_bias
from ..base import Feeds, PassContext
from ..judge import Reference
from ..legalization.expansions.integers import MATMUL_NBITS
from .calibrate import show
from .clipping import UNBOUNDED, Bounds, seen_of
from .layers import Layer

if TYPE_CHECKING:
    from torch import Tensor


CORRECTED_ON = 128
"""Samples that biases are corrected on at the most."""

_LEAST_VISIBLE = 1e-3
"""The share of a channel that is taken to be visible at least, so that what hardly anybody sees isn't moved far."""


@dataclass(frozen=True, slots=True)
class _Means:
    """What a layer's readers see of a batch.

    Attributes:
        channels: the mean of every channel of each sample, within the bounds that readers tell apart, in a shape that
            broadcasts against the layer's output.
        visible: the share of the channel's numbers that lie within, in the same shape.
    """

    channels: "Tensor"
    visible: "Tensor"

    @classmethod
    def of(cls, value: Value, tensor: "Tensor", bounds: Bounds) -> Self:
        if bounds == UNBOUNDED:
            means = _means(value, tensor)
            return cls(means, means.new_ones(means.shape))
        low, high = bounds
        inside = (tensor > low) & (tensor < high)
        return cls(_means(value, tensor.clamp(low, high)), _means(value, inside.to(tensor.dtype)))


@dataclass(frozen=True, slots=True)
class _Shift:
    """How far a layer's channels are off, by what was seen so far.

    Attributes:
        count: the number of samples.
        total: the mean error of each channel, summed over samples.
        squares: the square of each channel's mean error, summed over samples.
        visible: the share of the channel that a shift moves, summed over samples.
    """

    count: int
    total: "Tensor"
    squares: "Tensor"
    visible: "Tensor"

    @classmethod
    def of(cls, wanted: _Means, found: _Means) -> Self:
        """The shift that a batch shows."""
        errors, visible = wanted.channels - found.channels, (wanted.visible + found.visible) / 2
        return cls(len(errors), *(seen.sum(0, keepdim=True) for seen in (errors, errors.square(), visible)))

    def __add__(self, other: Self) -> Self:
        sums = self.total + other.total, self.squares + other.squares, self.visible + other.visible
        return type(self)(self.count + other.count, *sums)

    @property
    def estimate(self) -> "Tensor":
        """The change that puts the mean right, shrunk the more the samples differ; 0 where numbers weren't finite."""
        count = max(self.count, 1)
        mean = self.total / count
        spread = (self.squares / count - mean.square()).clamp(min=0) / max(self.count - 1, 1)
        shrunk = mean * (1 - spread / mean.square().clamp(min=1e-30)).clamp(min=0)
        return (shrunk / (self.visible / count).clamp(min=_LEAST_VISIBLE)).nan_to_num(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class _Bias:
    """Where a layer's bias is.

    Attributes:
        node: the node that reads the constant: the DequantizeLinear of a Conv's or Gemm's bias, the Add after a MatMul,
            or a MatMulNBits.
        index: which of the node's inputs is the constant.
        scale: the scale of the integers; 1 for floats.
    """

    node: Node
    index: int
    scale: np.ndarray


class ChannelMeans:
    """The means of the channels that layers yield in float, in each sample of some batches.

    Args:
        graph: the graph in float.
        layers: its layers, whose outputs keep their names when the layers are quantized.
    """

    def __init__(self, graph: Graph, layers: Sequence[Layer]) -> None:
        self._found: dict[tuple[int, str], _Means] = {}
        outputs = [layer.node.outputs[0] for layer in layers]
        self._bounds = {value.name: seen_of(graph, value) for value in outputs}

    @classmethod
    def of(cls, graph: Graph, layers: Sequence[Layer], batches: Sequence[Feeds], context: PassContext) -> Self:
        """The means in a graph that nobody else runs, of what layers with a bias yield."""
        biased = [layer for layer in layers if layer.node.input(2) is not None or added_bias(layer.node) is not None]
        means = cls(graph, biased)
        show(Reference(graph), batches if biased else (), [means.see], context, "observing means")
        return means

    def see(self, batch: int, value: Value, tensor: "Tensor") -> None:
        """Take a tensor of a batch, by its place, into account."""
        if value.name in self._bounds and tensor.ndim > 1:
            self._found[batch, value.name] = _Means.of(value, tensor, self._bounds[value.name])

    def correct(self, rounded: Reference, batches: Sequence[Feeds], context: PassContext) -> int:
        """Correct the biases of the layers, in place, in a graph where they are quantized; returns how many there are.

        Behind each layer the mean of every channel is put right before the next layer sees it, so that one run serves
        all layers, however many, and its outputs are those of the corrected graph, as far as it is known by then.

        Args:
            rounded: the quantized graph.
            batches: the inputs, one batch after another, all of which the float graph has run.
            context: the context that progress is reported to.
        """
        graph = rounded.graph
        biases = {
            name: bias for node in graph.nodes if node.outputs[0].name in self._bounds for name, bias in _find(node)
        }
        if not biases or not batches:
            return 0
        shifts: dict[str, _Shift] = {}

        def correct(batch: int, value: Value, tensor: "Tensor") -> None:
            if value.name in biases:
                made = _Means.of(value, tensor, self._bounds[value.name])
                found = _Shift.of(self._found[batch, value.name], made)
                shifts[value.name] = shifts[value.name] + found if value.name in shifts else found
                tensor += shifts[value.name].estimate

        show(rounded, batches, [correct], context, "correcting biases")
        for name, bias in biases.items():
            _shift(graph, bias, shifts[name].estimate.numpy())
        rounded.renew(graph)
        return len(biases)


def _find(node: Node) -> Iterator[tuple[str, _Bias]]:
    """The name of a layer's output, and its bias if it has one; a vector has no samples to tell anything by."""
    output = node.outputs[0]
    if output.type.rank < 2:
        return
    if node.operator == MATMUL_NBITS and node.input(5) is not None:
        yield output.name, _Bias(node, 5, np.ones((), np.float32))
        return
    bias = node.input(2)
    if node.operator != MATMUL_NBITS and bias is not None and bias.producer is not None:
        scale = bias.producer.constant(1)
        assert scale is not None
        yield output.name, _Bias(bias.producer, 0, scale)
    if node.operator in ("MatMul", MATMUL_NBITS) and (place := added_bias(node)) is not None:
        yield output.name, _Bias(*place, np.ones((), np.float32))


def _means(value: Value, tensor: "Tensor") -> "Tensor":
    """The mean of every channel of each sample, in a shape that broadcasts against a layer's output."""
    assert value.producer is not None
    axis = 1 if value.producer.operator == "Conv" else tensor.ndim - 1
    others = [other for other in range(1, tensor.ndim) if other != axis]
    return tensor.mean(others, keepdim=True) if others else tensor


def _shift(graph: Graph, bias: _Bias, shift: np.ndarray) -> None:
    old = bias.node.inputs[bias.index]
    assert isinstance(old, Constant)
    changed = old.data + shift.reshape(-1) / bias.scale
    if old.dtype.is_integer:
        changed = np.rint(changed).clip(-LARGEST_BIAS, LARGEST_BIAS)
    new = graph.add_constant(changed.astype(old.data.dtype), old.name)
    graph.set_input(bias.node, bias.index, new)
    drop_unused(graph, [old])
