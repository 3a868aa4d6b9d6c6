"""Identity removal: nodes that give back what they are given, and pairs that cancel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.builder import Builder
from ...ir.dims import Dim
from ...ir.graph import Graph, Node, Value
from ..base import Effect, Pass, PassContext, PassResult
from .randomness import is_random
from .simplify_shapes import reshape_target

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


_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
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


def _reshape(graph: Graph, node: Node) -> Value | None:
    """A reshape to the shape that is there is its input; one of a reshape is a single reshape, if that can be written."""
    source, shape = node.inputs[0], node.output.type
    if source is None or _are_alike(source, node.output):
        return source
    inner = source.producer
    if inner is None or not shape.is_ranked:
        return None
    op = Builder(graph, before=node, location=node.location)
    if inner.operator == "Transpose" and len(source.uses) == 1 and not graph.is_output(source):
        start, order = _through_transpose(inner, shape.shape)
        return None if start is None else op.Transpose(start, perm=order)
    start = _before_reshape(inner)
    if start is None or _are_alike(start, node.output):
        return start
    is_plain = shape.is_static and 0 not in shape.shape
    target = shape.static_shape if is_plain else reshape_target(start, shape.shape)
    if target is None:
        return None
    sizes = graph.add_constant(np.array(target, dtype=np.int64))
    made = op.Reshape(start, sizes)
    if made.type is shape:
        return made
    graph.erase(made.producer)  # its size is another expression, of data perhaps
    graph.erase_constant(sizes)
    return None


def _before_reshape(node: Node) -> Value | None:
    """What a reshape reads, whatever it is called, if its rank is known."""
    start = node.inputs[0] if node.operator in _RESHAPES else None
    return start if start is not None and start.type.is_ranked else None


def _through_transpose(node: Node, shape: Sequence[Dim]) -> tuple[Value | None, tuple[int, ...]]:
    """Axes merged, transposed, and taken apart again, are transposed: of what, and how; None where they aren't.

    Args:
        node: the transpose.
        shape: of what is taken apart.
    """
    merged = node.inputs[0]
    start = _before_reshape(merged.producer) if merged is not None and merged.producer is not None else None
    groups = _merged_axes(start.shape, merged.shape) if merged is not None and start is not None else None
    if start is None or groups is None:
        return None, ()
    order = tuple(axis for place in _order(node) for axis in groups[place])
    return (start, order) if tuple(start.shape[axis] for axis in order) == shape else (None, ())


def _merged_axes(shape: Sequence[Dim], merged: Sequence[Dim]) -> list[list[int]] | None:
    """For each axis of a reshape's result the axes that are merged in it; None if it does anything but merging."""
    groups: list[list[int]] = []
    axis = 0
    for size in merged:
        group = [axis] if axis < len(shape) and shape[axis] == size else []
        count: Dim = size if group else 1
        while count != size and axis + len(group) < len(shape):
            further = shape[axis + len(group)]
            if isinstance(count, str) or isinstance(further, str):
                return None
            count *= further
            group.append(axis + len(group))
        if count != size:
            return None
        groups.append(group)
        axis += len(group)
    return groups if axis == len(shape) else None


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


def _where(graph: Graph, node: Node) -> Value | None:
    """What is chosen everywhere."""
    condition = node.constant(0)
    if condition is None or condition.size > _FEW or not (np.all(condition) or not np.any(condition)):
        return None
    chosen = node.inputs[1] if np.all(condition) else node.inputs[2]
    return chosen if chosen is not None and _are_alike(chosen, node.output) else None


_RULES: dict[str, _Rule] = {
    "Add": _neutral(0, both_sides=True),
    "And": _neutral(1, both_sides=True),
    "Cast": _cast,
    "CastLike": _cast,
    "Concat": _single,
    "Div": _neutral(1, both_sides=False),
    "Dropout": _dropout,
    "Expand": _same_type,
    "Flatten": _reshape,
    "Identity": _same,
    "Max": _single,
    "Mean": _single,
    "Min": _single,
    "Mul": _neutral(1, both_sides=True),
    "Or": _neutral(0, both_sides=True),
    "Pad": _pad,
    "Pow": _neutral(1, both_sides=False),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _reshape,
    "Sub": _neutral(0, both_sides=False),
    "Sum": _single,
    "Tile": _same_type,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
    "Where": _where,
}
