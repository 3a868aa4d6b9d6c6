"""Equalization: channels of an image that reach less far than the others are made larger, and their readers undo it.

One grid serves all channels of an activation, and is as coarse as the widest of them asks for. A positive factor for
each channel passes through Relu and pooling. So the weights of the convolution before take it up, or a factor that is
there already, and those of the convolution behind take it back (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019). Nothing is added that takes time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.quantization import QuantParams, quantize_weight
from ...ir.types import DType
from ...targets import Int8
from ..base import Feeds, PassContext
from .clipping import bounds_of
from .layers import Layer, drop_unused
from .plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

_EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How much of the channels' differences may be evened out; the one with the least error on held-out inputs is taken."""

_LEAST = 1e-3
"""That a channel is taken to reach, relative to the widest."""

_JUDGES = 2
"""Batches that are held out: a layer reads many pixels of each."""


@dataclass(frozen=True, slots=True)
class _Source:
    """What channels are proportional to: a node's constant input, or a gate that is a number for each channel."""

    node: Node
    index: int


@dataclass(slots=True)
class _Group:
    """An activation `[N, C, ...]` with the convolutions that read it.

    Attributes:
        readers: all of them.
        sources: all that its channels are proportional to.
        low: the least value of each channel, 0 included.
        high: the greatest.
        errors: the squared errors of the readers' outputs on held-out inputs, for each exponent.
    """

    readers: Sequence[Layer]
    sources: Sequence[_Source]
    low: "Tensor | float" = 0.0
    high: "Tensor | float" = 0.0
    errors: "np.ndarray | float" = 0.0

    def observe(self, x: "Tensor") -> None:
        """Widen the channels' ranges."""
        import torch

        channels = x.transpose(0, 1).flatten(1)
        self.low = torch.minimum(channels.amin(1), torch.as_tensor(self.low)).clamp(max=0)
        self.high = torch.maximum(channels.amax(1), torch.as_tensor(self.high)).clamp(min=0)

    def factors(self, exponent: float) -> "Tensor":
        """A number from 1 for each channel: the less it reaches, the greater."""
        import torch

        reach = torch.maximum(torch.as_tensor(self.high), -torch.as_tensor(self.low))
        widest = reach.max()
        reach = torch.where(reach > 0, reach.clamp(min=_LEAST * float(widest)), widest)
        return (widest / reach) ** exponent if widest > 0 else torch.ones_like(reach)


def equalize(
    graph: Graph, layers: Sequence[Layer], plan: Plan, batches: Sequence[Feeds], int8: Int8, context: PassContext
) -> tuple[list[Layer], int]:
    """Even out the channels of what Conv layers read, in place, as far as that lowers the errors of their outputs.

    The error is that of rounding what a layer reads and its weights, which have a scale for each output channel; it is
    measured on batches that have no part in the channels' ranges.

    Args:
        graph: in float.
        layers: of it that will compute in integers.
        plan: of their quantization.
        batches: of inputs.
        int8: the integers of activations and weights.
        context: to whom progress is reported.

    Returns:
        The layers as they are now, and how many activations were equalized.
    """
    from ...ir.interpreter import Interpreter  # brings torch, which listing the passes must not

    groups = _groups(layers, plan)
    interpreter = Interpreter(graph)
    fitted = batches[: max(1, len(batches) - _JUDGES)]
    held_out = batches[len(fitted) :] or batches
    judge = partial(_judge, int8=int8)
    steps = [*((batch, _Group.observe) for batch in fitted), *((batch, judge) for batch in held_out)]
    for done, (batch, see) in enumerate(steps if groups else ()):
        context.progress("equalizing channels", done, len(steps))
        interpreter.run(batch, lambda value, x, see=see: see(groups[value], x) if value in groups else None)
    exponents = {x: _EXPONENTS[int(np.argmin(group.errors))] for x, group in groups.items()}
    for x, exponent in exponents.items():
        if exponent:
            _apply(graph, groups[x], groups[x].factors(exponent).numpy())
    return [_renewed(layer) for layer in layers], sum(map(bool, exponents.values()))


def _groups(layers: Sequence[Layer], plan: Plan) -> dict[Value, _Group]:
    """The activations that only convolutions read, and whose channels can be scaled where they come from."""
    readers: dict[Value, list[Layer]] = {}
    for layer in layers:
        if layer.node.operator == "Conv" and not layer.shares_weight:
            readers.setdefault(layer.x, []).append(layer)
    groups: dict[Value, _Group] = {}
    for x, held in readers.items():
        if len(held) == x.use_count and x in plan.reads and (sources := _sources(x, plan)):
            groups[x] = _Group(held, sources)
    return groups


def _sources(x: Value, plan: Plan, *, is_read: bool = True) -> list[_Source]:
    """All that the channels of an image are proportional to; empty where that can't be scaled.

    A Clip from 0 to some number does not hold back channels that reach no farther than it when they are made larger.

    Args:
        x: the image.
        plan: of the quantization.
        is_read: whether it is the one that will be rounded, and not one before it.
    """
    node = x.producer
    if node is None or x is not node.outputs[0] or node.owner.is_output(x):
        return []
    match node.operator:
        case "Conv":
            found = [_Source(node, index) for index in (1, 2) if node.input(index) is not None]
            return found if all(node.constant(source.index) is not None for source in found) else []
        case "Add" | "Mul":
            return _sources_of_pair(node, plan)
        case "AveragePool" | "GlobalAveragePool" | "LeakyRelu" | "MaxPool" | "Relu":
            return _sources_before(node, 0, plan)
        case "Clip" if is_read and bounds_of(node)[0] == 0:
            return _sources_before(node, 0, plan)
        case _:
            return []


def _sources_before(node: Node, index: int, plan: Plan) -> list[_Source]:
    x = node.operand(index)
    return _sources(x, plan, is_read=False) if x.use_count == 1 else []


def _sources_of_pair(node: Node, plan: Plan) -> list[_Source]:
    """A factor, an addend with all that is before it, or what is before an image that is multiplied by a gate.

    The gate itself is scaled where the image can't be.
    """
    for index in (0, 1):
        data = node.constant(index)
        if data is not None and _runs_along_channels(data.shape):
            before = [] if node.operator == "Mul" else _sources_before(node, 1 - index, plan)
            return [_Source(node, index), *before] if before or node.operator == "Mul" else []
    for index in (0, 1) if node.operator == "Mul" else ():
        gate, image = node.operand(index), node.operand(1 - index)
        if gate.type.rank == 4 and gate.shape[2:] == (1, 1) != image.shape[2:] and gate.shape[1] == image.shape[1]:
            found = _sources_before(node, 1 - index, plan)
            return found or ([] if node in plan.carriers else [_Source(node, index)])
    return []


def _runs_along_channels(shape: tuple[int, ...]) -> bool:
    """Whether a constant of a shape, beside an image, has a number for each channel or one for all."""
    return all(size == 1 or len(shape) - axis == 3 for axis, size in enumerate(shape))


def _judge(group: _Group, x: "Tensor", int8: Int8) -> None:
    """Add what rounding does to the readers' outputs, for each exponent."""
    factors = [group.factors(exponent) for exponent in _EXPONENTS]
    errors = [sum(_error(layer, x, group, factor, int8) for layer in group.readers) for factor in factors]
    group.errors = group.errors + np.array(errors)


def _error(layer: Layer, x: "Tensor", group: _Group, factors: "Tensor", int8: Int8) -> float:
    import torch

    low, high = float((group.low * factors).min()), float((group.high * factors).max())
    grid = QuantParams.over(low, high, DType[int8.activation])
    ends = np.iinfo(grid.dtype.numpy)
    scaled = (x * factors.reshape(-1, *[1] * (x.ndim - 2))).contiguous()
    read = torch.fake_quantize_per_tensor_affine(scaled, grid.scale, grid.zero_point, int(ends.min), int(ends.max))
    undone = _undone(layer, factors.numpy())
    integers = quantize_weight(undone, layer.axis, int8.weight_bits)
    weight = torch.from_numpy(integers.data * integers.scale.reshape(-1, *[1] * (undone.ndim - 1)))
    exact = _convolve(layer.node, x, torch.from_numpy(layer.weight.data))
    return float((_convolve(layer.node, read, weight) - exact).square().sum())


def _convolve(node: Node, x: "Tensor", weight: "Tensor") -> "Tensor":
    """What a Conv makes of another image and other weights, without the bias."""
    from ...ir.applying import call_attributes
    from ...ir.infer import find_operator

    definition = find_operator(node.operator)
    return definition.function(x, weight, **call_attributes(definition, node.inputs[:2], node.attributes, 1))


def _undone(layer: Layer, factors: np.ndarray) -> np.ndarray:
    """The weight of a Conv whose input channels were multiplied."""
    weight = layer.weight.data
    groups = len(factors) // weight.shape[1]
    own = factors.reshape(groups, -1).repeat(len(weight) // groups, axis=0)
    return weight / own.reshape(*own.shape, *[1] * (weight.ndim - 2))


def _apply(graph: Graph, group: _Group, factors: np.ndarray) -> None:
    for source in group.sources:
        _scale(graph, source, factors)
    for layer in group.readers:
        current = _renewed(layer)
        graph.set_input(layer.node, 1, graph.add_constant(_undone(current, factors), layer.weight.name))
        drop_unused(graph, [current.weight])


def _scale(graph: Graph, source: _Source, factors: np.ndarray) -> None:
    old = source.node.operand(source.index)
    if not isinstance(old, Constant):
        op = Builder(graph, source.node, source.node.location)
        scaled = op.Mul(old, op.constant(factors.reshape(-1, 1, 1), f"{old.name}.equalization"))
        graph.set_input(source.node, source.index, scaled)
        return
    is_weight = source.node.operator == "Conv"
    shape = (-1, *[1] * (old.data.ndim - 1)) if is_weight else (-1, *[1] * (source.node.outputs[0].type.rank - 2))
    graph.set_input(source.node, source.index, graph.add_constant(old.data * factors.reshape(shape), old.name))
    drop_unused(graph, [old])


def _renewed(layer: Layer) -> Layer:
    """A layer with the weight that its node reads now."""
    weight = layer.node.inputs[1]
    return replace(layer, weight=weight) if layer.node.operator == "Conv" and isinstance(weight, Constant) else layer
