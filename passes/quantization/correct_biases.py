"""Bias correction: what quantization shifts the mean of a layer's channels by is taken back through their biases.

Errors of rounding are far from independent where inputs repeat themselves, as a page's background does, and add up from
layer to layer. The empirical form of Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", 2019: layer by layer, against the float graph on the same inputs. A mean over few samples is uncertain by
itself, most of all where an image has few pixels left, and so it is shrunk (James and Stein, "Estimation with Quadratic
Loss", 1961).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from ...ir.graph import Constant, Graph, Node, Value
from ...ir.quantization import LARGEST_BIAS
from ..added_bias import added_bias
from ..base import Feeds, PassContext
from ..judge import Reference
from ..legalization.expansions.integers import MATMUL_NBITS
from .layers import drop_unused

if TYPE_CHECKING:
    from torch import Tensor


CORRECTED_ON = 128
"""Samples that biases are corrected on at the most."""


@dataclass(slots=True)
class _Shift:
    """How far a layer's channels are off, by what was seen so far.

    Attributes:
        count: of samples.
        total: over samples, of the mean of each channel's error.
        squares: the same of its square.
    """

    count: int
    total: "Tensor"
    squares: "Tensor"

    @classmethod
    def of(cls, errors: "Tensor") -> Self:
        """What a batch tells, from the means of its samples' errors."""
        return cls(len(errors), errors.sum(0, keepdim=True), errors.square().sum(0, keepdim=True))

    def __add__(self, other: Self) -> Self:
        return type(self)(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def estimate(self) -> "Tensor":
        """The mean, less of it the more the samples differ; of a single one as it is."""
        mean = self.total / max(self.count, 1)
        spread = (self.squares / max(self.count, 1) - mean.square()).clamp(min=0) / max(self.count - 1, 1)
        return mean * (1 - spread / mean.square().clamp(min=1e-30)).clamp(min=0)


@dataclass(frozen=True, slots=True)
class _Bias:
    """Where a layer's bias is.

    Attributes:
        node: that reads the constant: the DequantizeLinear of a Conv's or Gemm's bias, the Add after a MatMul, or a
            MatMulNBits.
        index: of the input that is the constant.
        scale: of the integers; 1 for floats.
        axis: of the channels in the layer's output.
    """

    node: Node
    index: int
    scale: np.ndarray
    axis: int


def correct_biases(
    before: Reference, graph: Graph, outputs: Collection[str], batches: Sequence[Feeds], context: PassContext
) -> int:
    """Correct the biases of a graph's quantized layers, in place; returns how many there are.

    A batch runs through both graphs. Behind each layer of the quantized one the mean of every channel is put right
    before the next layer sees it, so that one run serves all layers, however many.

    Args:
        before: the graph in float.
        graph: the same, quantized.
        outputs: of the layers that were quantized, by their names in both.
        batches: of inputs.
        context: to whom progress is reported.
    """
    from ...ir.interpreter import Interpreter  # brings torch, which listing the passes must not

    biases = {name: bias for node in graph.nodes if node.outputs[0].name in outputs for name, bias in _find(node)}
    if not biases:
        return 0
    shifts: dict[str, _Shift] = {}
    quantized = Interpreter(graph)
    for done, batch in enumerate(batches):
        context.progress("correcting biases", done, len(batches))
        wanted: dict[str, Tensor] = {}

        def remember(value: Value, tensor: "Tensor", wanted: dict[str, "Tensor"] = wanted) -> None:
            if value.name in biases:
                wanted[value.name] = _means(tensor, biases[value.name].axis)

        def correct(value: Value, tensor: "Tensor", wanted: Mapping[str, "Tensor"] = wanted) -> None:
            if value.name in biases:
                found = _Shift.of(wanted[value.name] - _means(tensor, biases[value.name].axis))
                shifts[value.name] = shifts[value.name] + found if value.name in shifts else found
                tensor += shifts[value.name].estimate

        before.run(batch, remember)
        quantized.run(batch, correct)
    for name, bias in biases.items():
        _shift(graph, bias, shifts[name].estimate.numpy())
    context.progress("correcting biases", len(batches), len(batches))
    return len(biases)


def _find(node: Node) -> Iterator[tuple[str, _Bias]]:
    """The name of a layer's output, and its bias if it has one; a vector has no samples to tell anything by."""
    output = node.outputs[0]
    if output.type.rank < 2:
        return
    if node.operator == MATMUL_NBITS and node.input(5) is not None:
        yield output.name, _Bias(node, 5, np.ones((), np.float32), output.type.rank - 1)
        return
    bias = node.input(2)
    if node.operator != MATMUL_NBITS and bias is not None and bias.producer is not None:
        scale = bias.producer.constant(1)
        assert scale is not None
        yield output.name, _Bias(bias.producer, 0, scale, 1)
    if node.operator in ("MatMul", MATMUL_NBITS) and (place := added_bias(node)) is not None:
        yield output.name, _Bias(*place, np.ones((), np.float32), output.type.rank - 1)


def _means(tensor: "Tensor", axis: int) -> "Tensor":
    """The mean of every channel of each sample, in a shape that broadcasts against the tensor."""
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
