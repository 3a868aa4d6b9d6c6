"""A layer that may be split: what each way to do so loses and saves, and the split itself."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...ir.graph import Graph, Node
from ..moments import Inputs
from .allocation import Choices, Cut, Form
from .convolution import Arrangement, choices_of_axes, split_convolution, spread
from .decomposition import Decomposition, decompose, definite, energies, fitted, lost
from .matrix import add_to_bias, bias_place, split_node, split_table, weight_of
from .metrics import Metric

_EXACT = (0, 1 / 32, 1 / 16, 1 / 8, 1 / 4)
"""Shares of a table's rows, those that matter most, that may stay as they are."""
_NOTHING = 1e-12
"""The share of what a layer computes that rounding loses in any case."""
_CHANNELS = 4
"""The channels that ONNX Runtime's blocked convolutions take, or a multiple of them: others take longer."""
LEAST_GAIN = 0.1
"""The share of a layer's multiply-adds that two layers have to save to take less time than one."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that may be split.

    Attributes:
        node: the node that multiplies by the weight.
        matrix: the weight, `[K, N]`.
        inputs: the moments of what the layer reads; None without data.
        parts: the weight as a product, in each form; the plain one first.
        costs: the multiply-adds of a rank in each form, for each position of the output.
        order: a table's rows, those first that matter most.
        is_ranked: whether losses are those of the model's outputs, not of the layer's own.
    """

    node: Node
    matrix: np.ndarray
    inputs: Inputs | None
    parts: Mapping[Form, Decomposition]
    costs: Mapping[Form, float]
    order: np.ndarray
    is_ranked: bool

    @classmethod
    def of(
        cls,
        node: Node,
        matrix: np.ndarray,
        inputs: Inputs | None,
        metric: Metric | None,
        sizes: Mapping[str, int],
    ) -> "Layer":
        """Decompose the weight of a layer in all forms.

        Args:
            node: the node that multiplies by the weight.
            matrix: the weight, `[K, N]`.
            inputs: the moments of what the layer reads; None without data.
            metric: what changes of the weight matter; None where that isn't known.
            sizes: the sizes of symbolic dimensions.
        """
        outputs = None if metric is None else definite(metric.outputs)
        if node.operator == "Gather":
            parts, order = _narrowed(node, matrix, inputs, outputs)
            costs = dict.fromkeys(parts, float(sum(matrix.shape)))
            return cls(node, matrix, inputs, parts, costs, order, metric is not None)
        weighed = None if inputs is None else inputs.covariance if bias_place(node) else inputs.moment
        weighed = definite(weighed if metric is None else metric.inputs)
        parts, costs = dict[Form, Decomposition](), dict[Form, float]()
        for axes in choices_of_axes(node):
            form, it = Form(axes), Arrangement.of(node, matrix, axes)
            rows, columns = len(matrix) // it.places, matrix.shape[1] * it.places
            cost = rows * spread(node, axes, sizes) + columns
            if not parts:
                parts[form], costs[form] = decompose(matrix, weighed, outputs), cost
            elif most := int(matrix.size / cost):
                whole = next(iter(parts.values())).losses[0]
                parts[form], costs[form] = _apart(it, matrix, weighed, outputs, most, whole), cost
        return cls(node, matrix, inputs, parts, costs, np.empty(0, int), metric is not None)

    def most(self, form: Form) -> float:
        """The rank at which two layers take as many multiply-adds as one."""
        return self.matrix.size / self.costs[form]

    def without(self, form: Form) -> "Layer":
        """The layer, split in another form if at all."""
        return replace(self, parts={other: parts for other, parts in self.parts.items() if other != form})

    def choices(self, flops: int | None) -> Choices:
        """The cuts that may be worth it, and what they save of the layer's `flops`, or of its parameters if None."""
        (rows, columns), found = self.matrix.shape, list[Choices]()
        whole = next(iter(self.parts.values())).losses[0]
        unit = 1.0 if self.is_ranked else whole  # a loss is a share, as those of outputs are
        for form, parts in self.parts.items():
            zeros = bool(form.exact)  # both tables have a row of zeros
            size, per_rank = (rows - form.exact - zeros) * columns, sum(parts.shape) - form.exact + zeros
            most = (1 - LEAST_GAIN) * min(size / per_rank, self.most(form))
            if flops is not None:
                size, per_rank = flops, flops * self.costs[form] / self.matrix.size
            elif weight_of(self.node).use_count > 1:
                size = 0
            losses = np.maximum(parts.losses, _NOTHING * whole) / unit
            block = _CHANNELS if self.node.operator == "Conv" else 1
            found.append(Choices.of(losses, most, per_rank, size, form, block))
        return Choices.joined(found)

    def cheapest(self, share: float) -> Cut:
        """The cut that loses the least of those that take no more than a share of the layer's multiply-adds."""
        cuts = [Cut(max(1, int(share * self.most(form))), form) for form in self.parts]
        cuts = [cut._replace(rank=min(cut.rank, len(self.parts[cut.form].rows))) for cut in cuts]
        return min(cuts, key=lambda cut: self.parts[cut.form].losses[cut.rank])

    def plain(self, rank: int) -> Cut:
        """The cut to a rank in the plain form."""
        return Cut(min(rank, *self.matrix.shape), next(iter(self.parts)))

    def within(self, share: float, inputs: Inputs | None) -> Cut:
        """The cut of fewest multiply-adds that loses no more than a share of what varies in the output."""
        covariance = None if inputs is None else inputs.covariance
        bound = share * lost(self.matrix, np.zeros_like(self.matrix), covariance)
        cuts = [Cut(self._least(form, bound, covariance), form) for form in self.parts]
        return min(cuts, key=lambda cut: cut.rank * self.costs[cut.form])

    def split(self, graph: Graph, cut: Cut) -> None:
        """Put two layers in the place of one."""
        parts = self.parts[cut.form].cut(cut.rank)
        if self.node.operator == "Gather":
            split_table(graph, self.node, parts.first, parts.second, self.order[: cut.form.exact])
            return
        place = bias_place(self.node)
        if self.inputs is not None and place is not None:
            add_to_bias(graph, self.node, place, self.inputs.mean @ (self.matrix - self._approximation(cut)))
        if self.node.operator == "Conv":
            split_convolution(graph, self.node, parts.first, parts.second, self._arrangement(cut.form))
        else:
            split_node(graph, self.node, parts.first, parts.second)

    def _least(self, form: Form, bound: float, covariance: np.ndarray | None) -> int:
        """The least rank in a form whose error is within a bound, or else one that is too high to be worth it."""
        low, high = 1, len(self.parts[form].rows) + 1
        while low < high:
            rank = (low + high) // 2
            if lost(self.matrix, self._approximation(Cut(rank, form)), covariance) <= bound:
                high = rank
            else:
                low = rank + 1
        return min(low, *self.parts[form].shape)

    def _approximation(self, cut: Cut) -> np.ndarray:
        return self._arrangement(cut.form).restored(self.parts[cut.form].cut(cut.rank).product)

    def _arrangement(self, form: Form) -> Arrangement:
        return Arrangement.of(self.node, self.matrix, form.axes)


def _narrowed(
    node: Node, table: np.ndarray, inputs: Inputs | None, outputs: np.ndarray | None
) -> tuple[dict[Form, Decomposition], np.ndarray]:
    """A table as a product, by how many rows stay as they are and are left out of it; its rows by what they matter."""
    if inputs is None or weight_of(node).use_count > 1:
        return {Form(): decompose(table, None if inputs is None else inputs.moment, outputs)}, np.empty(0, int)
    order = np.argsort(-inputs.moment * energies(table, outputs))
    parts: dict[Form, Decomposition] = {}
    for exact in dict.fromkeys(int(share * len(table)) for share in _EXACT):
        others = inputs.moment.copy()
        others[order[:exact]] = 0
        parts[Form(exact=exact)] = decompose(table, others, outputs)
    return parts, order


def _apart(
    arrangement: Arrangement,
    matrix: np.ndarray,
    moment: np.ndarray | None,
    metric: np.ndarray | None,
    most: int,
    whole: float,
) -> Decomposition:
    """A convolution's weight as a product of two kernels, both of which have axes.

    Args:
        arrangement: how the weight lies.
        matrix: the weight, `[K, N]`.
        moment: the moment of windows, or its diagonal; None where all directions count the same.
        metric: the metric of outputs, as in `decompose`.
        most: the highest rank that may be worth it.
        whole: the loss of rank 0.
    """
    matrix = arrangement.arranged(matrix)
    if moment is None:
        return decompose(matrix, None, metric).cut(most)
    moment = arrangement.moment(moment)
    parts = decompose(matrix, arrangement.shared(moment), metric).cut(most)
    return parts if moment.ndim == 1 else fitted(parts, matrix, moment, metric, whole)
