"""Quantization to 8-bit integers, and of weights alone to 8 bits and fewer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Interval

from ...ir.block_weight import BlockScheme, BlockWeight
from ...ir.graph import Constant, Graph, Value
from ...ir.quantization import IntegerWeight, QuantParams
from ...ir.types import DType
from ...targets import Int8
from ..base import Effect, Feeds, Pass, PassContext, PassResult, Profiler
from ..debug_counter import DebugCounter
from ..judge import Reference
from ..probes import make_probes
from ..profit import slower
from .calibrate import Calibration, See, first_batches
from .clipping import Bounds, widen
from .compensate import compensate
from .correct_biases import CORRECTED_ON, ChannelMeans
from .dynamic import quantize_dynamically
from .embeddings import Lookup, quantize_embeddings
from .equalize import Equalization
from .given_grid import given_grid
from .image_means import pool_image_means
from .input_powers import input_powers
from .layers import Layer, SelectedLayers, WeightKey, scheme_of, select_layers
from .logarithms import before_logarithms
from .losses import last_batches, losses
from .observed import Observed, unstretched
from .observers import OBSERVERS, MinMaxObserver
from .plan import make_plan
from .prepared import Prepared
from .reconstruct import RECONSTRUCTED_ON, reconstruct
from .recurrent import quantize_recurrent
from .recurrent_products import quantize_lstms
from .round_weights import check_block
from .rounding import Rounding, name_of
from .slow_layers import slow_layers
from .smooth import Smoothed, Smoothing
from .sweep import Moments
from .weights import quantize_weights

_COMPENSATED_ON = 64  # samples; as many texts have more rows than a layer of MiniLM has channels
_WEIGHT_BITS = {"int8-weights": 8, "int4": 4, "int3": 3, "int2": 2}
"""The bits of the schemes that leave activations alone."""
_REFINEMENTS = ("smooth", "equalize", "gptq", "correct_biases", "reconstruct")
"""The options that lower errors without changing which layers compute in integers."""


@dataclass(frozen=True)
class Quantize(Pass):
    """Compute Conv, Gemm and MatMul in 8-bit integers, or with weights of few bits, where the target gains by that.

    A layer whose activations a few samples of the calibration data stretch beyond what 8 bits hold stays in float, and
    so do, in `int8`, layers without which the model is measured to be faster on the backend that it is built for.
    Large embedding tables are stored in integers as well: one that a head multiplies by, too, once for both, others in
    int8, as are the weights of recurrent layers. In `int8` and `int8-dynamic`, an LSTM multiplies by int8 at run time
    where that is measured to be faster and loses at most 0.5 % of its output's power on calibration data. The mean over
    an image becomes GlobalAveragePool where that has an integer kernel (Jacob et al., "Quantization and Training of
    Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018; for the biases, Nagel et al.,
    "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019).

    Attributes:
        scheme: `int8` fixes the range of every activation beforehand, from calibration data; `int8-dynamic` finds it
            anew at run time, for MatMul and Gemm only; `int8-weights`, `int4`, `int3` and `int2` store weights alone in
            as many bits (3 take up 4) and leave activations in float, for models that read each weight for a few rows
            at a time, as those that generate text do. An embedding table that a head multiplies by has 8 bits in each.
        block: how many weights of a column share a scale and a zero point, in the schemes for weights alone; a power of
            two from 16, or 0 for whole columns. The last block may be shorter. In fewer than 8 bits, scales are chosen
            for the least error of what the layer computes on calibration data, or else on random inputs.
        symmetric: whether, in the schemes for weights alone, all zero points are the middle code, and none are stored.
        observer: how calibration chooses ranges: `minmax` (all that was seen), `percentile` (all but 0.001 %), or `mse`
            (least squared error).
        per_channel: a scale for each output channel's weights, instead of one for the whole weight.
        per_row: a grid for each row of an activation (a token's features), instead of one for all rows, in
            `int8-dynamic`. planish's kernels for TVM do that; ONNX Runtime has none for it.
        smooth: divide channels of a MatMul's or Gemm's activation that reach far beyond the others, and multiply the
            weights, where that is predicted to halve the error, or, with `per_row`, to lower it by a fifth.
        equalize: even out the channels of what convolutions read, by the weights before and behind, as far as that
            lowers the errors that are measured on held-out inputs; for weights `per_channel` only.
        gptq: round the weights of MatMul and Gemm, with a scale for each channel, as the pass `gptq` does, where that
            makes less of an error on inputs that were held out.
        correct_biases: correct the layers' biases for the shift of each channel's mean that rounding causes; in the
            schemes for weights alone, only where calibration data are given.
        reconstruct: fit the weights and biases of convolutions to their inputs as rounding leaves them, and round them
            as `gptq` does, where that lowers the error on inputs that were held out; for `int8` and weights
            `per_channel` only.
        samples: the number of calibration samples that are used.
        weight_bits: the bits of weights in `int8` and `int8-dynamic`, fewer where the target's kernels saturate. 4 or
            fewer take up half the bytes of 8 in the model's file, and all of them at run time, at the speed of 8.
        if_slower: what becomes of what `int8` or `int8-dynamic` makes slower on the backend that the model is built
            for, as timed in turn: `revert` leaves the model in float, or in `int8` the layers without which it is
            faster; `keep` takes all in integers, for their size.
    """

    name: ClassVar[str] = "quantize"
    effect: ClassVar[Effect] = Effect.LOSSY
    destroys: ClassVar[frozenset[str]] = frozenset({"float"})
    after: ClassVar[tuple[str, ...]] = ("fold-constants", "fuse-batch-norm")
    scheme: Literal["int8", "int8-dynamic", "int8-weights", "int4", "int3", "int2"] = "int8"
    block: Annotated[int, Ge(0)] = 32
    symmetric: bool = False
    observer: Literal["minmax", "percentile", "mse"] = "minmax"
    per_channel: bool = True
    per_row: bool = False
    smooth: bool = True
    equalize: bool = True
    gptq: bool = True
    correct_biases: bool = True
    reconstruct: bool = True
    samples: Annotated[int, Ge(1)] = 128
    weight_bits: Annotated[int, Interval(ge=2, le=8)] = 8
    if_slower: Literal["revert", "keep"] = "revert"

    required: bool = field(default=True, kw_only=True)

    def require(self, context: PassContext) -> None:
        if self.scheme == "int8" and context.target.int8 is not None:
            first_batches(context, 1)
        if self.scheme in _WEIGHT_BITS:
            self._block_scheme()

    def _block_scheme(self) -> BlockScheme:
        """The blocks and codes that weights alone are put into.

        Raises:
            UsageError: no runtime knows such blocks.
        """
        check_block(self.name, self.block)
        return BlockScheme(_WEIGHT_BITS[self.scheme], self.block, self.symmetric)

    def foresee(self, graph: Graph, context: PassContext) -> PassResult:
        is_static, int8 = self.scheme == "int8", context.target.int8
        if self.scheme in _WEIGHT_BITS:
            operators = context.target.weight_operators(self._block_scheme().stored_bits)
        else:
            operators = frozenset() if int8 is None else int8.profitable_operators(static=is_static)
        selection = (static_layers if is_static else select_layers)(graph, operators, context)
        return PassResult({"layers": len(selection.layers)}, selection.misses)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        if self.scheme in _WEIGHT_BITS:
            return self._run_on_weights(graph, context)
        profile = context.profile
        if profile is None or not context.profile_decides or self.if_slower == "keep":
            return self._run_in_integers(graph, context)
        left = self._left_in_float(graph, context, profile)
        context = replace(context, selection=context.selection.without(left))
        before, sketch = graph.clone(), graph.clone()
        drawn = self._draw(sketch, context)
        reason = slower(profile, before, sketch) if drawn.changed else ""
        found = PassResult() if reason else self._run_in_integers(graph, context)
        if found.changed and not _is_as_fast(found, drawn):
            reason = slower(profile, before, graph)
        if not reason:
            return replace(found, misses=[*left.values(), *found.misses])
        graph.become(before)
        return PassResult(misses=[f"{reason}; if_slower=keep (--if-slower keep) quantizes it anyway, for its size"])

    def _left_in_float(self, graph: Graph, context: PassContext, profile: Profiler) -> Mapping[str, str]:
        """A sentence for each layer without which the model is faster, by the name of the layer's output."""
        int8 = context.target.int8
        if self.scheme != "int8" or int8 is None:
            return {}
        operators = int8.profitable_operators(static=True)

        def prepare(copy: Graph, surroundings: PassContext) -> Rounding:
            pool_image_means(copy, operators)
            layers = static_layers(copy, operators, surroundings).layers
            return self._quick.prepare(copy, layers, int8, operators, surroundings).rounding(copy, operators, int8)

        left = slow_layers(graph, context, profile, prepare)
        return {
            name_of(node): f"{node.location}: {node.operator} stays in float: with it in int8, the model takes longer"
            for node in graph.nodes
            if name_of(node) in left
        }

    @property
    def _quick(self) -> "Quantize":
        """The same pass for graphs that are only timed: without what lowers errors."""
        return replace(self, observer="minmax", required=False, **dict.fromkeys(_REFINEMENTS, False))

    def _draw(self, graph: Graph, context: PassContext) -> PassResult:
        """Quantize a graph that is only timed: with the ranges of a few samples, and without what lowers errors."""
        few = make_probes(graph, context.calibration, count=1) if context.calibration else ()
        surroundings = replace(context, calibration=few, labels=(), labelled=None, counter=DebugCounter(), profile=None)
        return self._quick._run_in_integers(graph, surroundings)

    def _run_in_integers(self, graph: Graph, context: PassContext) -> PassResult:
        int8 = context.target.int8
        if int8 is None:
            return PassResult(misses=[context.target.lacks_int8])
        int8 = replace(int8, weight_bits=min(self.weight_bits, int8.weight_bits))
        static = self.scheme == "int8"
        profitable = int8.profitable_operators(static=static)
        counts = {"means": pool_image_means(graph, profitable)}
        selection = static_layers(graph, profitable, context) if static else select_layers(graph, profitable, context)
        counts["layers"] = len(selection.layers)
        tables: dict[Constant, Lookup] = {}
        if static:
            found = self._run_static(graph, context, int8, selection.layers, profitable, tables)
        else:
            found = self._run_dynamic(graph, context, int8.weight_bits, selection.layers, tables)
        misses = [*selection.misses, *found.misses]
        if "LSTM" in int8.profitable_operators(static=False):
            counts["lstms"], left = quantize_lstms(graph, context, int8.weight_bits)
            misses += left
        found = PassResult({**counts, **found.counts}, misses, found.notes)
        return _with_what_is_stored(graph, context, tables, found)

    def _run_on_weights(self, graph: Graph, context: PassContext) -> PassResult:
        scheme = self._block_scheme()
        profitable = context.target.weight_operators(scheme.stored_bits)
        if not profitable:
            return PassResult(misses=[context.target.lacks_weights(scheme.stored_bits)])
        selection = select_layers(graph, profitable, context)
        sharing: dict[WeightKey, list[Layer]] = {}
        for layer in selection.layers:
            sharing.setdefault(layer.key, []).append(layer)
        tables: dict[Constant, Lookup] = {}
        batches = first_batches(context, min(self.samples, CORRECTED_ON)) if context.calibration else []
        powers = input_powers(graph, sharing, batches, context) if scheme.bits < 8 else {}
        few = batches if self.correct_biases else []
        means = ChannelMeans.of(graph, selection.layers, few, context)
        for done, (key, layers) in enumerate(sharing.items()):  # one weight at a time is held beside the graph
            context.progress("rounding weights", done, len(sharing))
            weight, own = layers[0].matrix, scheme_of(layers[0], scheme)
            rounded = given_grid(weight, own) or BlockWeight.over(weight, own, powers.get(key))
            tables |= quantize_weights(graph, layers, {key: rounded})
        counts = {"layers": len(selection.layers)}
        if few:
            counts["biases"] = means.correct(Reference(graph), few, context)
        found = PassResult(counts, selection.misses)
        return _with_what_is_stored(graph, context, tables, found)

    def _run_static(
        self,
        graph: Graph,
        context: PassContext,
        int8: Int8,
        layers: Sequence[Layer],
        profitable: frozenset[str],
        tables: dict[Constant, Lookup],
    ) -> PassResult:
        prepared = self.prepare(graph, layers, int8, profitable, context)
        observed = prepared.observed
        if observed is None or not prepared.plan.reads:
            return PassResult({"layers": 0}, prepared.misses)
        observed.graph.detach()
        tables |= prepared.quantizer(graph, int8, self.per_channel).rewrite(prepared.layers)
        counts = {
            **prepared.counts,
            "layers": len(prepared.layers),
            "activations": len(prepared.plan.reads),
            "carriers": len(prepared.plan.carriers),
            "gptq": len(prepared.rounded),
        }
        last = last_batches(context)
        made = Reference(graph, last)
        if self.reconstruct and self.per_channel:
            batches = first_batches(context, min(self.samples, RECONSTRUCTED_ON))
            counts["reconstructed"] = reconstruct(observed.graph.graph, graph, batches, int8.weight_bits, context)
            made.renew(graph)
        if self.correct_biases:
            few = first_batches(context, min(self.samples, CORRECTED_ON))
            counts["biases"] = observed.means.correct(made, few, context)
        return PassResult(counts, prepared.misses, losses(observed.graph, made, last))

    def prepare(
        self, graph: Graph, layers: Sequence[Layer], int8: Int8, profitable: frozenset[str], context: PassContext
    ) -> Prepared:
        """Do what comes before rounding: transform the graph equivalently, and choose each value's grid."""
        plan = make_plan(graph, layers, profitable)
        if not plan.reads:
            return Prepared(layers, plan, {}, {}, {}, [], None)
        batches = first_batches(context, self.samples)
        counts: dict[str, int] = {}
        misses: list[str] = []
        if self.equalize and self.per_channel:
            even = Equalization(graph, layers, plan, batches, int8)
            ends = Calibration(plan.roots, MinMaxObserver, batches)
            even.fit(context, [ends.see])
            layers, misses = unstretched(graph, ends.found, layers, plan)
            if misses:  # the samples that stretch these layers would mislead the others
                even = Equalization(graph, layers, make_plan(graph, layers, profitable), batches, int8)
                even.fit(context)
            layers, counts["equalized"] = even.apply(context)
            plan = make_plan(graph, layers, profitable)
        smoothing = Smoothing(graph, layers) if self.smooth else None
        first = plan.roots
        observed = self._observe(graph, layers, first, batches, context, [smoothing.see] if smoothing else ())
        layers, others = unstretched(graph, observed.seen, layers, plan)
        plan = make_plan(graph, layers, profitable)
        smoothed: dict[Value, Smoothed] = {}
        if smoothing is not None:
            layers, smoothed = smoothing.apply(layers, plan.returned, context, gptq=self._compensates)
            counts["smoothed"] = len(smoothed)
            plan = make_plan(graph, layers, profitable)
        roots = {value: bounds for value, bounds in plan.roots.items() if value not in smoothed}
        # a division of its own leaves all other values as they were seen; one at the source does not
        is_seen = all(it.scale is not None for it in smoothed.values()) and roots.items() <= first.items()
        if others or not is_seen:
            observed = self._observe(graph, layers, roots, batches, context)
        ranges = {value: found.range for value, found in observed.seen.items()}
        ranges |= {value: found.range for value, found in smoothed.items()}
        activation = DType[int8.activation]
        grids = {
            value: QuantParams.over(*widen(ranges[value], bounds), activation) for value, bounds in plan.roots.items()
        }
        moments = observed.moments(smoothed.values())
        rounded, uncompensated = self._compensate(graph, context, layers, int8.weight_bits, moments)
        return Prepared(layers, plan, grids, rounded, counts, [*misses, *others, *uncompensated], observed)

    def _observe(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        roots: Mapping[Value, Bounds],
        batches: Sequence[Feeds],
        context: PassContext,
        others: Sequence[See] = (),
    ) -> Observed:
        calibration = Calibration(roots, OBSERVERS[self.observer], batches)
        count = len(self._compensated_on(context)) if self._compensates else 0
        reference = Reference(graph, last_batches(context))
        return Observed.of(reference, layers, calibration, batches, context, compensated_on=count, others=others)

    def _run_dynamic(
        self,
        graph: Graph,
        context: PassContext,
        weight_bits: int,
        layers: Sequence[Layer],
        tables: dict[Constant, Lookup],
    ) -> PassResult:
        """Quantize with what calibration data tells, if there are any."""
        counts: dict[str, int] = {}
        if self.smooth and context.calibration:
            smoothing = Smoothing(graph, layers, by_row=self.per_row)
            smoothing.fit(first_batches(context, self.samples), context)
            layers, smoothed = smoothing.apply(layers, (), context, gptq=self._compensates)
            counts["smoothed"] = len(smoothed)
        rounded, misses = self._compensate(graph, context, layers, weight_bits)
        tables |= quantize_dynamically(graph, layers, weight_bits, self.per_channel, self.per_row, rounded)
        return PassResult({**counts, "gptq": len(rounded)}, misses)

    @property
    def _compensates(self) -> bool:
        return self.gptq and self.per_channel

    def _compensated_on(self, context: PassContext) -> Sequence[Feeds]:
        return first_batches(context, min(self.samples, _COMPENSATED_ON))

    def _compensate(
        self, graph: Graph, context: PassContext, layers: Sequence[Layer], bits: int, first: Moments | None = None
    ) -> tuple[dict[WeightKey, IntegerWeight], list[str]]:
        if not self._compensates or not context.calibration:
            return {}, []
        return compensate(graph, layers, bits, self._compensated_on(context), context, first)


def _is_as_fast(found: PassResult, drawn: PassResult) -> bool:
    """Whether two ways to quantize a graph compute the same in the same layers."""
    return found.counts["layers"] == drawn.counts["layers"] and not found.counts.get("smoothed")


def _with_what_is_stored(
    graph: Graph, context: PassContext, tables: dict[Constant, Lookup], found: PassResult
) -> PassResult:
    """Store embeddings and recurrent weights in integers as well, and add that to what was found."""
    embeddings, tables_left = quantize_embeddings(graph, context, tables)
    recurrent, layers_left = quantize_recurrent(graph, context)
    counts = {**found.counts, "embeddings": embeddings, "recurrent": recurrent}
    return PassResult(counts, [*found.misses, *tables_left, *layers_left], found.notes)


def static_layers(graph: Graph, operators: frozenset[str], context: PassContext) -> SelectedLayers:
    """The layers whose activations can have ranges fixed beforehand, with a sentence for each of the others.

    Layers whose results reach a logarithm are left out.
    """
    selection = select_layers(graph, operators, context)
    barred = before_logarithms(graph)
    misses = [
        f"{layer.node.location}: {layer.node.operator} stays in float: a logarithm tells its small results apart"
        for layer in selection.layers
        if layer.node in barred
    ]
    layers = [layer for layer in selection.layers if layer.node not in barred]
    return SelectedLayers(layers, [*selection.misses, *misses])
