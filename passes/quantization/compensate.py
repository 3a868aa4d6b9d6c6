"""Weights in int8 by GPTQ: what rounding one input channel's weights does to the output, the next ones make up for.

Rounding each weight by itself costs transformers as much as rounding activations does, once these are smoothed, since
that multiplies some rows of the weights.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ...ir.block_weight import BlockScheme
from ...ir.graph import Graph
from ...ir.quantization import IntegerWeight, quantize_weight
from ..base import Feeds, PassContext
from .gptq import DAMPING, gptq
from .layers import Layer, WeightKey
from .sweep import Moments, sweep

_DEEPEST = 8192
"""The most input channels that are compensated: beyond, second moments take gigabytes, and their inverse minutes."""


def compensate(
    graph: Graph,
    layers: Sequence[Layer],
    bits: int,
    batches: Sequence[Feeds],
    context: PassContext,
    first: Moments | None = None,
) -> tuple[dict[WeightKey, IntegerWeight], list[str]]:
    """Round the weights of MatMul and Gemm layers by GPTQ, where that does better on batches that were held out.

    Args:
        graph: the graph in float.
        layers: its layers that will compute in integers; `compensated` names the ones that GPTQ rounds.
        bits: the bits of the integers.
        batches: the inputs, one batch after another.
        context: the context that progress is reported to.
        first: the moments of what the first layer that GPTQ rounds reads in the batches, where they are known already.

    Returns:
        The weights that GPTQ has rounded, and a sentence for each layer that is rounded to the nearest instead.
    """
    weights: dict[WeightKey, IntegerWeight] = {}
    chosen = compensated(layers)
    misses = [
        f"{layer.node.location}: plain rounding, since GPTQ of {len(layer.matrix)} input channels takes too long"
        for layer in _matrices(layers)
        if layer not in chosen
    ]

    def visit(readers: Sequence[Layer], moments: Moments) -> Mapping[Layer, np.ndarray]:
        found: dict[Layer, np.ndarray] = {}
        for layer in readers:
            nearest = quantize_weight(layer.weight.data, layer.axis, bits)
            made = _rounded(layer, bits, moments.shrunk, context)
            plain, floats = _matrix(layer, nearest), _matrix(layer, made)
            if moments.error(floats, layer.matrix) < moments.error(plain, layer.matrix):
                weights[layer.key], found[layer] = made, floats
            else:
                misses.append(f"{layer.node.location}: plain rounding does better on held-out inputs")
                found[layer] = plain
        return found

    if chosen:
        sweep(graph, chosen, batches, context, visit, first)
    return weights, misses


def compensated(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that multiply matrices and aren't too deep, without those that share a weight with others."""
    return [layer for layer in _matrices(layers) if len(layer.matrix) <= _DEEPEST]


def _matrices(layers: Sequence[Layer]) -> list[Layer]:
    return [layer for layer in layers if layer.node.operator != "Conv" and not layer.shares_weight]


def _rounded(layer: Layer, bits: int, moments: np.ndarray, context: PassContext) -> IntegerWeight:
    """A layer's weight on a grid around 0 for each output channel."""
    scheme = BlockScheme(bits, 0, symmetric=True)

    def compute() -> list[np.ndarray]:
        found = gptq(layer.matrix, scheme, moments, activation_order=True, damping=DAMPING)
        made = IntegerWeight.of(found, layer.weight.data.shape, layer.axis)
        return [made.data, made.scale]

    data, scale = context.remember(compute)
    return IntegerWeight(data, scale, layer.axis)


def _matrix(layer: Layer, weight: IntegerWeight) -> np.ndarray:
    """The dequantized weight that a layer multiplies by, `[K, N]`."""
    return (weight.data if layer.axis == 1 else weight.data.T) * weight.scale
