"""What reshapes and transposes in a row come to: one of each, or none."""

from collections.abc import Sequence

import numpy as np

from ...ir.builder import Builder
from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.graph import Graph, Node, Value
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ...ir.types import TensorType
from .simplify_shapes import reshape_target


def are_alike(one: Value, other: Value) -> bool:
    """Whether two values are known to have the same type and shape, which two of unknown rank are not."""
    return one.type == other.type and one.type.is_ranked


def simplified_transpose(graph: Graph, node: Node) -> Value | None:
    """The input of a transpose that keeps the order, or one node for it and the transpose or reshape before it."""
    source = node.inputs[0]
    if source is None or not source.type.is_ranked:
        return None
    order = order_of(node)
    if order == tuple(range(len(order))):
        return source
    inner = source.producer
    if inner is not None and has_trait(inner.operator, Trait.RESHAPING) and moves_units(node):
        return reshaped(graph, node)
    if inner is None or inner.operator != "Transpose" or inner.inputs[0] is None:
        return None
    return _transposed(graph, node, inner.inputs[0], [order_of(inner)[axis] for axis in order])


def simplified_reshape(graph: Graph, node: Node) -> Value | None:
    """The input of a reshape to the same shape, or one reshape for two in a row, if that can be written."""
    source, shape = node.inputs[0], node.output.type
    if source is None or are_alike(source, node.output):
        return source
    inner = source.producer
    if inner is None or not shape.is_ranked or not source.type.is_ranked:
        return None
    if inner.operator == "Transpose" and source.use_count == 1 and not graph.is_output(source):
        once = _taken_apart_before(graph, node, inner) or _merged_after(graph, node, inner)
        if once is not None:
            return once
    return reshaped(graph, node) if _before_reshape(inner) is not None else None


def reshaped(graph: Graph, node: Node) -> Value | None:
    """The result of a node that keeps the order of elements, as one reshape of what precedes all such nodes, or None.

    Args:
        graph: the graph that the node is in.
        node: the node, whose first input has the elements.
    """
    start, shape = node.inputs[0], node.output.type
    assert start is not None  # the rules that ask
    while start.producer is not None and (before := _before_reshape(start.producer)) is not None:
        start = before
    return _as_reshape(graph, node, start, shape)


def _as_reshape(graph: Graph, node: Node, start: Value, shape: TensorType) -> Value | None:
    """A reshape of a value, in front of a node; None if it can't be written."""
    if start.type == shape:
        return start
    is_plain = shape.is_static and 0 not in shape.shape
    target = shape.static_shape if is_plain else reshape_target(start, shape.shape)
    if target is None:
        return None
    sizes = graph.add_constant(np.array(target, dtype=np.int64))
    try:
        made = Builder(graph, before=node, location=node.location).Reshape(start, sizes)
    except ModelError:  # the nodes between admit only the one size of data at which it fits
        made = None
    if made is not None and made.type is shape:
        return made
    if made is not None:
        graph.erase(made.producer)  # its size is another expression, of data perhaps
    graph.erase_constant(sizes)
    return None


def _before_reshape(node: Node) -> Value | None:
    """The input of a node that reshapes, whatever its operator, if the input's rank is known."""
    start = node.inputs[0] if has_trait(node.operator, Trait.RESHAPING) or moves_units(node) else None
    return start if start is not None and start.type.is_ranked else None


def moves_units(node: Node) -> bool:
    """Whether a node is a transpose that moves only axes of size 1 past others, so that elements keep their order."""
    source = node.inputs[0] if node.operator == "Transpose" else None
    if source is None or not source.type.is_ranked:
        return False
    rest = [axis for axis in order_of(node) if source.shape[axis] != 1]
    return rest == sorted(rest)


def _taken_apart_before(graph: Graph, node: Node, inner: Node) -> Value | None:
    """Take axes apart before a transpose instead of after it, in one with the reshape that is there.

    Args:
        graph: the graph that the nodes are in.
        node: the reshape after the transpose.
        inner: the transpose.
    """
    start, shape = _reshaped_from(inner), node.output.shape
    groups = _merged_axes(shape, inner.output.shape) if start is not None else None
    if start is None or groups is None:
        return None
    axes = [axis for place in np.argsort(order_of(inner)) for axis in groups[place]]
    apart = _as_reshape(graph, node, start, TensorType(start.dtype, tuple(shape[axis] for axis in axes)))
    if apart is None:
        return None
    perm = tuple(axes.index(axis) for axis in range(len(shape)))
    return _transposed(graph, node, apart, perm)


def _merged_after(graph: Graph, node: Node, inner: Node) -> Value | None:
    """Merge axes after a transpose instead of before it, in one with the reshape that is there."""
    start, merged = _reshaped_from(inner), inner.inputs[0]
    groups = _merged_axes(start.shape, merged.shape) if start is not None and merged is not None else None
    if start is None or groups is None:
        return None
    perm = tuple(axis for place in order_of(inner) for axis in groups[place])
    moved = _transposed(graph, node, start, perm)
    result = _as_reshape(graph, node, moved, node.output.type)
    if result is None and moved is not start and moved.producer is not None and not moved.use_count:
        graph.erase(moved.producer)
    return result


def _transposed(graph: Graph, node: Node, value: Value, perm: Sequence[int]) -> Value:
    """A transpose in front of a node, as simple as it can be."""
    made = Builder(graph, before=node, location=node.location).Transpose(value, perm=tuple(perm))
    simple = simplified_transpose(graph, made.producer)
    if simple is None:
        return made
    graph.erase(made.producer)
    return simple


def _reshaped_from(node: Node) -> Value | None:
    """The value whose reshape is a node's first input."""
    source = node.inputs[0]
    return _before_reshape(source.producer) if source is not None and source.producer is not None else None


def _merged_axes(shape: Sequence[Dim], merged: Sequence[Dim]) -> list[list[int]] | None:
    """The axes that are merged in each axis of a reshape's result; None if it does anything but merging."""
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
    if axis < len(shape) and groups and all(size == 1 for size in shape[axis:]):
        groups[-1] += range(axis, len(shape))
        axis = len(shape)
    return groups if axis == len(shape) else None


def order_of(node: Node) -> tuple[int, ...]:
    order = node.attributes.get("perm")
    if isinstance(order, tuple):
        return order  # pyright: ignore[reportReturnType] -- the schema says ints
    return tuple(reversed(range(node.output.type.rank)))
