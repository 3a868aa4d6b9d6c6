"""Equalization: channels of an image that reach less far than the others are made larger, and their readers undo it.

One grid serves all channels of an activation, and is as coarse as the widest of them asks for. A positive factor for
each channel passes through Relu, pooling and sums of images that have it as well. So the weights of the convolutions
before take it up, or a factor that is there already, and those of the convolutions behind take it back (Nagel et al.,
"Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019). Nothing is added that takes time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import mul
from typing import TYPE_CHECKING, Self

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.quantization import QuantParams, quantize_weight
from ...ir.types import DType
from ...ir.unused import drop_unused
from ...targets import Int8
from ..base import Feeds, PassContext
from ..judge import Reference
from ..probes import first_samples
from .calibrate import See, show
from .layers import Layer
from .plan import Plan
from .scale_groups import ScaleGroup, Source, scale_groups

if TYPE_CHECKING:
    from torch import Tensor

_EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How much of the channels' differences may be evened out; the one with the least error on held-out inputs is taken."""

_WORTH = 0.9
"""The share of the error that may be left: what is measured on a few batches is not exact."""

_HEADROOM = 1.25
"""How much farther than seen a channel is taken to reach: it has far fewer values than the whole activation."""

_LEAST = 1e-3
"""The least that a channel is taken to reach, relative to the widest."""

_JUDGES, _SAMPLES = 2, 4
"""Batches that are held out, and how many samples of each are looked at: a layer reads many pixels of an image."""

_PIXELS = 14
"""How many results of a convolution are looked at along an axis: about this number to twice it, or all if fewer."""


@dataclass(slots=True)
class _Seen:
    """What calibration sees of a value: the least and the greatest number of each channel, 0 included."""

    low: "Tensor"
    high: "Tensor"


@dataclass(slots=True)
class _Equalizer:
    """Chooses the factors of one group.

    Attributes:
        group: the values that share factors, with their readers.
        int8: the integers of activations and weights.
        seen: what calibration sees of the values that will be rounded.
        errors: relative squared errors on held-out inputs, for each exponent.
        tried: the places of the exponents that are still in question.
    """

    group: ScaleGroup
    int8: Int8
    seen: dict[Value, _Seen] = field(default_factory=dict[Value, _Seen])
    errors: np.ndarray = field(default_factory=lambda: np.zeros(len(_EXPONENTS)))
    tried: Sequence[int] = range(len(_EXPONENTS))

    def observe(self, value: Value, x: "Tensor") -> None:
        """Widen the ranges of the channels."""
        import torch

        if not x.numel():
            return
        others = [axis for axis in range(x.ndim) if axis != 1]
        low, high = x.amin(others).clamp(max=0), x.amax(others).clamp(min=0)
        held = self.seen.setdefault(value, _Seen(low, high))
        held.low, held.high = torch.minimum(held.low, low), torch.maximum(held.high, high)

    def factors(self, exponent: float) -> "Tensor":
        """A factor from 1 for each channel: the less the channel reaches, as a share of the widest, the greater."""
        import torch

        shares: list[Tensor] = []
        for held in self.seen.values():
            reach = torch.maximum(held.high, -held.low)
            shares.append(reach / reach.max().clamp(min=1e-30))
        share = torch.stack(shares).amax(0) * _HEADROOM
        return torch.where(share > 0, share, 1.0).clamp(_LEAST, 1.0) ** -exponent

    def judge(self, value: Value, x: "Tensor") -> None:
        """Add the errors that rounding a value makes, in it or its readers' outputs, for each exponent in question."""
        import torch

        if value not in self.seen or not x.numel():
            return
        layers = self.group.readers.get(value, ())
        exact = [(layer, _Exact.of(_convolve(layer.node, x, torch.from_numpy(layer.weight.data)))) for layer in layers]
        own = _Exact.of(x) if self.group.is_carried(value) else None
        for place in self.tried:
            factors = self.factors(_EXPONENTS[place])
            read = self._rounded(value, x, factors)
            for layer, made in exact:
                self.errors[place] += self._error(layer, made, read, factors)
            if own is not None:
                self.errors[place] += own.error(read.div_(_along_channels(factors, x.ndim)))

    def narrow(self) -> None:
        """Leave two exponents in question: the one that has the least error so far, and 0."""
        self.tried = sorted({0, self._least()})

    def best(self) -> float:
        """The exponent with the least error, or 0 where none gains much."""
        self.errors[0] *= _WORTH
        return _EXPONENTS[self._least()]

    def _least(self) -> int:
        return min(self.tried, key=lambda place: np.nan_to_num(self.errors[place], nan=np.inf))

    def _rounded(self, value: Value, x: "Tensor", factors: "Tensor") -> "Tensor":
        """A value on its grid, times the factors."""
        import torch

        held = self.seen[value]
        low, high = float((held.low * factors).min()), float((held.high * factors).max())
        grid = QuantParams.over(low, high, DType[self.int8.activation])
        ends = np.iinfo(grid.dtype.numpy)
        scaled = (x * _along_channels(factors, x.ndim)).contiguous()
        return torch.fake_quantize_per_tensor_affine(scaled, grid.scale, grid.zero_point, int(ends.min), int(ends.max))

    def _error(self, layer: Layer, exact: "_Exact", read: "Tensor", factors: "Tensor") -> float:
        import torch

        weight = undone(layer, factors.numpy())
        integers = quantize_weight(weight, layer.axis, self.int8.weight_bits)
        made = torch.from_numpy(integers.data * integers.scale.reshape(-1, *[1] * (weight.ndim - 1)))
        return exact.error(_convolve(layer.node, read, made))


@dataclass(frozen=True, slots=True)
class _Exact:
    """What a value should be, and the sum of its squares."""

    tensor: "Tensor"
    power: float

    @classmethod
    def of(cls, tensor: "Tensor") -> Self:
        return cls(tensor, _squares(tensor))

    def error(self, found: "Tensor") -> float:
        """Return the squared error of a tensor, which is used up, as a share of the power."""
        return _squares(found.sub_(self.tensor)) / max(self.power, 1e-30)


class Equalization:
    """Evens out the channels of what Conv layers read, as far as that lowers the errors of their outputs.

    The error is that of rounding what a layer reads and its weights, which have a scale for each output channel; it is
    measured on batches that have no part in the channels' ranges: on the first for each exponent, on the others for the
    best exponent and for no factors at all.

    Args:
        graph: the graph in float.
        layers: its layers that will compute in integers.
        plan: the plan of their quantization.
        batches: the inputs, one batch after another.
        int8: the integers of activations and weights.
    """

    def __init__(self, graph: Graph, layers: Sequence[Layer], plan: Plan, batches: Sequence[Feeds], int8: Int8) -> None:
        self._graph = graph
        self._layers = layers
        self._groups = [_Equalizer(group, int8) for group in scale_groups(graph, layers, plan)]
        self._owners = {value: group for group in self._groups for value in group.group.rounded}
        self._fitted = batches[: max(1, len(batches) - _JUDGES)]
        shapes = {value.name: value.type.dims for value in graph.inputs}
        held_out = batches[len(self._fitted) :] or batches
        self._held_out = [first_samples(batch, shapes, _SAMPLES) for batch in held_out]

    def fit(self, context: PassContext, others: Sequence[See] = ()) -> None:
        """Run the batches that give the channels' ranges, if there are any groups; `others` are shown the tensors."""
        self._show(self._fitted, _Equalizer.observe, context, others)

    def apply(self, context: PassContext) -> tuple[list[Layer], int]:
        """Scale weights and activations of the graph; return the layers as they are now, and the number of groups."""
        first, *others = self._held_out
        self._show([first], _Equalizer.judge, context)
        for group in self._groups:
            group.narrow()
        self._show(others, _Equalizer.judge, context)
        chosen = [(group, exponent) for group in self._groups if (exponent := group.best())]
        for group, exponent in chosen:
            _apply(self._graph, group.group, group.factors(exponent).numpy())
        return [_renewed(layer) for layer in self._layers], len(chosen)

    def _show(
        self,
        batches: Sequence[Feeds],
        see: Callable[[_Equalizer, Value, "Tensor"], None],
        context: PassContext,
        others: Sequence[See] = (),
    ) -> None:
        """Run batches, and show each group its own values, and `others` all values."""

        def owner_sees(_: int, value: Value, x: "Tensor") -> None:
            if value in self._owners:
                see(self._owners[value], value, x)

        if self._owners:
            show(Reference(self._graph), batches, [owner_sees, *others], context, "equalizing channels")


def _squares(x: "Tensor") -> float:
    flat = x.reshape(-1)
    return float(flat.dot(flat))


def _along_channels(factors: "Tensor", rank: int) -> "Tensor":
    return factors.reshape(-1, *[1] * (rank - 2))


def _convolve(node: Node, x: "Tensor", weight: "Tensor") -> "Tensor":
    """What a Conv makes of another image and other weights, without the bias, at some pixels all over the image."""
    from ...ir.applying import call_attributes
    from ...ir.infer import find_operator

    strides = node.attributes.get("strides", (1,) * (x.ndim - 2))
    skips = (max(1, size // (stride * _PIXELS)) for size, stride in zip(x.shape[2:], strides, strict=True))
    attributes = {**node.attributes, "strides": tuple(map(mul, strides, skips))}
    definition = find_operator(node.operator)
    return definition.function(x, weight, **call_attributes(definition, node.inputs[:2], attributes, 1))


def undone(layer: Layer, factors: np.ndarray) -> np.ndarray:
    """The weight of a Conv whose input channels were multiplied by factors."""
    weight = layer.weight.data
    groups = len(factors) // weight.shape[1]
    own = factors.reshape(groups, -1).repeat(len(weight) // groups, axis=0)
    return weight / own.reshape(*own.shape, *[1] * (weight.ndim - 2))


def _apply(graph: Graph, group: ScaleGroup, factors: np.ndarray) -> None:
    for source in group.sources:
        _scale(graph, source, factors)
    for layer in (layer for layers in group.readers.values() for layer in layers):
        current = _renewed(layer)
        graph.set_input(layer.node, 1, graph.add_constant(undone(current, factors), layer.weight.name))
        drop_unused(graph, [current.weight])


def _scale(graph: Graph, source: Source, factors: np.ndarray) -> None:
    old = source.node.operand(source.index)
    if not isinstance(old, Constant):
        op = Builder(graph, source.node, source.node.location)
        scaled = op.Mul(old, op.constant(factors.reshape(-1, 1, 1), f"{old.name}.equalization"))
        graph.set_input(source.node, source.index, scaled)
        return
    rank = old.data.ndim + 1 if source.node.operator == "Conv" else source.node.outputs[0].type.rank
    shape = (-1, *[1] * (rank - 2))
    graph.set_input(source.node, source.index, graph.add_constant(old.data * factors.reshape(shape), old.name))
    drop_unused(graph, [old])


def _renewed(layer: Layer) -> Layer:
    """A layer with the weight that its node reads now."""
    weight = layer.node.inputs[1]
    return replace(layer, weight=weight) if layer.node.operator == "Conv" and isinstance(weight, Constant) else layer
