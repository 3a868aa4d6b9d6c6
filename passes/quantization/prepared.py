"""What static quantization of a graph is about to do: all that comes before rounding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...ir.graph import Graph, Value
from ...ir.quantization import IntegerWeight, QuantParams
from ...targets import Int8
from .layers import Layer, WeightKey
from .observed import Observed
from .plan import Plan
from .rounding import Rounding, name_of
from .static import StaticQuantizer


@dataclass(frozen=True, slots=True)
class Prepared:
    """What static quantization of a graph is about to do.

    Attributes:
        layers: the layers that compute in integers.
        plan: what is quantized where.
        grids: the grid of each of the plan's values that has one of its own.
        rounded: the weights that are in integers already, with a scale for each channel.
        counts: how many groups were equalized and activations smoothed to get there.
        misses: a sentence for each layer that stays in float, or whose weight will be rounded plainly.
        observed: what a run of the graph before rounding has told; None where nothing will be quantized.
    """

    layers: Sequence[Layer]
    plan: Plan
    grids: Mapping[Value, QuantParams]
    rounded: Mapping[WeightKey, IntegerWeight]
    counts: Mapping[str, int]
    misses: Sequence[str]
    observed: Observed | None

    def quantizer(self, graph: Graph, int8: Int8, per_channel: bool) -> StaticQuantizer:
        """The quantizer that rewrites the graph."""
        return StaticQuantizer(graph, self.plan, self.grids, int8.weight_bits, per_channel, self.rounded)

    def rounding(self, graph: Graph, operators: frozenset[str], int8: Int8) -> Rounding:
        """The graph as it is, ready to be rounded layer by layer."""
        grids = {value.name: self.grids[self.plan.root(value)] for value in self.plan.reads}
        return Rounding(graph, {name_of(layer.node): layer for layer in self.layers}, operators, int8, grids)
