"""Identity removal: nodes that give back what they are given, and pairs that cancel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Value
from ..base import Effect, Pass, PassContext, PassResult
from .randomness import is_random

_FEW = 1 << 16
"""Elements of a constant that is looked at."""


@dataclass(frozen=True)
class IdentityRemoval(Pass):
    """Remove nodes that change nothing: `x + 0`, `x * 1`, casts to the same type, transposes that cancel, and so on."""

    name: ClassVar[str] = "remove-identities"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        counts: dict[str, int] = {}
        for node in graph.nodes:
            simplify = _RULES.get(node.operator)
            same = simplify(graph, node) if simplify is not None else None
            if same is None or any(output.uses or graph.is_output(output) for output in node.outputs[1:]):
                continue
            if not context.applies(node.operator, node):
                continue
            graph.replace_uses(node.outputs[0], same)
            graph.erase(node)
            counts[node.operator] = counts.get(node.operator, 0) + 1
        return PassResult(counts)


_Rule = Callable[[Graph, Node], Value | None]


def _same(graph: Graph, node: Node) -> Value | None:
    return node.inputs[0]


def _same_type(graph: Graph, node: Node) -> Value | None:
    """For operators that only change the type: the input, if it has the output's type already."""
    source = node.inputs[0]
    return source if source is not None and _are_alike(source, node.outputs[0]) else None


def _cast(graph: Graph, node: Node) -> Value | None:
    source = node.inputs[0]
    return source if source is not None and source.dtype is node.output.dtype else None


def _are_alike(one: Value, other: Value) -> bool:
    """Whether two values have the same type and shape: of two of unknown rank, nobody knows."""
    return one.type == other.type and one.type.is_ranked


def _neutral(number: float, *, both_sides: bool) -> _Rule:
    """For arithmetic with a neutral element: the other operand, if it isn't broadcast by the neutral one."""

    def rule(graph: Graph, node: Node) -> Value | None:
        for index in (0, 1) if both_sides else (1,):
            data, other = node.constant(index), node.inputs[1 - index]
            if data is None or data.size > _FEW or other is None or other.dtype is not node.output.dtype:
                continue
            if not np.all(data == number):
                continue
            if _are_alike(other, node.output) or data.ndim == 0:
                return other
        return None

    return rule


def _transpose(graph: Graph, node: Node) -> Value | None:
    """A transpose that keeps the order is its input; one of a transpose is a single transpose."""
    source = node.inputs[0]
    if source is None or not source.type.is_ranked:
        return None
    order = _order(node)
    if order == tuple(range(len(order))):
        return source
    inner = source.producer
    if inner is None or inner.operator != "Transpose" or inner.inputs[0] is None:
        return None
    composed = tuple(_order(inner)[axis] for axis in order)
    if composed == tuple(range(len(order))):
        return inner.inputs[0]
    return Builder(graph, before=node, location=node.location).Transpose(inner.inputs[0], perm=composed)


def _order(node: Node) -> tuple[int, ...]:
    order = node.attributes.get("perm")
    return order if isinstance(order, tuple) else tuple(reversed(range(node.output.type.rank)))  # pyright: ignore[reportReturnType] -- the schema says ints


def _single(graph: Graph, node: Node) -> Value | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _pad(graph: Graph, node: Node) -> Value | None:
    widths = node.constant(1)
    return node.inputs[0] if widths is not None and not np.any(widths) else None


def _dropout(graph: Graph, node: Node) -> Value | None:
    return None if is_random(node) else node.inputs[0]


def _slice(graph: Graph, node: Node) -> Value | None:
    steps = node.constant(4)
    forward = node.input(4) is None or (steps is not None and bool(np.all(steps == 1)))
    return _same_type(graph, node) if forward else None


_RULES: dict[str, _Rule] = {
    "Add": _neutral(0, both_sides=True),
    "Cast": _cast,
    "Concat": _single,
    "Div": _neutral(1, both_sides=False),
    "Dropout": _dropout,
    "Expand": _same_type,
    "Identity": _same,
    "Max": _single,
    "Mean": _single,
    "Min": _single,
    "Mul": _neutral(1, both_sides=True),
    "Pad": _pad,
    "Pow": _neutral(1, both_sides=False),
    "Reshape": _same_type,
    "Slice": _slice,
    "Squeeze": _same_type,
    "Sub": _neutral(0, both_sides=False),
    "Sum": _single,
    "Tile": _same_type,
    "Transpose": _transpose,
    "Unsqueeze": _same_type,
}
