"""Common subexpression elimination."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.graph import Attribute, Constant, Graph, Node
from ..base import Effect, Pass, PassContext, PassResult
from .randomness import is_random

_SMALL = 1024


@dataclass(frozen=True)
class CommonSubexpressionElimination(Pass):
    """Compute once what is computed several times: equal operators of equal inputs, and equal constants."""

    name: ClassVar[str] = "cse"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        constants = _merge_constants(graph, context)
        seen: dict[Hashable, Node] = {}
        nodes = 0
        for node in graph.nodes:
            if is_random(node) or any(isinstance(value, Graph) for value in node.attributes.values()):
                continue
            first = seen.setdefault(_key(node), node)
            if first is not node and context.applies("nodes", node, first):
                for old, new in zip(node.outputs, first.outputs, strict=True):
                    graph.replace_uses(old, new)
                graph.erase(node)
                nodes += 1
        return PassResult({"nodes": nodes, "constants": constants})


def _merge_constants(graph: Graph, context: PassContext) -> int:
    seen: dict[Hashable, Constant] = {}
    count = 0
    for constant in tuple(graph.constants.values()):
        first = seen.setdefault(_constant_key(constant), constant)
        readers = dict.fromkeys(use.node for use in constant.uses)
        if first is not constant and (not readers or context.applies("constants", *readers)):
            graph.replace_uses(constant, first)
            graph.erase_constant(constant)
            count += 1
    return count


def _constant_key(constant: Constant) -> Hashable:
    """What equal constants share: bytes where they are few, the very same memory where they are many."""
    data = constant.data
    if data.nbytes <= _SMALL:
        return constant.type, data.tobytes()
    return constant.type, data.__array_interface__["data"][0], data.strides


def _key(node: Node) -> Hashable:
    attributes = tuple((name, _hashable(value)) for name, value in sorted(node.attributes.items()))
    return node.operator, node.inputs, attributes, len(node.outputs)


def _hashable(attribute: Attribute) -> Hashable:
    return (
        (str(attribute.dtype), attribute.shape, attribute.tobytes()) if isinstance(attribute, np.ndarray) else attribute
    )
