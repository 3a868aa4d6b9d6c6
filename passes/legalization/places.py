"""Constant indices that are out of range: some backends fail over them when they run, others read the nearest."""

from ...ir.graph import Node
from ...ir.operators import has_trait
from ...ir.traits import Trait
from .expansion import attribute

_DEEP = ("GatherND", "ScatterND")


def misplaced(node: Node) -> str:
    """A place that a node reads or writes out of range, as a phrase; empty where none is, or sizes aren't known."""
    is_along = has_trait(node.operator, Trait.INDEXING)
    if not is_along and node.operator not in _DEEP:
        return ""
    places, x = node.constant(1), node.operand(0)
    if places is None or not places.size or not x.type.is_ranked:
        return ""
    shape = x.shape
    if is_along:
        sizes, rows = [shape[attribute(node, "axis", 0)]], places.reshape(-1, 1)
    else:
        depth, batch = places.shape[-1], attribute(node, "batch_dims", 0)
        sizes, rows = shape[batch : batch + depth], places.reshape(-1, depth)
    for size, column in zip(sizes, rows.T, strict=True):
        if isinstance(size, int) and len(beyond := column[(column >= size) | (column < -size)]):
            return f"it asks for place {int(beyond[0])} of an axis of {size} elements"
    return ""
