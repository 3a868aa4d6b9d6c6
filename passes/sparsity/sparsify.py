"""One-shot pruning of single weights, and of blocks that kernels leave out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Interval, Unit

from ...ir.errors import UsageError
from ...ir.graph import Graph
from ...ir.unused import drop_unused
from ..base import Effect, Feeds, Pass, PassContext, PassResult
from ..judge import Judge, divided, require_held_out
from ..quantization.layers import Layer
from ..quantization.round_weights import require_calibration
from ..quantization.sweep import Moments, sweep
from .layers import prunable_layers, share_of_zeros
from .patterns import Pattern, zeros_of
from .sparsegpt import sparsegpt

_TRIED = tuple(percent / 100 for percent in range(50, 100, 5))
"""The shares of zeros among which one is searched: with fewer, kernels gain little."""


@dataclass(frozen=True)
class Sparsification(Pass):
    """Set weights to zero in a pattern, by default in blocks that TVM's kernels leave out.

    With calibration data, the weights that are left make up for those that go (Frantar and Alistarh, "SparseGPT", ICML
    2023), layer after layer, each of which sees what the ones before it yield by now. A layer whose output moves less
    on held-out data if its smallest weights go, and nothing else changes, is pruned like that; the others are then
    pruned by all data.

    Kernels for TVM are faster with blocks of zeros; with other patterns, and on ONNX Runtime with any, nothing is
    faster and files are as large, but compress better. Rounding to integers behind this pass keeps zeros.

    With neither `sparsity` nor a pattern that fixes it, as many weights of each layer go as possible while the outputs
    stay within `max_drop` on held-out batches.

    Attributes:
        sparsity: the share of each layer's weights that is set to zero; 0 leaves it to the other options.
        pattern: the pattern of zeros: a block, written as its rows along the sums by its outputs, such as `4x16`;
            `unstructured` for single weights; or such as `2:4`, which keeps two of each four neighbours in a sum.
        method: the weights that go: the smallest (`magnitude`), those whose product with the size of their inputs is
            smallest (`wanda`; Sun et al., ICLR 2024), or those that other weights can stand for (`sparsegpt`); `auto`
            is `sparsegpt` with calibration data and `magnitude` without.
        max_drop: the most that may be lost on held-out batches. Where the calibration data have labels, it is the drop
            of the metric, in hundredths of its own scale. Where they have none, it is the loss of the output that loses
            most, in percent: for classes the share of rows whose largest element is elsewhere than before, for other
            outputs 100 (1 - cosine) of what varies among samples, and for a sigmoid's numbers also 100 (1 - F1) of
            those beyond a half.
        damping: what `sparsegpt` adds to the second moments of all channels, as a share of their mean.
    """

    name: ClassVar[str] = "sparsify"
    effect: ClassVar[Effect] = Effect.LOSSY
    needs: ClassVar[frozenset[str]] = frozenset({"float"})
    after: ClassVar[tuple[str, ...]] = ("fold-constants", "prune-blocks", "prune-channels", "factorize")
    max_drift: ClassVar[float] = 10.0  # nine tenths of an untuned network may well be more than all of its output

    sparsity: Annotated[float, Interval(ge=0, lt=1), Unit("1")] = 0.0
    pattern: str = "4x16"
    method: Literal["auto", "magnitude", "wanda", "sparsegpt"] = "auto"
    max_drop: Annotated[float, Interval(gt=0, le=100), Unit("%")] = 1.0
    damping: Annotated[float, Interval(gt=0, lt=1)] = 0.01
    required: bool = True

    def require(self, context: PassContext) -> None:
        share = share_of_zeros(self.name, self.sparsity, self.pattern)
        if self.method in ("wanda", "sparsegpt"):
            require_calibration(self.name, context)
        if not (context.calibration or share):
            raise UsageError(
                f"how many weights {self.name} may set to zero is not known: give calibration data, by which it keeps "
                "the outputs within max_drop, or say how many, as in sparsify{sparsity=0.8}"
            )
        if not share:
            require_held_out(self.name, "sparsity=0.8", context)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        self.require(context)
        pattern = Pattern.of(self.pattern)
        layers, misses = prunable_layers(graph, pattern, context, self.name)
        notes: list[str] = []
        if sparsity := self.sparsity or pattern.sparsity:
            weights, others = self._weights(graph, layers, sparsity, context.calibration, context)
        else:
            weights, others, notes = self._within(graph, layers, context)
        _replace(graph, layers, weights)
        if weights:
            notes.append(zeros_of(weights.values()))
            if pattern.group or pattern.rows * pattern.columns == 1:
                notes.append(f"no kernel leaves out zeros of pattern {self.pattern}: only compressed files are smaller")
        return PassResult({self.name: len(weights)}, [*others, *misses], notes)

    def _within(
        self, graph: Graph, layers: Sequence[Layer], context: PassContext
    ) -> tuple[dict[Layer, np.ndarray], list[str], list[str]]:
        """The weights with the most zeros that keep the outputs within bounds, misses and notes."""
        fitted, held_out, labelled = divided(context)
        judge = Judge(graph, held_out, labelled)
        judge.require_rows(self.name, "sparsity=0.8")
        found: dict[Layer, np.ndarray] = {}
        least = f"{100 * _TRIED[0]:g} % of zeros and more don't keep the outputs within {self.max_drop:g} %"
        misses, low, high = [least], 0, len(_TRIED)
        while low < high:
            tried = (low + high) // 2
            context.progress(f"{self.name}: judging", tried, len(_TRIED))
            weights, others = self._weights(graph, layers, _TRIED[tried], fitted, context)
            copy = graph.clone()
            twins = dict(zip(graph.nodes, copy.nodes, strict=True))
            for layer, weight in weights.items():
                copy.set_input(twins[layer.node], 1, copy.add_constant(layer.laid_out(weight)))
            if judge.judge(copy).drop <= self.max_drop:
                found, misses, low = weights, others, tried + 1
            else:
                high = tried
        return found, misses, list(judge.doubts(self.max_drop))

    def _weights(
        self, graph: Graph, layers: Sequence[Layer], sparsity: float, batches: Sequence[Feeds], context: PassContext
    ) -> tuple[dict[Layer, np.ndarray], list[str]]:
        """The layers' new weights, `[K, N]`, and a sentence for each layer that `magnitude` suits better."""
        method, pattern = self.method, Pattern.of(self.pattern)
        if method == "auto":
            method = "sparsegpt" if batches else "magnitude"
        found: dict[Layer, np.ndarray] = {}
        misses: list[str] = []
        if method == "magnitude":
            return {layer: _smallest_gone(layer.matrix, pattern, sparsity) for layer in layers}, misses

        def visit(readers: Sequence[Layer], moments: Moments) -> Mapping[Layer, np.ndarray]:
            fit, whole = (moments.estimate(of_all=of_all) for of_all in (False, True))
            for layer in readers:
                plain = _smallest_gone(layer.matrix, pattern, sparsity)
                made = self._pruned(layer.matrix, method, sparsity, fit)
                is_better = moments.error(made, layer.matrix) < moments.error(plain, layer.matrix)
                found[layer] = self._pruned(layer.matrix, method, sparsity, whole) if is_better else plain
                if not is_better:
                    misses.append(f"{layer.node.location}: magnitude does better than {method} on held-out inputs")
            return {layer: found[layer] for layer in readers}

        if layers:
            sweep(graph, layers, batches, context, visit)
        return found, misses

    def _pruned(self, weight: np.ndarray, method: str, sparsity: float, moments: np.ndarray) -> np.ndarray:
        """A weight `[K, N]`, pruned by the moments of its inputs."""
        pattern = Pattern.of(self.pattern)
        if method == "wanda":
            return _smallest_gone(weight, pattern, sparsity, np.diagonal(moments))
        return sparsegpt(weight, pattern, sparsity, moments, self.damping)


def _smallest_gone(
    weight: np.ndarray, pattern: Pattern, sparsity: float, energy: np.ndarray | None = None
) -> np.ndarray:
    """The weight without its smallest blocks; squares of a row count times its energy, `[K]`, if there is one."""
    scores = np.square(weight) if energy is None else np.square(weight) * energy[:, None]
    return np.where(pattern.keeps(scores, sparsity, by_column=energy is not None), weight, 0).astype(weight.dtype)


def _replace(graph: Graph, layers: Sequence[Layer], weights: Mapping[Layer, np.ndarray]) -> None:
    for layer in layers:
        if layer in weights:
            name, data = layer.weight.name, np.ascontiguousarray(layer.laid_out(weights[layer]))
            graph.set_input(layer.node, 1, graph.add_constant(data, name))
            drop_unused(graph, [layer.weight])
