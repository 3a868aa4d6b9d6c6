"""Reductions, spelled out in sums and maxima."""

from collections.abc import Callable

import numpy as np

from ....ir.builder import Builder
from ....ir.graph import Node, Value
from ....ir.types import DType
from ..expansion import Expansion, attribute, cast

Step = Callable[[Value], Value]


def _reduced(op: Builder, node: Node, operator: str, x: Value) -> Value:
    """A reduction of another value over the node's axes."""
    return op(operator, x, node.input(1), **node.attributes)


def _reduces_nothing(node: Node) -> bool:
    axes = node.input(1)
    return bool(attribute(node, "noop_with_empty_axes", 0)) and (axes is None or axes.shape == (0,))


def _l1(op: Builder, node: Node) -> Value:
    return _reduced(op, node, "ReduceSum", op.Abs(node.operand(0)))


def _l2(op: Builder, node: Node) -> Value:
    x = _exact(op, node.operand(0))
    return cast(op, op.Sqrt(_reduced(op, node, "ReduceSum", op.Mul(x, x))), node.operand(0).dtype)


def _log_sum(op: Builder, node: Node) -> Value:
    total = _reduced(op, node, "ReduceSum", node.operand(0))
    return cast(op, op.Log(_exact(op, total)), total.dtype)


def _log_sum_exp(op: Builder, node: Node) -> Value:
    """The largest element is taken out, so that no exponential overflows."""
    x = _exact(op, node.operand(0))
    keepdims = {**node.attributes, "keepdims": 1}
    largest = op.ReduceMax(x, node.input(1), **keepdims)
    finite = op.Less(op.Abs(largest), float(np.inf))
    shift = op.Where(finite, largest, op.constant(np.zeros((), x.dtype.numpy)))
    total = op.Log(op.ReduceSum(op.Exp(op.Sub(x, shift)), node.input(1), **keepdims))
    y = op.Add(total, shift)
    if not attribute(node, "keepdims", 1):
        y = _reduced(op, node, "ReduceMax", y)
    return cast(op, y, node.operand(0).dtype)


def _mean(op: Builder, node: Node) -> Value:
    if _is_over_image(node):
        pooled = op.GlobalAveragePool(node.operand(0))
        return pooled if attribute(node, "keepdims", 1) else op.Flatten(pooled)
    x = _exact(op, node.operand(0))
    total = _reduced(op, node, "ReduceSum", x)
    return cast(op, op.Div(total, op.Cast(_count(op, node, x), to=x.dtype)), node.operand(0).dtype)


def _is_over_image(node: Node) -> bool:
    """Whether a reduction gives a number for each channel of images."""
    type, axes = node.operand(0).type, node.constant(1)
    return (
        type.dtype is DType.float32
        and type.rank == 4
        and isinstance(type.shape[1], int)
        and 0 not in type.shape[1:]
        and axes is not None
        and {int(axis) % 4 for axis in axes.flat} == {2, 3}
    )


def _count(op: Builder, node: Node, x: Value) -> Value:
    """How many elements are reduced to one."""
    axes = node.input(1)
    if axes is None or axes.shape == (0,):
        return op.Size(x)
    count = op.ReduceProd(op.Gather(op.Shape(x), axes), keepdims=0)
    if isinstance(axes.shape[0], int) or attribute(node, "noop_with_empty_axes", 0):
        return count
    return op.Where(op.Equal(op.Size(axes), 0), op.Size(x), count)


def _sum_of_squares(op: Builder, node: Node) -> Value:
    x = node.operand(0)
    return _reduced(op, node, "ReduceSum", op.Mul(x, x))


def _exact(op: Builder, x: Value) -> Value:
    return x if x.dtype.is_float else op.Cast(x, to=DType.float64)


def _or_nothing(expansion: Expansion) -> Expansion:
    """An expansion, or an Identity for a node that is asked to reduce over no axes."""
    return lambda op, node: op.Identity(node.operand(0)) if _reduces_nothing(node) else expansion(op, node)


EXPANSIONS: dict[str, Expansion] = {
    name: _or_nothing(expansion)
    for name, expansion in {
        "ReduceL1": _l1,
        "ReduceL2": _l2,
        "ReduceLogSum": _log_sum,
        "ReduceLogSumExp": _log_sum_exp,
        "ReduceMean": _mean,
        "ReduceSumSquare": _sum_of_squares,
    }.items()
}
