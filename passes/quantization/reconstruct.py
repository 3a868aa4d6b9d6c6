"""Reconstruction: the weights and biases of convolutions are fitted to their inputs as rounding leaves them.

Rounding moves a pattern that repeats itself all over an image, as a page's background does, in one direction
everywhere, and a rare one by another amount. A bias can't take back both; weights can, since such a pattern is a
direction of its own among what a convolution reads. So they solve, layer by layer behind the rounded ones before, the
least squares problem of making the float layer's output from integers (Hubara et al., "Accurate Post Training
Quantization With Small Calibration Sets", ICML 2021), and are rounded one after the other, so that the later ones
make up for the error (Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration", ICML
2025). A channel's old weights stay where the new ones don't do better on batches that were held out; its bias is fitted
as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from typing import TYPE_CHECKING, Self

import numpy as np

from ...ir.graph import Constant, Graph, Node
from ...ir.quantization import LARGEST_BIAS, least_scales, quantize_weight
from ...ir.unused import drop_unused
from ..base import Feeds, PassContext
from ..judge import ONE_IN
from ..walk import walk
from ..windows import windows
from .gptq import compensation, round_in_order
from .sweep import shares

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

RECONSTRUCTED_ON = 64
"""Samples that layers are fitted to at the most."""

_MOST_NUMBERS = 10_000_000
"""The most input numbers that layers are fitted to: activations of all batches are held at once."""

_DEEPEST = 4096
"""The most numbers that a window may hold: beyond, the products of a layer take many seconds."""

_MOST_WINDOWS = 512
"""The most windows of a convolution that are looked at in a sample."""

_RIDGE = 1e-3
"""The penalty on moving weights away from what they were, as a share of the mean square of what they multiply."""

_DAMPING = 0.01
"""The damping of how weights make up for the errors of others, as a share of the mean square of what they multiply."""

_ROUNDING = 1e-5
"""How far sums over windows, in float32, may be off, as a share of their trace: so much counts as nothing."""

_WORTH = 0.95
"""The share of a channel's error that may be left where its weights are changed."""


@dataclass(frozen=True, slots=True)
class _Rounded:
    """A Conv that computes in integers.

    Attributes:
        node: the Conv in the quantized graph.
        exact: the same Conv in the float graph.
        weight: the DequantizeLinear of its weight.
        bias: the DequantizeLinear of its bias.
    """

    node: Node
    exact: Node
    weight: Node
    bias: Node

    @property
    def groups(self) -> int:
        return self.node.attributes.get("group", 1)

    def columns(self, weight: np.ndarray) -> "Tensor":
        """The weights, or other numbers, of all output channels: float64 `[groups, K, channels of a group]`."""
        import torch

        rows = torch.from_numpy(weight.reshape(len(weight), -1).astype(np.float64))
        return rows.reshape(self.groups, -1, rows.shape[1]).mT


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums of products over windows: of what a convolution reads, x with a 1 behind it, and of what it is to yield, y.

    Attributes:
        inputs: the sums of `x^T x`, float64 `[groups, K + 1, K + 1]`.
        outputs: the sums of `x^T y`, `[groups, K + 1, N]`.
        power: the sums of the squares of y, `[groups, N]`.
    """

    inputs: "Tensor"
    outputs: "Tensor"
    power: "Tensor"

    @classmethod
    def of(cls, x: "Tensor", y: "Tensor", layer: _Rounded) -> Self:
        """The sums over the windows of a batch."""
        read, made = _windows(x, y, layer)
        sums = read.mT @ read, read.mT @ made, made.square().sum(1)
        return cls(*(part.double() for part in sums))

    def __add__(self, other: Self) -> Self:
        return type(self)(self.inputs + other.inputs, self.outputs + other.outputs, self.power + other.power)

    @property
    def parts(self) -> "tuple[Tensor, Tensor, Tensor]":
        return self.inputs, self.outputs, self.power

    @property
    def nothing(self) -> Self:
        """The sums over no windows."""
        return type(self)(*(part.new_zeros(part.shape) for part in self.parts))

    @property
    def is_telling(self) -> bool:
        """Whether there were windows, and all that was seen is finite."""
        return bool(self.inputs[:, -1, -1].all()) and all(bool(part.isfinite().all()) for part in self.parts)

    def best(self, before: "Tensor") -> "Tensor":
        """The weights and biases with the least squared error, drawn towards those before; none of them is rounded.

        Cholesky's factors are computed for one group after another. The triangles of `torch.linalg.solve` are for
        several at once, by which MKL never ends on two threads from 200 rows or so.
        """
        import torch

        energy = self.inputs.diagonal(dim1=1, dim2=2)
        ridge = (_RIDGE * energy.mean(1, keepdim=True) + 1e-30).expand_as(energy).clone()
        ridge[:, -1] = 0
        root, failed = torch.linalg.cholesky_ex(self.inputs + torch.diag_embed(ridge))
        while failed.any():  # rounded sums may have no root by so small a ridge
            ridge = torch.where((failed > 0)[:, None], 10 * ridge, ridge)
            root, failed = torch.linalg.cholesky_ex(self.inputs + torch.diag_embed(ridge))
        return torch.cholesky_solve(self.outputs + ridge[..., None] * before, root)

    def with_bias(self, weights: "Tensor") -> "Tensor":
        """Weights `[groups, K, N]` with the biases that suit them best."""
        import torch

        reads, count = self.inputs[:, -1:, :-1], self.inputs[:, -1:, -1:]
        return torch.cat([weights, (self.outputs[:, -1:] - reads @ weights) / count], 1)

    def rounded(self, weights: "Tensor", scale: "Tensor", bits: int) -> "Tensor":
        """Weights as integers of some bits, `[groups, K, N]`, by the scales of channels, `[groups, 1, N]`."""
        import torch

        seen, reads = self.inputs[:, :-1, :-1], self.inputs[:, :-1, -1:]
        doubt = _ROUNDING * seen.diagonal(dim1=1, dim2=2).sum(1, keepdim=True).expand(seen.shape[:2])
        moments = seen - reads @ reads.mT / self.inputs[:, -1:, -1:] + torch.diag_embed(doubt)  # biases follow means
        upper = torch.from_numpy(np.stack([compensation(one, _DAMPING) for one in moments.numpy()]))
        greatest = (2 ** (bits - 1) - 1) * (weights != 0).float()
        return round_in_order(weights.float(), upper, scale.float().expand_as(greatest), -greatest, greatest)[0]

    def error(self, columns: "Tensor") -> "Tensor":
        """The squared error of each output channel, `[groups * N]`."""
        products = (columns * (self.inputs @ columns - 2 * self.outputs)).sum(1)
        return (products + self.power).reshape(-1)


def reconstruct(exact: Graph, graph: Graph, batches: Sequence[Feeds], bits: int, context: PassContext) -> int:
    """Fit the convolutions of a quantized graph, in place, to what they read; returns how many of them have changed.

    Args:
        exact: the graph in float, whose convolutions have the same names.
        graph: the quantized graph, in which some of them compute in integers, with a scale for each output channel.
        batches: the inputs, one batch after another; every fourth batch is held out, or every fourth sample where there
            are few batches.
        bits: the bits of the weights.
        context: the context that progress is reported to.
    """
    import torch

    from ...ir.ops.dtypes import to_torch

    layers, batches = _layers(exact, graph), _first(batches)
    if not layers:
        return 0
    walked = graph.clone()
    twins = dict(zip(graph.nodes, walked.nodes, strict=True))
    own = {layer: _own_constants(walked, twins[layer.node], layer) for layer in layers}
    places = {node: place for held in (exact, graph) for place, node in enumerate(held.nodes)}
    starts, changed = [0, 0], 0
    with walk(exact, batches) as floats, walk(walked, batches) as integers, torch.no_grad():

        def observe(layer: _Rounded) -> list[np.ndarray]:
            stops = [places[layer.exact] + 1, places[layer.node]]
            sums: dict[bool, _Sums] = {}
            for number in range(len(batches)):
                y = floats.advance(number, starts[0], stops[0])[layer.exact.outputs[0]]
                x = integers.advance(number, starts[1], stops[1])[twins[layer.node].operand(0)]
                assert isinstance(x, torch.Tensor)
                assert isinstance(y, torch.Tensor)
                parts = zip(shares(x, number, len(batches)), shares(y, number, len(batches)), strict=True)
                for (is_held_out, read), (_, made) in parts:
                    found = _Sums.of(read, made, layer)
                    sums[is_held_out] = sums[is_held_out] + found if is_held_out in sums else found
            starts[:] = stops
            held_out = sums.get(True, sums[False].nothing)
            return [part.numpy() for part in (*sums[False].parts, *held_out.parts)]

        for done, layer in enumerate(layers):
            context.progress("reconstructing layers", done, len(layers))
            parts = [torch.from_numpy(part) for part in context.remember(partial(observe, layer))]
            changed += _fit(graph, layer, _Sums(*parts[:3]), _Sums(*parts[3:]), bits)
            for constant, node in zip(own[layer], (layer.weight, layer.bias), strict=True):
                integers.constants[constant] = to_torch(_dequantized(node))
    context.progress("reconstructing layers", len(layers), len(layers))
    return changed


def _first(batches: Sequence[Feeds]) -> Sequence[Feeds]:
    """The first batches, as many as stay small together, but enough of them to hold one out."""
    sizes = np.cumsum([sum(array.size for array in batch.values()) for batch in batches])
    return batches[: max(ONE_IN, int(np.searchsorted(sizes, _MOST_NUMBERS)))]


def _layers(exact: Graph, graph: Graph) -> list[_Rounded]:
    """The convolutions that compute in integers with a weight and a bias of their own, in order."""
    floats = {node.outputs[0].name: node for node in exact.nodes if node.operator == "Conv"}
    found: list[_Rounded] = []
    for node in graph.nodes:
        if node.operator != "Conv" or node.outputs[0].name not in floats or node.input(2) is None:
            continue
        weight, bias = node.operand(1).producer, node.operand(2).producer
        if prod(node.operand(1).type.static_shape[1:]) > _DEEPEST:
            continue
        if weight is not None and bias is not None and _is_own(weight) and _is_own(bias):
            found.append(_Rounded(node, floats[node.outputs[0].name], weight, bias))
    return found


def _is_own(node: Node) -> bool:
    """Whether a node dequantizes a constant for one reader, by a scale for each channel."""
    scale = node.constant(1)
    is_constant = node.operator == "DequantizeLinear" and _holder(node).constant(0) is not None
    return is_constant and scale is not None and scale.ndim == 1 and node.outputs[0].use_count == 1


def _holder(node: Node) -> Node:
    """The reader of the integers that a node dequantizes: the node itself, or a Cast before it from 4 bits."""
    before = node.operand(0).producer
    return before if before is not None and before.operator == "Cast" else node


def _integers(node: Node) -> np.ndarray:
    """The integers that a node dequantizes, as int8 or int32."""
    held = _holder(node).constant(0)
    assert held is not None
    return held.astype(node.operand(0).dtype.numpy)


def _own_constants(walked: Graph, twin: Node, layer: _Rounded) -> list[Constant]:
    """Make a copy's node read its weight and bias as constants, which can be changed on the way."""
    held = [walked.add_constant(_dequantized(node)) for node in (layer.weight, layer.bias)]
    for index, constant in enumerate(held, 1):
        walked.set_input(twin, index, constant)
    return held


def _dequantized(node: Node) -> np.ndarray:
    integers, scale = _integers(node), node.constant(1)
    assert scale is not None
    return (integers * scale.reshape(-1, *[1] * (integers.ndim - 1))).astype(np.float32)


def _windows(x: "Tensor", y: "Tensor", layer: _Rounded) -> "tuple[Tensor, Tensor]":
    """What a convolution reads at some positions all over the image, `[groups, windows, K + 1]`, and yields there."""
    import torch

    positions, kernel = y.shape[2:], layer.node.operand(1).type.static_shape[2:]
    step = max(ceil((prod(positions) / _MOST_WINDOWS) ** (1 / len(positions))), 1)
    cut = (slice(None), slice(None), *[slice(None, None, step)] * len(positions))
    held, made = windows(x, layer.node)[cut], y[cut]  # [samples, channels, *positions, *kernel]
    samples, groups, count = len(x), layer.groups, prod(made.shape[2:])
    read = held.reshape(samples, groups, x.shape[1] // groups, count, prod(kernel))
    read = read.permute(1, 0, 3, 2, 4).reshape(groups, samples * count, read.shape[2] * read.shape[4])
    made = made.reshape(samples, groups, y.shape[1] // groups, count).permute(1, 0, 3, 2)
    ones = read.new_ones(groups, samples * count, 1)
    return torch.cat([read, ones], 2), made.reshape(groups, samples * count, made.shape[-1])


def _fit(graph: Graph, layer: _Rounded, fit: _Sums, held_out: _Sums, bits: int) -> bool:
    """Change the weights of the channels that gain by it, and all biases; returns whether any channel gains."""
    import torch

    if not fit.is_telling or not held_out.is_telling:
        return False
    scale, steps = layer.weight.constant(1), layer.bias.constant(1)
    weight, bias = layer.exact.constant(1), layer.exact.constant(2)
    assert scale is not None and steps is not None and weight is not None and bias is not None
    exact = torch.cat([layer.columns(weight), layer.columns(bias)], 1)
    best = fit.best(exact)
    best[:, :-1][exact[:, :-1] == 0] = 0  # what was pruned stays so
    fitted = best.mT.flatten(0, 1).numpy()
    step = steps / scale  # the step of what is read
    grid = quantize_weight(fitted[:, :-1].astype(np.float32), 0, bits, least_scales(fitted[:, -1], step)).scale
    codes = fit.rounded(best[:, :-1], layer.columns(grid), bits)
    before = fit.with_bias(layer.columns(_dequantized(layer.weight)))
    after = fit.with_bias(codes * layer.columns(grid))
    better = (held_out.error(after) < _WORTH * held_out.error(before)).numpy()
    scales = np.where(better, grid, scale).astype(np.float32)
    steps = (scales * step).astype(np.float32)
    biases = np.where(better, after[:, -1].flatten(), before[:, -1].flatten())
    moved = np.rint(biases / steps).clip(-LARGEST_BIAS, LARGEST_BIAS)
    integers = _integers(layer.weight)
    made = codes.mT.reshape(integers.shape).numpy().astype(integers.dtype)
    weights = np.where(better.reshape(-1, *[1] * (integers.ndim - 1)), made, integers)
    _replace(graph, layer.weight, weights, scales)
    _replace(graph, layer.bias, moved, steps)
    return bool(better.any())


def _replace(graph: Graph, node: Node, integers: np.ndarray, scales: np.ndarray) -> None:
    """Give a DequantizeLinear other integers and scales."""
    for reader, index, data in ((_holder(node), 0, integers), (node, 1, scales)):
        old = reader.operand(index)
        graph.set_input(reader, index, graph.add_constant(data.astype(old.dtype.numpy), old.name))
        drop_unused(graph, [old])
