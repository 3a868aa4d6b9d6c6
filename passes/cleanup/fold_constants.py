"""Constant folding: nodes whose inputs are all constants are run once, now."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Interval, Unit

from ...ir.analysis.cost import nbytes
from ...ir.errors import ModelError
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.types import Container, DType
from ...ir.unknown import is_from_data
from ..base import Effect, GraphwisePass, PassContext, PassResult
from .randomness import is_random

_WIDENED = ((DType.bfloat16, DType.float32), (DType.int4, DType.int8))
"""Element types of stored weights, with those that are computed with."""


@dataclass(frozen=True)
class ConstantFolding(GraphwisePass):
    """Run nodes of which every input is constant, and keep their results.

    A result that is larger than `limit` bytes and than all the constants together that it makes superfluous stays
    computed: a broadcast mask would swell the model, and so would the transposition of an embedding that is looked up
    as well. What a weight is dequantized from, or widened from bfloat16 or int4, stays too: it is stored like that.

    Attributes:
        limit: the size up to which a result is kept whatever it adds to the model.
        share: the share of the model's size that larger results may add to it in all.
    """

    name: ClassVar[str] = "fold-constants"
    effect: ClassVar[Effect] = Effect.EXACT
    limit: Annotated[int, Ge(0), Unit("B")] = 1 << 16
    share: Annotated[float, Interval(ge=0, le=1)] = 0.05

    def run_on(self, graph: Graph, context: PassContext) -> PassResult:
        from ...ir.interpreter import evaluate_constant  # brings torch, which listing the passes must not

        count, sizes_known = 0, False
        spare = self.share * sum(constant.data.nbytes for constant in graph.constants.values())
        misses: list[str] = []
        for node in graph.nodes:
            if not _is_foldable(node):
                continue
            growth = self._growth(graph, node)
            if growth > spare:
                misses.append(f"{node.location}: folding {node.operator} would add {growth} bytes")
                continue
            try:
                results = evaluate_constant(node)
            except ModelError as error:  # in a branch that is never taken, perhaps
                misses.append(f"{node.location}: {node.operator} stays: {error}")
                continue
            if not context.applies("fold", node):
                continue
            sizes_known = sizes_known or any(map(tells_sizes, node.outputs))
            _fold(graph, node, results)
            spare -= growth
            count += 1
        if sizes_known:
            from ...ir.reinfer import reinfer  # as above

            reinfer(graph, is_strict=False)
        return PassResult({"fold": count}, misses)

    def _growth(self, graph: Graph, node: Node) -> int:
        """The bytes that folding a node adds to the model; 0 where its results are within `limit`."""
        if not all(output.type.is_static for output in node.outputs):
            return 0
        after = sum(nbytes(output.type) for output in node.outputs)
        if after <= self.limit:
            return 0
        before = sum(nbytes(value.type) for value in dict.fromkeys(_constants(node)) if not _stays(graph, value))
        return max(after - before, 0)


def tells_sizes(value: Value) -> bool:
    """Whether sizes that only data tells may be known where a value is a constant, with integers computed from it."""
    seen, front = set[Node](), [value]
    while front:
        for node in [use.node for use in front.pop().uses if use.node not in seen]:
            seen.add(node)
            if any(is_from_data(symbol) for result in node.outputs for symbol in result.type.symbols):
                return True
            is_folded_too = all(held is value or isinstance(held, Constant | None) for held in node.inputs)
            if not is_folded_too:
                front += [result for result in node.outputs if result.dtype is DType.int64 and result.type.is_ranked]
    return False


def _constants(node: Node) -> list[Constant]:
    return [value for value in node.inputs if isinstance(value, Constant)]


def _stays(graph: Graph, constant: Constant) -> bool:
    """Whether a constant is needed whatever is folded."""
    return graph.is_output(constant) or not all(_is_foldable(use.node) for use in constant.uses)


def _is_foldable(node: Node) -> bool:
    if not all(value is None or isinstance(value, Constant) for value in node.inputs):
        return False
    if is_random(node) or node.operator == "DequantizeLinear" or _is_widened(node) or node.graphs:
        return False
    return all(output.type.container is Container.NONE for output in node.outputs)


def _is_widened(node: Node) -> bool:
    """Whether a node is a cast of weights in bfloat16 or int4."""
    x = node.inputs[0] if node.operator == "Cast" else None
    return x is not None and x.type.rank > 1 and (x.dtype, node.output.dtype) in _WIDENED


def _fold(graph: Graph, node: Node, results: Sequence[np.ndarray]) -> None:
    constants = _constants(node)
    for output, array in zip(node.outputs, results, strict=False):
        graph.replace_uses(output, graph.add_constant(array, constants[0].name if constants else output.name))
    graph.erase(node)
    for constant in dict.fromkeys(constants):
        if not constant.use_count and graph.defines(constant) and not graph.is_output(constant):
            graph.erase_constant(constant)
