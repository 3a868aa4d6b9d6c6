"""What is rounded if some layers compute in integers: their weights, and the values that they read or yield."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from ...ir.graph import Graph, Node
from ...ir.quantization import QuantParams
from ...targets import Int8
from .layers import Layer
from .plan import Plan, make_plan
from .static import StaticQuantizer


def name_of(node: Node) -> str:
    """The name of a node's first output, by which it is told from all others."""
    return node.outputs[0].name


@dataclass(frozen=True, slots=True)
class Losses:
    """What rounding adds to the loss, to second order.

    Attributes:
        weights: what rounding each layer's weight adds, by the name of the layer's output.
        values: what putting each value on a grid adds, by the value's name.
    """

    weights: Mapping[str, float]
    values: Mapping[str, float]

    def of(self, plan: Plan, chosen: AbstractSet[str]) -> float:
        """The loss if the chosen layers are quantized by a plan."""
        weights = sum(self.weights.get(name, 0.0) for name in chosen)
        roots = (value for value in plan.reads if plan.root(value) is value)
        return weights + sum(self.values.get(value.name, 0.0) for value in roots)

    def scaled(self, factor: float) -> "Losses":
        """The losses, each times a factor."""
        weights, values = ({name: factor * loss for name, loss in held.items()} for held in (self.weights, self.values))
        return Losses(weights, values)


@dataclass(frozen=True, slots=True)
class Rounding:
    """A graph that is ready to be rounded, layer by layer.

    Attributes:
        graph: the graph in float.
        layers: the layers that may be quantized, by the name of their output.
        operators: the operators that have a profitable integer kernel.
        int8: how the target's integer kernels behave.
        grids: the grid of each value that may be quantized, by the value's name.
    """

    graph: Graph
    layers: Mapping[str, Layer]
    operators: frozenset[str]
    int8: Int8
    grids: Mapping[str, QuantParams]

    def plan(self, chosen: AbstractSet[str]) -> Plan:
        """What is quantized where, if some layers are."""
        return make_plan(self.graph, [layer for name, layer in self.layers.items() if name in chosen], self.operators)

    def layers_of(self, copy: Graph, chosen: AbstractSet[str] | None = None) -> Sequence[Layer]:
        """The layers of a copy of the graph, or some of them."""
        nodes = {name_of(node): node for node in copy.nodes if node.outputs}
        return [
            Layer(nodes[name], nodes[name].operand(0), copy.constants[layer.weight.name], layer.axis)
            for name, layer in self.layers.items()
            if chosen is None or name in chosen
        ]

    def quantized(self, chosen: AbstractSet[str] | None = None) -> Graph:
        """A copy with some layers quantized, or all."""
        graph = self.graph.clone()
        layers = self.layers_of(graph, chosen)
        plan = make_plan(graph, layers, self.operators)
        grids = {plan.root(value): self.grids[value.name] for value in plan.reads}
        StaticQuantizer(graph, plan, grids, self.int8.weight_bits, per_channel=True).rewrite(layers)
        return graph
