"""Common subexpression elimination."""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from ...ir.graph import Constant, Graph, Node, nested
from ...ir.shape_values import hashable
from ...ir.types import TensorType
from ..base import Effect, Pass, PassContext, PassResult
from .randomness import is_random

_Placed: TypeAlias = tuple[Constant, tuple[Graph, ...]]
"""A constant, and the graphs around it, the outermost first."""
_FEW = 256
"""Elements by which large constants are told apart before they are compared."""


@dataclass(frozen=True)
class CommonSubexpressionElimination(Pass):
    """Compute once what is computed several times: equal operators of equal inputs, and equal constants.

    Nodes are equal within one graph; large constants, such as weights, also among branches and bodies inside a graph.
    """

    name: ClassVar[str] = "cse"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        constants = nodes = 0
        for part in tuple(nested(graph)):
            constants += _merge_constants([(constant, (part,)) for constant in part.constants.values()], context)
            nodes += _merge_nodes(part, context)
        constants += _merge_constants(list(_large_constants(graph, ())), context)
        return PassResult({"nodes": nodes, "constants": constants})


def _merge_nodes(graph: Graph, context: PassContext) -> int:
    kinds: dict[Hashable, dict[Hashable, Node]] = {}
    count = 0
    for node in graph.nodes:
        if node.graphs or is_random(node):
            continue
        first = kinds.setdefault(_kind(node), {}).setdefault(node.inputs, node)
        if first is not node and context.applies("nodes", node, first):
            for old, new in zip(node.outputs, first.outputs, strict=True):
                graph.replace_uses(old, new)
            graph.erase(node)
            count += 1
    return count


def _large_constants(graph: Graph, outer: tuple[Graph, ...]) -> Iterator[_Placed]:
    """The large constants of a graph and of all graphs inside its nodes, each with the graphs around it.

    What a graph inside a node returns must be its own.
    """
    around = (*outer, graph)
    for constant in graph.constants.values():
        if constant.data.size > _FEW and not (outer and graph.is_output(constant)):
            yield constant, around
    for inner in (inner for node in graph.nodes for inner in node.graphs):
        yield from _large_constants(inner, around)


def _merge_constants(placed: Sequence[_Placed], context: PassContext) -> int:
    """Let one constant take the place of all that equal it, in the innermost graph around all of them."""
    seen: defaultdict[TensorType, dict[Hashable, list[_Placed]]] = defaultdict(dict)
    count = 0
    for constant, around in placed:
        alike = seen[constant.type].setdefault(_sample(constant.data), [])
        place = next((place for place, (it, _) in enumerate(alike) if _are_equal(it.data, constant.data)), None)
        if place is None:
            alike.append((constant, around))
            continue
        readers = dict.fromkeys(use.node for use in constant.uses)
        if not readers or context.applies("constants", *readers):
            first, there = alike[place]
            shared = tuple(ours for ours, theirs in zip(around, there, strict=False) if ours is theirs)
            if shared[-1] is not there[-1]:
                first = _moved(first, there[-1], shared[-1])
                alike[place] = first, shared
            around[-1].replace_uses(constant, first)
            around[-1].erase_constant(constant)
            count += 1
    return count


def _moved(constant: Constant, inner: Graph, outer: Graph) -> Constant:
    moved = outer.add_constant(constant.data, constant.name)
    inner.replace_uses(constant, moved)
    inner.erase_constant(constant)
    outer.rename(moved, constant.name)
    return moved


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
