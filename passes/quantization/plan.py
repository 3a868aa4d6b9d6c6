"""Where 8-bit integers live: which values are quantized, who reads them as integers, who carries them on."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.graph import Graph, Node, Use, Value
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ...ir.types import DType
from .clipping import Bounds, bounds_of, clipping_range
from .layers import Layer

_COMPUTES = frozenset({"Add", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What static quantization is about to do.

    Attributes:
        reads: the values that get a grid, in the graph's order, with the places that will read them off it. Where the
            producer's kernel yields integers these are all places.
        returned: the values that kernels yield as integers; where the graph returns one, it must do so off the grid.
        bounds: the range that each of the values need not exceed, because no reader sees a difference outside of it.
        moved: values that only move the elements of another one and so share its grid.
        folded_activations: activation functions that the bounds of their output's grid already apply.
        carriers: nodes without weights that will compute in integers.
    """

    reads: dict[Value, tuple[Use, ...]]
    returned: frozenset[Value]
    bounds: dict[Value, Bounds]
    moved: dict[Value, Value]
    folded_activations: Sequence[Node]
    carriers: Sequence[Node]

    @property
    def roots(self) -> dict[Value, Bounds]:
        """The bounds of the values that have a grid of their own."""
        return {value: bounds for value, bounds in self.bounds.items() if self.root(value) is value}

    def root(self, value: Value) -> Value:
        """The value whose grid a value has: itself, unless it was moved."""
        while value in self.moved:
            value = self.moved[value]
        return value


def make_plan(graph: Graph, layers: Sequence[Layer], operators: frozenset[str]) -> Plan:
    """Decide which values of a graph are quantized.

    A Conv's integer kernel yields integers, so its result is quantized, after the Relu or Clip that follows it; those
    of Gemm and MatMul yield floats. What lies between integers on all sides is carried along in integers where the
    target has a profitable kernel for it.

    Args:
        graph: the graph in float.
        layers: the layers that will compute in integers.
        operators: the operators that have a profitable integer kernel.
    """
    weighted = {layer.node for layer in layers}
    integers = {result(graph, node) for node in weighted if node.operator == "Conv"}
    carriers = _carriers(graph, weighted, integers, frozenset(filter(_carries, operators)))

    def is_integer(use: Use) -> bool:
        return use.node in carriers or (use.node in weighted and use.index == 0)

    for value in (result(graph, node) for node in weighted):
        if value.use_count and all(map(is_integer, value.uses)) and not graph.is_output(value):
            integers.add(value)
    reads: dict[Value, tuple[Use, ...]] = {}
    for value in graph.values():
        uses = tuple(use for use in value.uses if value in integers or is_integer(use))
        if value.dtype is DType.float32 and (uses or (value in integers and graph.is_output(value))):
            reads[value] = uses
    return Plan(
        reads=reads,
        returned=frozenset(integers),
        bounds={
            value: clipping_range([] if graph.is_output(value) else [use.node for use in uses])
            for value, uses in reads.items()
        },
        moved={node.outputs[0]: node.inputs[0] for node in carriers if _keeps_grid(node.operator) and node.inputs[0]},
        folded_activations=[node for node in graph.nodes if node.outputs[0] in integers and _is_bound(node)],
        carriers=tuple(carriers),
    )


def _carriers(graph: Graph, weighted: set[Node], integers: set[Value], operators: frozenset[str]) -> dict[Node, None]:
    """The nodes that carry integers on to some integer kernel, in order; their results join the integers."""
    carriers: dict[Node, None] = {}
    for node in graph.nodes:
        if node.operator in operators and _is_between(node, integers):
            carriers[node] = None
            integers.add(result(graph, node))
    for node in reversed(tuple(carriers)):
        value = result(graph, node)
        if not any(use.node in weighted or use.node in carriers for use in value.uses):
            del carriers[node]
            integers.discard(value)
    return carriers


def result(graph: Graph, node: Node) -> Value:
    """What an integer kernel yields for a node: its output, after the Relu or Clip that alone reads it."""
    value = node.outputs[0]
    if _keeps_grid(node.operator) or value.use_count != 1 or graph.is_output(value):
        return value
    reader = value.uses[0].node
    return reader.output if _is_bound(reader) and reader.inputs[0] is value else value


def _carries(operator: str) -> bool:
    return operator in _COMPUTES or _keeps_grid(operator)


def _keeps_grid(operator: str) -> bool:
    """Whether an operator gives elements of its first input, so that they stay on its grid."""
    return operator == "MaxPool" or (has_trait(operator, Trait.MOVING) and operator not in ("Concat", "Where"))


def _is_bound(node: Node) -> bool:
    """Whether a node only limits its input to a fixed range around 0, as the ends of a grid do."""
    if node.operator not in ("Relu", "Clip") or any(node.input(i) and node.constant(i) is None for i in (1, 2)):
        return False
    low, high = bounds_of(node)
    return low <= 0 <= high


def _is_between(node: Node, integers: set[Value]) -> bool:
    """Whether every float that a node reads is there in integers."""
    floats = [value for value in node.inputs if value is not None and value.dtype.is_float]
    return len(node.outputs) == 1 and bool(floats) and all(value in integers for value in floats)
