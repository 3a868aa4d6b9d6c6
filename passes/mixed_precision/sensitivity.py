"""How much each layer's rounding adds to the loss of the outputs.

To second order, the divergence of a model's outputs from the float model's is half the squared length of what rounding
moves them by, in the metric of Fisher's information, and that is the variance of the product of a random gradient with
the error: E[(g . e)^2] / 2, with g the gradient of the log-likelihood of a class drawn from the model (Kirkpatrick et
al., "Overcoming catastrophic forgetting in neural networks", 2017; Dong et al., "HAWQ-V2", 2020, for Hutchinson's
random signs, drawn in place of classes where outputs are numbers). One backward pass gives the gradients at all layers,
and one run of the quantized graph, in which each layer reads what the float model gives it, the errors of all layers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Graph, Location, Value
from ..base import Feeds, PassContext
from ..gradients import DRAWS, Gradients
from ..measures import LossKind
from ..quantization.plan import make_plan
from ..quantization.rounding import Losses, Rounding, name_of

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

_CORRELATION, _FACTOR = 0.7, 4.0
"""The factor by which ratios of measured to estimated losses may be off their median; where ranks correlate at least so
much, its square, since large losses are less than the second order predicts."""
_NEGLIGIBLE = 1e-2
"""The share of the largest loss below which all are taken to be the same."""


@dataclass(frozen=True, slots=True)
class Sensitivities:
    """What rounding adds to the loss, and how that is known.

    Attributes:
        losses: what layers and values add; what layers alone add, where they were measured one by one.
        checked: how many layers' losses were measured to check the estimates.
        correlation: Spearman's rank correlation of the estimated losses with the measured ones.
        factor: the median ratio of measured to estimated losses.
        are_exact: whether all layers were measured in the end.
    """

    losses: Losses
    checked: int
    correlation: float
    factor: float
    are_exact: bool

    def __str__(self) -> str:
        """How they were found, in a sentence."""
        outcome = ", so all were measured" if self.are_exact else ""
        return (
            f"sensitivities were estimated by one backward pass and checked on {self.checked} layers quantized alone: "
            f"rank correlation {self.correlation:.2f}, measured losses {self.factor:.2g} times the estimates{outcome}"
        )


def find_sensitivities(
    rounding: Rounding, losses: Losses, measured: Callable[[str], float], checks: int, context: PassContext
) -> Sensitivities:
    """Hold estimates to exact measures of a few layers, and measure all where the two disagree.

    Args:
        rounding: the graph, ready to be rounded layer by layer.
        losses: the estimated losses.
        measured: the loss if the layer of a name is quantized alone.
        checks: how many layers are measured, from the least sensitive to the most.
        context: the context that progress is reported to.
    """
    from scipy import stats

    alone = {name: losses.of(rounding.plan({name}), {name}) for name in rounding.layers}
    names = sorted(alone, key=lambda name: alone[name])
    exact: dict[str, float] = {}

    def measure(chosen: Sequence[str]) -> None:
        for done, name in enumerate(chosen):
            context.progress("quantizing single layers", done, len(chosen))
            exact[name] = exact[name] if name in exact else measured(name)

    measure([names[place] for place in np.unique(np.linspace(0, len(names) - 1, checks).round().astype(int))])
    checked = len(exact)
    least = max(_NEGLIGIBLE * max(*exact.values(), *alone.values()), 1e-30)
    pairs = np.maximum([(alone[name], loss) for name, loss in exact.items()], least)
    ratios = pairs[:, 1] / pairs[:, 0]
    factor = float(np.median(ratios))
    spread = float(np.max(np.maximum(ratios / factor, factor / ratios)))
    correlation = float(cast("Any", stats).spearmanr(*pairs.T).statistic) if np.ptp(pairs, axis=0).all() else 0.0
    agree = spread <= _FACTOR or (correlation >= _CORRELATION and spread <= _FACTOR**2)
    if not agree:
        measure(names)
        return Sensitivities(Losses(exact, {}), checked, correlation, factor, are_exact=True)
    return Sensitivities(losses.scaled(factor), checked, correlation, factor, are_exact=False)


def estimate(
    rounding: Rounding, measures: Mapping[str, LossKind], batches: Sequence[Feeds], context: PassContext
) -> Losses:
    """The expected loss of rounding each weight and each activation alone; all 0 without gradients.

    Args:
        rounding: the graph, ready to be rounded layer by layer.
        measures: how outputs are compared.
        batches: the inputs, one batch after another.
        context: the context that has the seed and that progress is reported to.
    """
    source, sites = _with_sites(rounding)
    sums = context.remember(lambda: [_losses(rounding, source, sites, measures, batches, context)])[0].tolist()
    pairs = list(zip(sites, sums, strict=True))
    return Losses(
        {site.what: loss for site, loss in pairs if site.is_layer},
        {site.what: loss for site, loss in pairs if not site.is_layer},
    )


def _losses(
    rounding: Rounding,
    source: Graph,
    sites: Sequence["_Site"],
    measures: Mapping[str, LossKind],
    batches: Sequence[Feeds],
    context: PassContext,
) -> np.ndarray:
    """The expected loss of the errors at each site, float64[sites]."""
    import torch

    generator = torch.Generator().manual_seed(context.seed)
    gradients = Gradients(source, {site.value for site in sites}, measures, generator)
    errors = _Errors(rounding.quantized(), sites)
    sums = np.zeros(len(sites))
    for done, feeds in enumerate(batches):
        context.progress("ranking layers", done, len(batches))
        drawn = gradients.draw(feeds)
        found = errors.run(feeds, gradients.values)
        for gradient in drawn:
            for place, site in enumerate(sites):
                if site.value in gradient and site in found:
                    sums[place] += float((gradient[site.value] * found[site]).sum()) ** 2 / (DRAWS * len(batches))
    return sums


@dataclass(frozen=True, slots=True)
class _Site:
    """A place where an error shows.

    Attributes:
        what: the name of the layer's output, or of the value that is put on a grid.
        is_layer: whether it is a layer's output.
        name: the name of the value in the quantized graph that has the error.
        value: the value in the float graph that this one should equal.
    """

    what: str
    is_layer: bool
    name: str
    value: Value


def _with_sites(rounding: Rounding) -> tuple[Graph, list[_Site]]:
    """A copy of the float graph, with an Identity for the future readers of integers, and the sites of errors."""
    graph = rounding.graph.clone()
    layers = rounding.layers_of(graph)
    plan = make_plan(graph, layers, rounding.operators)
    sites = [_Site(name_of(layer.node), True, name_of(layer.node), layer.node.outputs[0]) for layer in layers]
    for value, uses in plan.reads.items():
        read = value
        if value not in plan.returned:
            after = next(iter(graph.nodes)) if value.producer is None else None
            first = min((use.node for use in uses), key=graph.position) if after is None else after
            read = Builder(graph, first, Location()).Identity(value)
            for node, index in uses:
                graph.set_input(node, index, read)
        sites.append(_Site(value.name, False, f"{value.name}.floats", read))
    return graph, sites


class _Errors:
    """The error that rounding makes at each site, where all that leads to it comes from the float model."""

    def __init__(self, graph: Graph, sites: Sequence[_Site]) -> None:
        from ...ir.interpreter import Interpreter

        self._interpreter = Interpreter(graph)
        self._sites = {site.name: site for site in sites}

    def run(self, feeds: Feeds, wanted: "Mapping[Value, Tensor]") -> "dict[_Site, Tensor]":
        """Run a batch, for which the float model yields `wanted`."""
        found: dict[_Site, Tensor] = {}

        def observe(value: Value, tensor: "Tensor") -> "Tensor | None":
            site = self._sites.get(value.name)
            if site is None:
                return None
            found[site] = tensor - wanted[site.value]
            return wanted[site.value]

        self._interpreter.run(feeds, observe)
        return found
