"""What methods that round weights alone have in common: which layers they round, and the judge of what they make."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Interval

from ...ir.block_weight import BlockScheme, BlockWeight
from ...ir.errors import UsageError
from ...ir.graph import Graph
from ..base import Effect, Feeds, Pass, PassContext, PassResult
from ..judge import Reference
from .calibrate import first_batches
from .correct_biases import CORRECTED_ON, ChannelMeans
from .directions import Directions, directions
from .embeddings import quantize_embeddings
from .given_grid import given_grid
from .layers import Layer, WeightKey, scheme_of, select_layers
from .sweep import Moments, sweep
from .weights import quantize_weights


def check_block(name: str, block: int) -> None:
    """Refuse blocks of sizes that runtimes have no products for."""
    if block and (block < 16 or block.bit_count() != 1):
        raise UsageError(f"option block of pass {name} must be 0 or a power of two from 16, not {block}")


def require_calibration(name: str, context: PassContext) -> None:
    """Refuse to choose roundings without inputs."""
    if not context.calibration:
        raise UsageError(
            f"{name} needs to know what layers read and got no inputs; give calibration data "
            "(`data: {calibration: ...}` in a recipe, `-d DATA` on the command line)"
        )


def calibration(context: PassContext, samples: int) -> Sequence[Feeds]:
    """The calibration batches that hold the first samples; all for 0."""
    return first_batches(context, samples) if samples else context.calibration


@dataclass(frozen=True, kw_only=True)
class WeightRounding(Pass):
    """A pass that rounds the weights of MatMul and Gemm layers by a method of its own, where that does better.

    On inputs that the method hasn't seen, the error of a layer's output is compared with that of rounding each weight
    to the nearest code, over each block's whole range and over clipped ones; the least wins.
    """

    effect: ClassVar[Effect] = Effect.LOSSY
    destroys: ClassVar[frozenset[str]] = frozenset({"float"})
    after: ClassVar[tuple[str, ...]] = ("fold-constants", "fuse-batch-norm")
    bits: Annotated[int, Interval(ge=2, le=8)] = 4
    block: Annotated[int, Ge(0)] = 64
    samples: Annotated[int, Ge(0)] = 0
    asymmetry: Annotated[float, Interval(ge=0, le=1)] = 0.25
    sideways: bool = True
    correct_biases: bool = True
    required: bool = True

    def require(self, context: PassContext) -> None:
        require_calibration(self.name, context)
        check_block(self.name, self.block)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        self.require(context)
        stored_bits = BlockScheme(self.bits, self.block).stored_bits
        profitable = context.target.weight_operators(stored_bits)
        if not profitable:
            return PassResult(misses=[context.target.lacks_weights(stored_bits)])
        counts: Counter[str] = Counter()
        selection = select_layers(graph, profitable, context)
        rounded: dict[WeightKey, BlockWeight] = {}
        misses = [*selection.misses]

        def visit(layers: Sequence[Layer], moments: Moments) -> Mapping[Layer, np.ndarray]:
            for layer in layers:
                if layer.key not in rounded:
                    rounded[layer.key], kind = self._best(layer, moments, directions_of(layer))
                    counts[kind] += 1
                    if kind in ("plain", "clipped"):
                        misses.append(f"{layer.node.location}: {kind} rounding does better on held-out inputs")
            return {layer: rounded[layer.key].floats for layer in layers}

        batches = calibration(context, self.samples)
        drawn = directions(graph, selection.layers, batches, context) if self.sideways else nullcontext(lambda _: None)
        with drawn as directions_of:
            sweep(graph, selection.layers, batches, context, visit, asymmetry=self.asymmetry)
        few = first_batches(context, CORRECTED_ON) if self.correct_biases else []
        means = ChannelMeans.of(graph, selection.layers, few, context)
        tables = quantize_weights(graph, selection.layers, rounded)
        counts["biases"] = means.correct(Reference(graph), few, context)
        counts["embeddings"], others = quantize_embeddings(graph, context, tables)
        return PassResult(counts, [*misses, *others])

    @abstractmethod
    def round(
        self, weight: np.ndarray, scheme: BlockScheme, moments: Moments, directions: Directions | None
    ) -> Iterable[BlockWeight]:
        """Round a matrix `[K, N]` in one way or several; a method must not use what is held out.

        Args:
            weight: the matrix, float32.
            scheme: the blocks and codes.
            moments: the moments of its inputs.
            directions: the directions in which errors of its outputs matter; None if all count alike.
        """

    def _best(self, layer: Layer, moments: Moments, directions: Directions | None) -> tuple[BlockWeight, str]:
        """The weight that does best on held-out inputs, and its rounding: `plain`, `clipped`, or the method's name.

        Weights that lie on a grid already (`given`) need no judge.
        """
        weight, scheme = layer.matrix, scheme_of(layer, BlockScheme(self.bits, self.block))
        if (given := given_grid(weight, scheme)) is not None:
            return given, "given"
        found = [
            *((one, self.name) for one in self.round(weight, scheme, moments, directions)),
            (BlockWeight.over(weight, scheme, np.diagonal(moments.fit)), "clipped"),
            (BlockWeight.nearest(weight, scheme), "plain"),
        ]
        if directions is None:
            return min(found, key=lambda pair: moments.error(pair[0].floats, weight))
        along = directions.held_out.T
        aim = weight @ along
        return min(found, key=lambda pair: moments.error(pair[0].floats @ along, aim))
