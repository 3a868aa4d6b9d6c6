"""Common subexpression elimination."""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.graph import Attribute, Constant, Graph, Node
from ...ir.types import TensorType
from ..base import Effect, GraphwisePass, PassContext, PassResult
from .randomness import is_random

_SMALL = 1024


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
    seen: defaultdict[TensorType, dict[Hashable, Constant]] = defaultdict(dict)
    count = 0
    for constant in tuple(graph.constants.values()):
        first = seen[constant.type].setdefault(_contents(constant.data), constant)
        if first is constant:
            continue
        readers = dict.fromkeys(use.node for use in constant.uses)
        if not readers or context.applies("constants", *readers):
            graph.replace_uses(constant, first)
            graph.erase_constant(constant)
            count += 1
    return count


def _contents(data: np.ndarray) -> Hashable:
    """What equal constants of a type share: bytes where they are few, the very same memory where they are many."""
    return data.tobytes() if data.nbytes <= _SMALL else (data.__array_interface__["data"][0], data.strides)


def _kind(node: Node) -> Hashable:
    """What equal nodes share beside their inputs."""
    attributes = tuple([(name, _hashable(value)) for name, value in sorted(node.attributes.items())])
    return node.operator, attributes, len(node.outputs)


def _hashable(attribute: Attribute) -> Hashable:
    return (
        (str(attribute.dtype), attribute.shape, attribute.tobytes()) if isinstance(attribute, np.ndarray) else attribute
    )
