"""Activation-aware scaling: channels that matter are made larger in weights, and smaller where they come from."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Interval

from ...ir.block_weight import BlockScheme, BlockWeight
from ...ir.graph import Graph
from ..base import Effect, Pass, PassContext, PassResult
from .channel_sources import ChannelSource, channel_source, divide, replace_constant
from .layers import Layer, select_layers
from .round_weights import calibration, check_block, require_calibration
from .sweep import Moments, sweep

_EXPONENTS = np.linspace(0, 1, 11)[1:]
_LARGEST_SCALE = 1e4
_COLUMNS = 256
"""How many columns of the widest weight scales are chosen by; whether they gain anything is told by all."""


@dataclass(frozen=True)
class Awq(Pass):
    """Scale the input channels of layers whose weights are to be rounded, so that those that matter are rounded less.

    The scales are taken back where the channels come from: in the weights of a normalization, or of the layer before an
    elementwise product, a Relu or attention; so the model computes what it did. Channels are scaled by a power of the
    size of their activations, the one that makes the error of the rounded layers least (Lin et al., "AWQ:
    Activation-aware Weight Quantization for LLM Compression and Acceleration", MLSys 2024). It comes before a pass that
    rounds weights, with the same bits and block.

    Attributes:
        bits: the bits of a code that weights will be rounded to.
        block: how many weights of a column will share a scale and a zero point.
        samples: the number of calibration samples that are used; 0 for all.
    """

    name: ClassVar[str] = "awq"
    effect: ClassVar[Effect] = Effect.ROUNDING
    needs: ClassVar[frozenset[str]] = frozenset({"float"})
    after: ClassVar[tuple[str, ...]] = ("fold-constants", "fuse-batch-norm")
    bits: Annotated[int, Interval(ge=2, le=8)] = 4
    block: Annotated[int, Ge(0)] = 64
    samples: Annotated[int, Ge(0)] = 0

    def require(self, context: PassContext) -> None:
        require_calibration(self.name, context)
        check_block(self.name, self.block)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        self.require(context)
        selection = select_layers(graph, frozenset({"MatMul", "Gemm"}), context)
        found: list[tuple[Sequence[Layer], ChannelSource, np.ndarray]] = []
        counts: Counter[str] = Counter()
        misses: list[str] = []

        def visit(layers: Sequence[Layer], moments: Moments) -> Mapping[Layer, np.ndarray]:
            source, place = channel_source(layers), layers[0].node.location
            if any(layer.shares_weight for layer in layers):
                source = "others read the same weight"
            if isinstance(source, str):
                misses.append(f"{place}: its channels aren't scaled: {source}")
            elif (scales := self._scales([layer.matrix for layer in layers], source, moments)) is None:
                misses.append(f"{place}: its channels aren't scaled: nothing is gained on held-out inputs")
            elif context.applies("scale", layers[0].node):
                found.append((layers, source, scales))
            return {}

        sweep(graph, selection.layers, calibration(context, self.samples), context, visit)
        for layers, source, scales in found:
            self._apply(graph, layers, source, scales)
            counts["scaled"] += 1
        return PassResult(counts, misses)

    def _scales(self, weights: Sequence[np.ndarray], source: ChannelSource, moments: Moments) -> np.ndarray | None:
        """The scales of the source's channels with the least error; None where they gain nothing on held-out inputs."""
        scheme, ones = BlockScheme(self.bits, self.block), np.ones(source.size, np.float32)

        def error(weights: Sequence[np.ndarray], scales: np.ndarray, matrix: np.ndarray) -> float:
            """The error of the layers' outputs, by a matrix of second moments."""
            rows = scales[source.channels, None]
            changes = (BlockWeight.nearest(weight * rows, scheme).floats / rows - weight for weight in weights)
            return sum(float(np.vdot(change, matrix @ change)) for change in changes)

        few = _some_columns(weights)
        tried = [ones, *self._tried(weights, source, moments)]
        best = min(tried, key=lambda scales: error(few, scales, moments.fit))
        is_better = error(weights, best, moments.held_out) < error(weights, ones, moments.held_out)
        return best if is_better else None

    def _tried(self, weights: Sequence[np.ndarray], source: ChannelSource, moments: Moments) -> Iterator[np.ndarray]:
        size = source.mean(np.sqrt(np.diagonal(moments.fit)))
        ratios = [np.abs(weight).mean(axis=1) / (np.abs(weight).mean() or 1) for weight in weights]
        weight = source.mean(np.mean(ratios, axis=0))
        least = 1e-4 * (size.max() or 1)
        for exponent in _EXPONENTS:
            for divisor in (1, np.maximum(weight, 1e-4) ** (1 - exponent)):
                scales = np.maximum(size, least) ** exponent / divisor
                scales /= np.sqrt(scales.max() * scales.min())
                yield np.clip(scales, 1 / _LARGEST_SCALE, _LARGEST_SCALE).astype(np.float32)

    def _apply(self, graph: Graph, layers: Sequence[Layer], source: ChannelSource, scales: np.ndarray) -> None:
        for layer in layers:
            rows = scales[source.channels]
            replace_constant(graph, layer.node, 1, layer.weight.data * (rows if layer.axis == 0 else rows[:, None]))
        divide(graph, source, scales)


def _some_columns(weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same share of each weight's columns, drawn at random, as those of a head lie in patterns."""
    share, generator = min(_COLUMNS / max(weight.shape[1] for weight in weights), 1), np.random.default_rng(0)
    return [weight[:, generator.permutation(weight.shape[1])[: ceil(share * weight.shape[1])]] for weight in weights]
