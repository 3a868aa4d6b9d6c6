"""Smoothing: channels that reach far beyond the others are divided by what their rows of the weights are multiplied by.

One grid for an activation is as coarse as its widest channel asks for, and transformers have a few that are ten times
as wide as the rest. x W = (x / s) (s W) for any positive s, a number for each channel (Xiao et al., "SmoothQuant:
Accurate and Efficient Post-Training Quantization for Large Language Models", 2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Value
from ..base import Feeds, PassContext
from .layers import Layer, drop_unused
from .plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

_EXPONENTS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""How much of the channels' differences may go into the weights; of these, the best predicted one is taken."""

_LEFT = 0.5
"""The share of the predicted squared error that may be left: the division takes time where no other node absorbs it."""

_LEAST = 1e-5
"""That a channel is taken to reach, relative to the widest."""


@dataclass(slots=True)
class _Channels:
    """What calibration sees of an activation's channels, float[K] each: the ends, and the sum of squares over rows."""

    low: np.ndarray | float = 0.0
    high: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0
    rows: int = 0

    def update(self, batch: "Tensor") -> None:
        rows = batch.reshape(-1, batch.shape[-1]).double().numpy()
        self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))
        self.squares, self.rows = self.squares + np.square(rows).sum(0), self.rows + len(rows)


def smooth(
    graph: Graph, layers: Sequence[Layer], plan: Plan, batches: Sequence[Feeds], context: PassContext
) -> tuple[list[Layer], int]:
    """Smooth what MatMul and Gemm layers read, in place, where that is predicted to halve the error at least.

    Values that are integers before they are read stay as they are.

    Args:
        graph: in float.
        layers: of it that will compute in integers.
        plan: of their quantization.
        batches: of inputs.
        context: to whom progress is reported.

    Returns:
        The layers as they are now, and how many activations were smoothed.
    """
    groups: dict[Value, list[Layer]] = {}
    for layer in layers:
        if layer.node.operator != "Conv" and layer.x not in plan.returned and not layer.shares_weight:
            groups.setdefault(layer.x, []).append(layer)
    seen = _observe(graph, groups, batches, context)
    changed: dict[Layer, Layer] = {}
    count = 0
    for x, readers in groups.items():
        scale = _best_scale(seen[x], np.concatenate([layer.matrix for layer in readers], axis=1))
        if scale is not None and context.applies("smooth", readers[0].node):
            changed |= zip(readers, _apply(graph, x, readers, scale.astype(np.float32)), strict=True)
            count += 1
    drop_unused(graph, [layer.weight for layer in changed])
    return [changed.get(layer, layer) for layer in layers], count


def _observe(
    graph: Graph, groups: dict[Value, list[Layer]], batches: Sequence[Feeds], context: PassContext
) -> dict[Value, _Channels]:
    from ...ir.interpreter import Interpreter  # brings torch, which listing the passes must not

    seen = {x: _Channels() for x in groups}

    def observe(value: Value, tensor: "Tensor") -> None:
        if value in seen and tensor.numel():
            seen[value].update(tensor)

    interpreter = Interpreter(graph)
    for done, batch in enumerate(batches if groups else ()):
        context.progress("observing channels", done, len(batches))
        interpreter.run(batch, observe)
    return seen


def _best_scale(channels: _Channels, weight: np.ndarray) -> np.ndarray | None:
    """The factors of a weight's rows, `[K, N]`, with the least predicted error; None where it isn't worth it."""
    reach = np.maximum(channels.high, np.negative(channels.low))
    if not channels.rows or not np.all(np.isfinite(reach)) or not np.max(reach):
        return None
    reach = np.maximum(reach, _LEAST * np.max(reach))
    rows = np.abs(weight).max(axis=1).astype(np.float64)
    rows = np.maximum(rows, max(_LEAST * rows.max(), np.finfo(np.float32).tiny))
    scales = [reach**exponent / rows ** (1 - exponent) for exponent in _EXPONENTS]
    scales = [scale / np.exp(np.log(scale).mean()) for scale in scales]
    errors = [_error(channels, weight, scale) for scale in scales]
    best = int(np.argmin(errors))
    return scales[best] if errors[best] <= _LEFT * _error(channels, weight, np.ones(len(weight))) else None


def _error(channels: _Channels, weight: np.ndarray, scale: np.ndarray) -> float:
    """The expected squared error of a product, of rounding the activation, to 256 steps, and the weight, by columns."""
    step = ((channels.high / scale).max() - (channels.low / scale).min()) / 255
    steps = np.abs(weight * scale[:, None]).max(axis=0) / 127
    power = channels.squares / channels.rows
    of_activation = step**2 * (np.square(scale) * np.square(weight.astype(np.float64)).sum(axis=1)).sum()
    return float(of_activation + np.square(steps).sum() * (power / np.square(scale)).sum())


def _apply(graph: Graph, x: Value, readers: Sequence[Layer], scale: np.ndarray) -> list[Layer]:
    """Divide an activation for its readers and multiply their weights."""
    smoothed = x if _absorb(graph, x, readers, scale) else _divided(graph, x, readers, scale)
    made: list[Layer] = []
    for layer in readers:
        factor = scale[:, None] if layer.axis == 1 else scale
        weight = graph.add_constant(layer.weight.data * factor, layer.weight.name)
        graph.set_input(layer.node, 0, smoothed)
        graph.set_input(layer.node, 1, weight)
        made.append(replace(layer, x=smoothed, weight=weight))
    return made


def _divided(graph: Graph, x: Value, readers: Sequence[Layer], scale: np.ndarray) -> Value:
    op = Builder(graph, readers[0].node, readers[0].node.location)
    return op.Mul(x, op.constant(1 / scale, f"{x.name}.smoothing"))


def _absorb(graph: Graph, x: Value, readers: Sequence[Layer], scale: np.ndarray) -> bool:
    """Divide the scale and bias of the normalization that yields an activation; whether that was possible."""
    node, nodes = x.producer, {layer.node for layer in readers}
    if node is None or node.operator not in ("LayerNormalization", "RMSNormalization") or graph.is_output(x):
        return False
    constants = [value for value in node.inputs[1:] if value is not None]
    if any(use.node not in nodes for use in x.uses) or not all(isinstance(value, Constant) for value in constants):
        return False
    if any(value.shape != scale.shape for value in constants):
        return False
    for index, value in enumerate(constants, start=1):
        assert isinstance(value, Constant)
        graph.set_input(node, index, graph.add_constant(value.data / scale, value.name))
        drop_unused(graph, [value])
    return True
