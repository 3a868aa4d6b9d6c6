"""Identity removal: nodes that give back what they are given, and pairs that cancel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.builder import Builder
from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.graph import Graph, Node, Value
from ..base import Effect, GraphwisePass, PassContext, PassResult
from .randomness import is_random
from .simplify_shapes import reshape_target

_FEW = 1 << 16
"""Elements of a constant that is looked at."""


@dataclass(frozen=True)
class IdentityRemoval(GraphwisePass):
    """Remove nodes that change nothing: `x + 0`, `x * 1`, casts to the same type, transposes that cancel, and so on.

    Of two that do as much as one, one is left: reshapes, transposes and concatenations in a row.
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


_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_BROADCASTING = (
    frozenset({"Add", "Div", "Max", "Mean", "Min", "Mod", "Mul", "Pow", "Sub", "Sum", "Where"})
    | frozenset({"And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Or", "Xor"})
    | frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
)
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
    """A transpose that keeps the order is its input; one of a transpose or a reshape is a single one, if that can be said."""
    source = node.inputs[0]
    if source is None or not source.type.is_ranked:
        return None
    order = _order(node)
    if order == tuple(range(len(order))):
        return source
    inner = source.producer
    if inner is not None and inner.operator in _RESHAPES and _moves_units(node):
        return _reshaped(graph, node)
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
    if inner.operator == "Transpose" and source.use_count == 1 and not graph.is_output(source):
        start, order = _through_transpose(inner, shape.shape)
        if start is not None:
            return Builder(graph, before=node, location=node.location).Transpose(start, perm=order)
    return _reshaped(graph, node) if _before_reshape(inner) is not None else None


def _reshaped(graph: Graph, node: Node) -> Value | None:
    """The result of a node that keeps the order of elements, as one reshape of what is before all such; None if it can't be.

    Args:
        graph: that the node is in.
        node: its first input is what it takes the elements from.
    """
    start, shape = node.inputs[0], node.output.type
    assert start is not None  # the rules that ask
    while start.producer is not None and (before := _before_reshape(start.producer)) is not None:
        start = before
    if _are_alike(start, node.output):
        return start
    is_plain = shape.is_static and 0 not in shape.shape
    target = shape.static_shape if is_plain else reshape_target(start, shape.shape)
    if target is None:
        return None
    sizes = graph.add_constant(np.array(target, dtype=np.int64))
    try:
        made = Builder(graph, before=node, location=node.location).Reshape(start, sizes)
    except ModelError:  # what is between them holds it to the one size of data at which it fits
        made = None
    if made is not None and made.type is shape:
        return made
    if made is not None:
        graph.erase(made.producer)  # its size is another expression, of data perhaps
    graph.erase_constant(sizes)
    return None


def _before_reshape(node: Node) -> Value | None:
    """What a reshape reads, whatever it is called, if its rank is known."""
    start = node.inputs[0] if node.operator in _RESHAPES or _moves_units(node) else None
    return start if start is not None and start.type.is_ranked else None


def _moves_units(node: Node) -> bool:
    """Whether a node is a transpose under which only axes of size 1 change places with others: the elements keep theirs."""
    source = node.inputs[0] if node.operator == "Transpose" else None
    if source is None or not source.type.is_ranked:
        return False
    rest = [axis for axis in _order(node) if source.shape[axis] != 1]
    return rest == sorted(rest)


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


def _gather(graph: Graph, node: Node) -> Value | None:
    """All places of an axis in their order, as torch's `as_strided` takes them: what is there, or a reshape of it."""
    source, places = node.inputs[0], node.constant(1)
    if source is None or places is None or places.size > _FEW or not source.type.is_ranked:
        return None
    is_whole = source.shape[node.attributes.get("axis", 0)] == places.size
    if not is_whole or not np.array_equal(places.reshape(-1), np.arange(places.size)):
        return None
    return source if _are_alike(source, node.output) else _reshaped(graph, node)


def _expand(graph: Graph, node: Node) -> Value | None:
    """What is only expanded for operators that would do it themselves, since another operand has the size that comes out."""
    source = node.inputs[0]
    if source is None or _are_alike(source, node.output):
        return source
    is_spared = source.type.is_ranked and not graph.is_output(node.output) and node.output.use_count > 0
    return source if is_spared and all(_broadcasts(use.node, node.output) for use in node.output.uses) else None


def _broadcasts(node: Node, operand: Value) -> bool:
    if node.operator not in _BROADCASTING or not node.output.type.is_ranked:
        return False
    others = [value for value in node.inputs if value is not None and value is not operand and value.type.is_ranked]
    return any(value.shape == node.output.shape for value in others)


def _concat(graph: Graph, node: Node) -> Value | None:
    """One concatenation for those that are only there to be concatenated further along the same axis."""
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
    """The concatenation along the same axis that alone reads one."""
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
    "Concat": _concat,
    "Div": _neutral(1, both_sides=False),
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _reshape,
    "Gather": _gather,
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
