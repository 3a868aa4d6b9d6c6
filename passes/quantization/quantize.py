"""Quantization to 8-bit integers, and of weights alone to 8 bits and fewer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge

from ...ir.block_weight import BlockScheme, BlockWeight
from ...ir.graph import Constant, Graph, Value
from ...ir.quantization import QuantParams
from ...ir.types import DType
from ...targets import Int8
from ..base import Effect, Pass, PassContext, PassResult
from .calibrate import calibrate, first_batches
from .clipping import widen
from .correct_biases import correct_biases
from .dynamic import quantize_dynamically
from .embeddings import Lookup, quantize_embeddings
from .given_grid import given_grid
from .image_means import pool_image_means
from .layers import Layer, Selection, WeightKey, select_layers
from .logarithms import before_logarithms
from .observers import OBSERVERS
from .plan import Plan, make_plan
from .recurrent import quantize_recurrent
from .round_weights import check_block
from .smooth import smooth
from .static import StaticQuantizer
from .weights import quantize_weights

_CORRECTED_ON = 32  # samples: means settle sooner than ranges
_WEIGHT_BITS = {"int8-weights": 8, "int4": 4, "int3": 3, "int2": 2}
"""The bits of the schemes that leave activations alone."""


@dataclass(frozen=True)
class Quantize(Pass):
    """Compute Conv, Gemm and MatMul in 8-bit integers, or with weights of few bits, where the target gains by that.

    Large embedding tables are stored in integers as well: those that a head multiplies by, too, once for both, others
    in int8, as are the weights of recurrent layers. The mean over an image becomes GlobalAveragePool where that has an
    integer kernel (Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", CVPR 2018; for the biases, Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
    Correction", ICCV 2019).

    Attributes:
        scheme: `int8` fixes the range of every activation beforehand, from calibration data; `int8-dynamic` finds it
            anew at run time, for MatMul and Gemm only; `int8-weights`, `int4`, `int3` and `int2` store their weights in
            as many bits (3 take up 4) and leave activations in float, for models that read each weight for a few rows
            at a time, as those that generate text do. For `int8-weights` and `int2`, TVM has no kernels yet, and
            multiplies by floats.
        block: of the schemes for weights alone, how many weights of a column share a scale and a zero point, which have
            the least squared error; a power of two from 16, or 0 for whole columns. The last one may be shorter.
        symmetric: of these, whether all zero points are the middle, so that none are stored.
        observer: how calibration chooses ranges: `minmax`, `percentile` (all but 0.001 %), or `mse` (least squared
            error).
        per_channel: a scale for each output channel's weights, instead of one for the whole weight.
        per_row: in `int8-dynamic`, a grid for each row of an activation (a token's features), instead of one for all
            rows. planish's kernels for TVM do that; ONNX Runtime has none for it.
        smooth: divide channels of a MatMul's or Gemm's activation that reach far beyond the others, and multiply the
            weights, where that is predicted to halve the error.
        correct_biases: take back by the layers' biases what rounding shifted the mean of each channel by.
        samples: of the calibration data that are used.
    """

    name: ClassVar[str] = "quantize"
    effect: ClassVar[Effect] = Effect.LOSSY
    destroys: ClassVar[frozenset[str]] = frozenset({"float"})
    after: ClassVar[tuple[str, ...]] = ("fold-constants", "fuse-batch-norm")
    scheme: Literal["int8", "int8-dynamic", "int8-weights", "int4", "int3", "int2"] = "int8"
    block: Annotated[int, Ge(0)] = 32
    symmetric: bool = False
    observer: Literal["minmax", "percentile", "mse"] = "percentile"
    per_channel: bool = True
    per_row: bool = False
    smooth: bool = True
    correct_biases: bool = True
    samples: Annotated[int, Ge(1)] = 128

    required: bool = field(default=True, kw_only=True)

    def require(self, context: PassContext) -> None:
        if self.scheme == "int8" and context.target.int8 is not None:
            first_batches(context, 1)
        if self.scheme in _WEIGHT_BITS:
            self._block_scheme()

    def _block_scheme(self) -> BlockScheme:
        """What weights alone are put into.

        Raises:
            UsageError: no runtime knows such blocks.
        """
        check_block(self.name, self.block)
        return BlockScheme(_WEIGHT_BITS[self.scheme], self.block, self.symmetric)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        if self.scheme in _WEIGHT_BITS:
            return self._run_on_weights(graph, context)
        int8 = context.target.int8
        if int8 is None:
            return PassResult(misses=[f"8-bit kernels were not measured on {context.target.name}"])
        static = self.scheme == "int8"
        profitable = profitable_operators(int8, static=static)
        counts = {"means": pool_image_means(graph)} if "GlobalAveragePool" in profitable else {}
        selection = static_layers(graph, profitable, context) if static else select_layers(graph, profitable, context)
        counts["layers"] = len(selection.layers)
        tables: dict[Constant, Lookup] = {}
        if static:
            counts |= self._run_static(graph, context, int8, selection.layers, profitable, tables)
        else:
            tables = quantize_dynamically(graph, selection.layers, int8.weight_bits, self.per_channel, self.per_row)
        return _with_what_is_stored(graph, context, tables, PassResult(counts, selection.misses))

    def _run_on_weights(self, graph: Graph, context: PassContext) -> PassResult:
        scheme = self._block_scheme()
        profitable = _union(context.target.weights.get(scheme.stored_bits, {}))
        if not profitable:
            bits, name = scheme.stored_bits, context.target.name
            return PassResult(misses=[f"products with weights in {bits} bits were not measured on {name}"])
        selection = select_layers(graph, profitable, context)
        sharing: dict[WeightKey, list[Layer]] = {}
        for layer in selection.layers:
            sharing.setdefault(layer.key, []).append(layer)
        tables: dict[Constant, Lookup] = {}
        for done, (key, layers) in enumerate(sharing.items()):  # one weight at a time is held beside the graph
            context.progress("rounding weights", done, len(sharing))
            tables |= quantize_weights(graph, layers, {key: _rounded(layers[0].matrix, scheme)})
        found = PassResult({"layers": len(selection.layers)}, selection.misses)
        return _with_what_is_stored(graph, context, tables, found)

    def _run_static(
        self,
        graph: Graph,
        context: PassContext,
        int8: Int8,
        layers: Sequence[Layer],
        profitable: frozenset[str],
        tables: dict[Constant, Lookup],
    ) -> dict[str, int]:
        prepared = self.prepare(graph, layers, int8, profitable, context)
        if not prepared.plan.reads:
            return {}
        counts = {"smoothed": prepared.smoothed} if self.smooth else {}
        before = graph.clone()
        tables |= prepared.quantizer(graph, int8, self.per_channel).rewrite(prepared.layers)
        counts |= {"activations": len(prepared.plan.reads), "carriers": len(prepared.plan.carriers)}
        if self.correct_biases:
            few = first_batches(context, min(self.samples, _CORRECTED_ON))
            counts["biases"] = correct_biases(before, graph, prepared.layers, few, context)
        return counts

    def prepare(
        self, graph: Graph, layers: Sequence[Layer], int8: Int8, profitable: frozenset[str], context: PassContext
    ) -> "Prepared":
        """Do what comes before rounding: a graph that computes what it did, and the grid of each value."""
        plan, smoothed = make_plan(graph, layers, profitable), 0
        if not plan.reads:
            return Prepared(layers, plan, {}, smoothed)
        batches = first_batches(context, self.samples)
        if self.smooth:
            layers, smoothed = smooth(graph, layers, plan, batches, context)
            plan = make_plan(graph, layers, profitable)
        watched = {value: bounds for value, bounds in plan.bounds.items() if plan.root(value) is value}
        ranges = calibrate(graph, watched, OBSERVERS[self.observer], batches, context)
        activation = DType[int8.activation]
        grids = {
            value: QuantParams.over(*widen(ranges[value], bounds), activation) for value, bounds in watched.items()
        }
        return Prepared(layers, plan, grids, smoothed)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What static quantization of a graph is about to do.

    Attributes:
        layers: that compute in integers.
        plan: what is quantized where.
        grids: of the plan's values, without those that share another's.
        smoothed: how many activations were smoothed.
    """

    layers: Sequence[Layer]
    plan: Plan
    grids: Mapping[Value, QuantParams]
    smoothed: int

    def quantizer(self, graph: Graph, int8: Int8, per_channel: bool) -> StaticQuantizer:
        """What rewrites the graph."""
        return StaticQuantizer(graph, self.plan, self.grids, int8.weight_bits, per_channel)


def _with_what_is_stored(
    graph: Graph, context: PassContext, tables: dict[Constant, Lookup], found: PassResult
) -> PassResult:
    """Store embeddings and recurrent weights in integers as well, and add that to what was found."""
    embeddings, tables_left = quantize_embeddings(graph, context, tables)
    recurrent, layers_left = quantize_recurrent(graph, context)
    counts = {**found.counts, "embeddings": embeddings, "recurrent": recurrent}
    return PassResult(counts, [*found.misses, *tables_left, *layers_left])


def _rounded(weight: np.ndarray, scheme: BlockScheme) -> BlockWeight:
    """A weight as it is where it lies on a grid already, and otherwise with the least squared error."""
    return given_grid(weight, scheme) or BlockWeight.over(weight, scheme)


def profitable_operators(int8: Int8, *, static: bool) -> frozenset[str]:
    """The operators that pay off in integers, with ranges fixed beforehand or found at run time."""
    return _union(int8.operators if static else int8.dynamic_operators)


def static_layers(graph: Graph, operators: frozenset[str], context: PassContext) -> Selection:
    """The layers whose activations can have ranges fixed beforehand, with a sentence for each of the others.

    Those are left out whose results reach a logarithm.
    """
    selection = select_layers(graph, operators, context)
    barred = before_logarithms(graph)
    misses = [
        f"{layer.node.location}: {layer.node.operator} stays in float: a logarithm tells its small results apart"
        for layer in selection.layers
        if layer.node in barred
    ]
    return Selection([layer for layer in selection.layers if layer.node not in barred], [*selection.misses, *misses])


def _union(by_backend: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """What pays off on some backend: which one the graph is lowered to is chosen later."""
    return frozenset[str]().union(*by_backend.values())
