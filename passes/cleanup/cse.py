"""Common subexpression elimination."""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.graph import Constant, Graph, Node
from ...ir.shape_values import hashable
from ...ir.types import TensorType
from ..base import Effect, GraphwisePass, PassContext, PassResult
from .randomness import is_random

_FEW = 256
"""Elements by which large constants are told apart before they are compared."""


@dataclass(frozen=True)
class CommonSubexpressionElimination(GraphwisePass):
    """Compute once what is computed several times: equal operators of equal inputs, and equal constants."""

    name: ClassVar[str] = "cse"
    effect: ClassVar[Effect] = Effect.EXACT

    def run_on(self, graph: Graph, context: PassContext) -> PassResult:
        constants = _merge_constants(graph, context)
        kinds: dict[Hashable, dict[Hashable, Node]] = {}
        nodes = 0
        for node in graph.nodes:
            if node.graphs or is_random(node):
                continue
            first = kinds.setdefault(_kind(node), {}).setdefault(node.inputs, node)
            if first is not node and context.applies("nodes", node, first):
                for old, new in zip(node.outputs, first.outputs, strict=True):
                    graph.replace_uses(old, new)
                graph.erase(node)
                nodes += 1
        return PassResult({"nodes": nodes, "constants": constants})


def _merge_constants(graph: Graph, context: PassContext) -> int:
    seen: defaultdict[TensorType, dict[Hashable, list[Constant]]] = defaultdict(dict)
    count = 0
    for constant in tuple(graph.constants.values()):
        alike = seen[constant.type].setdefault(_sample(constant.data), [])
        first = next((other for other in alike if _are_equal(other.data, constant.data)), None)
        if first is None:
            alike.append(constant)
            continue
        readers = dict.fromkeys(use.node for use in constant.uses)
        if not readers or context.applies("constants", *readers):
            graph.replace_uses(constant, first)
            graph.erase_constant(constant)
            count += 1
    return count


def _sample(data: np.ndarray) -> bytes:
    """What equal constants of a type share: some of their elements, spread over all."""
    return data.flat[:: max(1, data.size // _FEW)].tobytes()


def _are_equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two constants of a type, and with the same sample, are equal bit by bit."""
    if one.size <= _FEW or _memory(one) == _memory(other):
        return True
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def _memory(data: np.ndarray) -> Hashable:
    return data.__array_interface__["data"], data.strides


def _kind(node: Node) -> Hashable:
    """What equal nodes share beside their inputs; a size that only data tells may have a name of its own in each."""
    attributes = tuple([(name, hashable(value)) for name, value in sorted(node.attributes.items())])
    return node.operator, attributes, tuple([output.type for output in node.outputs])
