"""Masks of Attention in the forms that ONNX Runtime's kernel takes as the standard means them."""

from collections import deque

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Node, Value
from ...ir.operators import has_trait
from ...ir.traits import Trait
from .expansion import Expansion, size_of

_NEAR = 200
"""Nodes before a mask among which the numbers that it is made of are looked for, the nearest first."""
_FLOATS = frozenset({np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)})


def adjustment(node: Node) -> Expansion | None:
    """What brings a mask into a form that the kernel runs as it is meant; None where the mask has one."""
    mask = node.input(3)
    if mask is None:
        return None
    if mask.dtype.numpy in _FLOATS and not _is_raised(mask) and _may_be_lowest(mask):
        return _with_raised_mask
    return _with_whole_mask if _is_broadcast(node) else None


def _with_raised_mask(op: Builder, node: Node) -> Value | tuple[Value, ...]:
    """Replace the lowest number in an Attention's mask by the lowest but one.

    The kernel gives zeros for a row of the lowest number, as for one of minus infinity, which may look nowhere. By the
    standard the row's scores are all equal, and it gets the mean of the values. Models with padding have such rows.
    """
    mask = node.operand(3)
    lowest, raised = _bounds(mask)
    if isinstance(mask, Constant):
        result = op.constant(np.where(mask.data == lowest, raised, mask.data), mask.name)
    else:
        again = (use.node.output for use in mask.uses if use.node.operator == "Where" and _is_raised(use.node.output))
        result = next((value for value in again if op.graph.defines(value)), None)
        if result is None:
            result = op.Where(op.Equal(mask, op.constant(lowest)), op.constant(raised), mask)
    return op.Attention(*node.inputs[:3], result, *node.inputs[4:], outputs=len(node.outputs), **node.attributes)


def _bounds(mask: Value) -> tuple[np.ndarray, np.ndarray]:
    """The lowest finite number of a mask's type, and the next one."""
    dtype = mask.dtype.numpy
    lowest = np.array(-mask.dtype.largest, dtype)
    return lowest, np.asarray(np.nextafter(lowest, dtype.type(0)))


def _is_raised(mask: Value) -> bool:
    """Whether a mask was raised here already, or is such a mask expanded."""
    node = mask.producer
    if node is not None and node.operator == "Expand" and node.inputs[0] is not None:
        return _is_raised(node.inputs[0])
    raised = node.constant(1) if node is not None and node.operator == "Where" else None
    return raised is not None and np.array_equal(raised, _bounds(mask)[1])


def _may_be_lowest(mask: Value) -> bool:
    """Whether a mask is made of the lowest number among others, or of an input of the model."""
    lowest = _bounds(mask)[0]
    waiting, seen = deque([(mask, True)]), {mask}
    while waiting and len(seen) < _NEAR:
        value, is_moved = waiting.popleft()
        if isinstance(value, Constant):
            if value.dtype == mask.dtype and bool(np.any(value.data == lowest)):
                return True
        elif value.producer is None:
            if is_moved and value.dtype.is_float:
                return True
        else:
            new = [other for other in value.producer.inputs if other is not None and other not in seen]
            seen.update(new)
            is_moved &= value.producer.operator == "Cast" or has_trait(value.producer.operator, Trait.MOVING)
            waiting += [(other, is_moved) for other in new]
    return False


def _is_broadcast(node: Node) -> bool:
    """Whether the mask is the same for all queries, of which there are several."""
    mask, q = node.operand(3), node.operand(0)
    if not mask.type.is_ranked or not q.type.is_ranked:
        return False  # such an Attention is decomposed
    return mask.type.rank >= 2 and mask.shape[-2] == 1 != q.shape[-2]


def _with_whole_mask(op: Builder, node: Node) -> Value | tuple[Value, ...]:
    """Give an Attention a mask for each query."""
    q, mask = node.operand(0), node.operand(3)
    queries = q.shape[-2]
    rows = op.constant([queries]) if isinstance(queries, int) else op.Unsqueeze(size_of(op, q, -2), [0])
    sizes = op.Concat(op.constant(np.ones(mask.type.rank - 2, np.int64)), rows, op.constant([1]), axis=0)
    inputs = (*node.inputs[:3], op.Expand(mask, sizes), *node.inputs[4:])
    return op.Attention(*inputs, outputs=len(node.outputs), **node.attributes)
