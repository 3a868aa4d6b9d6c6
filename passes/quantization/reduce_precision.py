"""Products in 16-bit floats."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.types import DType
from ..base import Effect, GraphwisePass, PassContext, PassResult
from .layers import drop_unused

_FACTORS = {"Attention": 3, "Gemm": 2, "MatMul": 2}
"""How many of an operator's inputs are multiplied."""


@dataclass(frozen=True)
class PrecisionReduction(GraphwisePass):
    """Multiply in bfloat16 and add up in float32, where the target has fast instructions for that.

    Both factors of a product are rounded to bfloat16 and back, and all else stays in float32: sums, biases, activations,
    normalizations, the softmax of attention. Weights are stored in bfloat16, in half the size (Kalamkar et al., "A Study of
    BFLOAT16 for Deep Learning Training", 2019). Attention's kernel rounds what the softmax gives to bfloat16, too.

    Attributes:
        dtype: of the factors.
    """

    name: ClassVar[str] = "reduce-precision"
    effect: ClassVar[Effect] = Effect.LOSSY
    destroys: ClassVar[frozenset[str]] = frozenset({"float"})
    after: ClassVar[tuple[str, ...]] = ("fold-constants", "fuse-batch-norm")
    dtype: Literal["bfloat16"] = "bfloat16"

    def run_on(self, graph: Graph, context: PassContext) -> PassResult:
        operators = frozenset[str]().union(*context.target.bfloat16.values())
        if not operators:
            return PassResult(
                misses=[f"nothing is reduced: {context.target.name} has no fast products of {self.dtype}"]
            )
        rounding = _Rounding(graph)
        misses: list[str] = []
        counts = dict.fromkeys(sorted(operators), 0)
        for node in graph.nodes:
            if node.operator not in _FACTORS or not context.selects(node):
                continue
            if reason := _obstacle(node, operators):
                misses.append(f"{node.location}: {node.operator} stays in float32: {reason}")
            elif not _is_reduced(node) and context.applies(node.operator, node):
                rounding.apply(node)
                counts[node.operator] += 1
        drop_unused(graph, rounding.replaced)
        return PassResult(counts, misses)


class _Rounding:
    """Rounds the factors of nodes, each once.

    Attributes:
        replaced: constants that were stored anew.
    """

    def __init__(self, graph: Graph) -> None:
        self.replaced: list[Constant] = []
        self._graph = graph
        self._made: dict[Value, Value] = {}

    def apply(self, node: Node) -> None:
        op = Builder(self._graph, before=node, location=node.location)
        for index, value in enumerate(_factors(node)):
            self._graph.set_input(node, index, self._rounded(op, value))

    def _rounded(self, op: Builder, value: Value) -> Value:
        if value not in self._made:
            self._made[value] = self._round(op, value)
        return self._made[value]

    def _round(self, op: Builder, value: Value) -> Value:
        if isinstance(value, Constant):
            self.replaced.append(value)
            return op.Cast(op.constant(value.data.astype(DType.bfloat16.numpy), value.name), to=DType.float32)
        return op.Cast(op.Cast(value, to=DType.bfloat16), to=DType.float32)


def _factors(node: Node) -> Sequence[Value]:
    return [value for value in node.inputs[: _FACTORS[node.operator]] if value is not None]


def _is_reduced(node: Node) -> bool:
    """Whether its factors are rounded already."""
    return all(
        value.producer is not None
        and value.producer.operator == "Cast"
        and value.producer.inputs[0] is not None
        and value.producer.inputs[0].dtype is DType.bfloat16
        for value in _factors(node)
    )


def _obstacle(node: Node, operators: frozenset[str]) -> str:
    """Why a node's products can't be reduced; empty where they can."""
    if node.operator not in operators:
        return "there are no fast products of bfloat16 for it on this target"
    factors = _factors(node)
    if factors[0].dtype is not DType.float32:
        return f"it computes in {factors[0].dtype}"
    return ""
