"""Quantization to 8-bit integers, and of weights alone to 4 bits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from ...ir.block_weight import BlockScheme, BlockWeight
from ...ir.errors import UsageError
from ...ir.graph import Graph
from ...ir.quantization import QuantParams
from ...ir.types import DType
from ...targets import Int8
from ..base import Effect, Pass, PassContext, PassResult
from .calibrate import calibrate, first_batches
from .clipping import widen
from .correct_biases import correct_biases
from .dynamic import quantize_dynamically
from .embeddings import quantize_embeddings
from .image_means import pool_image_means
from .layers import Layer, Selection, select_layers
from .logarithms import before_logarithms
from .observers import OBSERVERS
from .plan import make_plan
from .smooth import smooth
from .static import StaticQuantizer
from .transposed_weights import materialize_transposed
from .weights import quantize_weights

_CORRECTED_ON = 32  # samples: means settle sooner than ranges


@dataclass(frozen=True)
class Quantize(Pass):
    """Compute Conv, Gemm and MatMul layers in integers of 8 or 4 bits where the target has profitable kernels for them.

    Large embedding tables are stored in int8 as well, and the mean over an image becomes GlobalAveragePool where that
    has an integer kernel (Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR 2018; for the biases, Nagel et al., "Data-Free Quantization Through Weight
    Equalization and Bias Correction", ICCV 2019).

    Attributes:
        scheme: `int8` fixes the range of every activation beforehand, from calibration data; `int8-dynamic` finds it
            anew at run time, for MatMul and Gemm only; `int4` stores their weights in 4 bits and leaves activations in
            float, for models that read each weight for a few rows at a time, as those that generate text do.
        block: in `int4`, how many weights of a column share a scale and a zero point, which have the least squared
            error; a power of two.
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
    scheme: Literal["int8", "int8-dynamic", "int4"] = "int8"
    block: Annotated[int, Ge(16)] = 32
    observer: Literal["minmax", "percentile", "mse"] = "percentile"
    per_channel: bool = True
    per_row: bool = False
    smooth: bool = True
    correct_biases: bool = True
    samples: Annotated[int, Ge(1)] = 128

    def require(self, context: PassContext) -> None:
        if self.scheme == "int8" and context.target.int8 is not None:
            first_batches(context, 1)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        if self.scheme == "int4":
            return self._run_on_weights(graph, context)
        int8 = context.target.int8
        if int8 is None:
            return PassResult(
                misses=[f"nothing is quantized: 8-bit kernels were not measured on {context.target.name}"]
            )
        static = self.scheme == "int8"
        profitable = _union(int8.operators if static else int8.dynamic_operators)
        counts = {"means": pool_image_means(graph)} if "GlobalAveragePool" in profitable else {}
        if "MatMul" in profitable:
            counts["turned"] = materialize_transposed(graph, context)
        selection = select_layers(graph, profitable, context)
        if static:
            selection = _without_logarithms(graph, selection)
        counts["layers"] = len(selection.layers)
        if static:
            counts |= self._run_static(graph, context, int8, selection.layers, profitable)
        else:
            quantize_dynamically(graph, selection.layers, int8.weight_bits, self.per_channel, self.per_row)
        counts["embeddings"] = quantize_embeddings(graph, context)
        return PassResult(counts, selection.misses)

    def _run_on_weights(self, graph: Graph, context: PassContext) -> PassResult:
        if self.block.bit_count() != 1:
            raise UsageError(f"option block of pass quantize must be a power of two, not {self.block}")
        profitable = _union(context.target.int4)
        if not profitable:
            return PassResult(
                misses=[f"nothing is quantized: weights in 4 bits were not measured on {context.target.name}"]
            )
        counts = {"turned": materialize_transposed(graph, context)}
        selection = select_layers(graph, profitable, context, self.block)
        scheme = BlockScheme(4, self.block)
        matrices = {layer.key: layer.matrix for layer in selection.layers}
        weights = {key: BlockWeight.over(matrix, scheme) for key, matrix in matrices.items()}
        quantize_weights(graph, selection.layers, weights)
        counts |= {"layers": len(selection.layers), "embeddings": quantize_embeddings(graph, context)}
        return PassResult(counts, selection.misses)

    def _run_static(
        self, graph: Graph, context: PassContext, int8: Int8, layers: Sequence[Layer], profitable: frozenset[str]
    ) -> dict[str, int]:
        plan = make_plan(graph, layers, profitable)
        if not plan.reads:
            return {}
        batches = first_batches(context, self.samples)
        counts: dict[str, int] = {}
        if self.smooth:
            layers, counts["smoothed"] = smooth(graph, layers, plan, batches, context)
            plan = make_plan(graph, layers, profitable)
        watched = {value: bounds for value, bounds in plan.bounds.items() if plan.root(value) is value}
        ranges = calibrate(graph, watched, OBSERVERS[self.observer], batches, context)
        activation = DType[int8.activation]
        grids = {
            value: QuantParams.over(*widen(ranges[value], bounds), activation) for value, bounds in watched.items()
        }
        before = graph.clone()
        StaticQuantizer(graph, plan, grids, int8.weight_bits, self.per_channel).rewrite(layers)
        counts |= {"activations": len(plan.reads), "carriers": len(plan.carriers)}
        if self.correct_biases:
            few = first_batches(context, min(self.samples, _CORRECTED_ON))
            counts["biases"] = correct_biases(before, graph, layers, few, context)
        return counts


def _without_logarithms(graph: Graph, selection: Selection) -> Selection:
    """The layers whose results don't reach a logarithm, with a sentence for each of the others."""
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
