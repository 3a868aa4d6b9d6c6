"""Identity removal: nodes that give back what they are given, and pairs that cancel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Value
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ...ir.unknown import is_from_data
from ..base import Effect, GraphwisePass, PassContext, PassResult
from .randomness import is_random
from .reshapes import are_alike, order_of, reshaped, simplified_reshape, simplified_transpose

_FEW = 1 << 16
"""Elements of a constant that is looked at."""


@dataclass(frozen=True)
class IdentityRemoval(GraphwisePass):
    """Remove nodes that change nothing: `x + 0`, `x * 1`, casts to the same type, transposes that cancel, and so on.

    Reshapes, transposes and concatenations in a row become one each.
    """

    name: ClassVar[str] = "remove-identities"
    effect: ClassVar[Effect] = Effect.EXACT

    def run_on(self, graph: Graph, context: PassContext) -> PassResult:
        counts: dict[str, int] = {}
        for node in graph.nodes:
            simplify = _RULES.get(node.operator)
            same = simplify(graph, node) if simplify is not None else None
            if same is None or any(output.use_count or graph.is_output(output) for output in node.outputs[1:]):
                continue
            if graph.is_output(node.outputs[0]) and not graph.defines(same):
                continue  # a branch returns what is its own
            if not context.applies(node.operator, node):
                continue
            graph.replace_uses(node.outputs[0], same)
            graph.erase(node)
            counts[node.operator] = counts.get(node.operator, 0) + 1
        return PassResult(counts)


_Rule = Callable[[Graph, Node], Value | None]


def _identity(graph: Graph, node: Node) -> Value | None:
    """The input, unless the output brings symbols for sizes that depend on data: later nodes speak of these."""
    source = node.inputs[0]
    is_known = source is None or not any(map(is_from_data, node.output.type.symbols - source.type.symbols))
    return source if is_known else None


def _same_type(graph: Graph, node: Node) -> Value | None:
    """The input of an operator that only changes the type or the shape, if the output has these already."""
    source = node.inputs[0]
    return source if source is not None and are_alike(source, node.outputs[0]) else None


def _cast(graph: Graph, node: Node) -> Value | None:
    source = node.inputs[0]
    return source if source is not None and source.dtype is node.output.dtype else None


def _cast_like(graph: Graph, node: Node) -> Value | None:
    """A Cast in place of CastLike, so that a value read only for its type needn't stay."""
    source = _cast(graph, node)
    if source is not None or node.inputs[0] is None:
        return source
    op = Builder(graph, before=node, location=node.location)
    return op.Cast(node.inputs[0], to=node.output.dtype, **node.attributes)


def _neutral(number: float, *, both_sides: bool) -> _Rule:
    """A rule for arithmetic with a neutral element: it takes the other operand, unless that one is broadcast."""

    def rule(graph: Graph, node: Node) -> Value | None:
        for index in (0, 1) if both_sides else (1,):
            data, other = node.constant(index), node.inputs[1 - index]
            if data is None or data.size > _FEW or other is None or other.dtype is not node.output.dtype:
                continue
            if not np.all(data == number):
                continue
            if are_alike(other, node.output) or data.ndim == 0:
                return other
        return None

    return rule


def _gather(graph: Graph, node: Node) -> Value | None:
    """The input of a Gather of all places of an axis in order, as by torch's `as_strided`, or a reshape of it.

    One place of an axis that was only transposed to the front is gathered from where the axis was.
    """
    source, places = node.inputs[0], node.constant(1)
    if source is None or places is None or places.size > _FEW or not source.type.is_ranked:
        return None
    inner = source.producer
    if not places.ndim and inner is not None and inner.operator == "Transpose":
        rest = list(order_of(inner))
        axis = rest.pop(node.attributes.get("axis", 0))
        if rest == sorted(rest):
            return Builder(graph, before=node, location=node.location).Gather(*inner.inputs, node.inputs[1], axis=axis)
    is_whole = source.shape[node.attributes.get("axis", 0)] == places.size
    if not is_whole or not np.array_equal(places.reshape(-1), np.arange(places.size)):
        return None
    return source if are_alike(source, node.output) else reshaped(graph, node)


def _expand(graph: Graph, node: Node) -> Value | None:
    """The input of an Expand whose readers all broadcast it themselves, since another operand has the full size."""
    source = node.inputs[0]
    if source is None or are_alike(source, node.output):
        return source
    is_spared = source.type.is_ranked and not graph.is_output(node.output) and node.output.use_count > 0
    return source if is_spared and all(_broadcasts(use.node, node.output) for use in node.output.uses) else None


def _broadcasts(node: Node, operand: Value) -> bool:
    if not has_trait(node.operator, Trait.BROADCASTING) or not node.output.type.is_ranked:
        return False
    others = [value for value in node.inputs if value is not None and value is not operand and value.type.is_ranked]
    return any(value.shape == node.output.shape for value in others)


def _concat(graph: Graph, node: Node) -> Value | None:
    """One concatenation in place of several of which each is read only by the next, along the same axis."""
    if len(node.inputs) == 1:
        return node.inputs[0]
    if _goes_into(graph, node) is not None:
        return None  # the last of a row takes all
    parts = _parts(graph, node)
    if len(parts) == len(node.inputs):
        return None
    return Builder(graph, before=node, location=node.location).Concat(*parts, axis=node.attributes["axis"])


def _parts(graph: Graph, last: Node) -> list[Value | None]:
    """What is concatenated in the end, in order."""
    parts: list[Value | None] = []
    pending = list(reversed(last.inputs))
    while pending:
        value = pending.pop()
        inner = value.producer if value is not None else None
        if inner is not None and inner.operator == "Concat" and _goes_into(graph, inner) is not None:
            pending += reversed(inner.inputs)
        else:
            parts.append(value)
    return parts


def _goes_into(graph: Graph, node: Node) -> Node | None:
    """The concatenation along the same axis that is the only reader of a concatenation."""
    if node.output.use_count != 1 or graph.is_output(node.output) or not node.output.type.is_ranked:
        return None
    reader = node.output.uses[0].node
    if reader.operator != "Concat" or reader.owner is not node.owner:
        return None
    axes = [each.attributes["axis"] % node.output.type.rank for each in (node, reader)]
    return reader if axes[0] == axes[1] else None


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


def _where(graph: Graph, node: Node) -> Value | None:
    """The operand that a Where chooses everywhere."""
    condition = node.constant(0)
    if condition is None or condition.size > _FEW or not (np.all(condition) or not np.any(condition)):
        return None
    chosen = node.inputs[1] if np.all(condition) else node.inputs[2]
    return chosen if chosen is not None and are_alike(chosen, node.output) else None


_RULES: dict[str, _Rule] = {
    "Add": _neutral(0, both_sides=True),
    "And": _neutral(1, both_sides=True),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _concat,
    "Div": _neutral(1, both_sides=False),
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": simplified_reshape,
    "Gather": _gather,
    "Identity": _identity,
    "Max": _single,
    "Mean": _single,
    "Min": _single,
    "Mul": _neutral(1, both_sides=True),
    "Or": _neutral(0, both_sides=True),
    "Pad": _pad,
    "Pow": _neutral(1, both_sides=False),
    "Reshape": simplified_reshape,
    "Slice": _slice,
    "Squeeze": simplified_reshape,
    "Sub": _neutral(0, both_sides=False),
    "Sum": _single,
    "Tile": _same_type,
    "Transpose": simplified_transpose,
    "Unsqueeze": simplified_reshape,
    "Where": _where,
}
