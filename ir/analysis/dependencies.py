"""What each operator ties: one small rule a family, from a node to the axes whose indices it keeps apart.

A rule is silent about the axes that its operator mixes (a spatial axis under a convolution, the axis of a softmax) and
about all of them where a shape isn't known; whoever collects the dependencies must take those as immovable.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np

from ..dims import Dim
from ..graph import Node, Value
from ..operators import has_trait
from ..traits import Trait


class Axis(NamedTuple):
    """One axis of a value, counted from the front."""

    value: Value
    axis: int

    @property
    def size(self) -> Dim:
        return self.value.shape[self.axis]


class Dependency(NamedTuple):
    """Indices of one axis that stand or fall with indices of another.

    Attributes:
        left: an axis.
        right: an axis, perhaps the same one.
        left_indices: None where both axes are tied index by index.
        right_indices: as long as the left ones.
    """

    left: Axis
    right: Axis
    left_indices: np.ndarray | None = None
    right_indices: np.ndarray | None = None

    @property
    def holds(self) -> bool:
        """Whether both axes have known sizes that fit together."""
        left, right = self.left.size, self.right.size
        known = isinstance(left, int) and isinstance(right, int) and left > 0 and right > 0
        return known and (left == right or self.left_indices is not None)


Rule: TypeAlias = Callable[[Node], Iterator[Dependency]]

_RULES: dict[str, Rule] = {}


def dependencies(node: Node) -> list[Dependency]:
    """What a node ties; empty where its operator isn't understood."""
    rule = _RULES.get(node.operator, _elementwise if has_trait(node.operator, Trait.ELEMENTWISE) else None)
    is_ranked = all(value is None or value.type.is_ranked for value in (*node.inputs, *node.outputs))
    return [dependency for dependency in rule(node) if dependency.holds] if rule is not None and is_ranked else []


def _rule(*operators: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(operators, rule))
        return rule

    return register


# -- the shapes that dependencies take


def _along(left: Value, right: Value, axes: range | list[int]) -> Iterator[Dependency]:
    """The same axes of two values, index by index."""
    for axis in axes:
        yield Dependency(Axis(left, axis), Axis(right, axis))


def _broadcast(operand: Value, result: Value, drop: int = 0) -> Iterator[Dependency]:
    """The axes of an operand with those of the result that they align with from the right, but for the last `drop`."""
    offset = result.type.rank - operand.type.rank
    for axis in range(operand.type.rank - drop):
        yield Dependency(Axis(operand, axis), Axis(result, axis + offset))


def _spread(outer: Axis, inner: Axis, run: int) -> Dependency:
    """Index i of one axis with the run of indices i * run ... i * run + run - 1 of the other."""
    indices = np.arange(_int(outer.size) * run)
    return Dependency(outer, inner, indices // run, indices)


def _fold(long: Axis, short: Axis, period: int) -> Dependency:
    """Indices of one axis that are equal modulo the period with one index of the other."""
    indices = np.arange(_int(long.size))
    return Dependency(long, short, indices, indices % period)


def _offset(part: Axis, whole: Axis, start: int) -> Dependency:
    indices = np.arange(_int(part.size))
    return Dependency(part, whole, indices, indices + start)


def _int(size: Dim) -> int:
    return size if isinstance(size, int) else 0


def _given(node: Node) -> list[Value]:
    return [value for value in node.inputs if value is not None]


def _number(node: Node, name: str, default: int) -> int:
    held = node.attributes.get(name, default)
    return held if isinstance(held, int) else default


def _axis(node: Node, rank: int, default: int) -> int:
    return _number(node, "axis", default) % rank


# -- convolutions and matrix products


@_rule("Conv")
def _conv(node: Node) -> Iterator[Dependency]:
    x, weight, *bias = _given(node)
    y = node.output
    yield Dependency(Axis(x, 0), Axis(y, 0))
    yield Dependency(Axis(weight, 0), Axis(y, 1))
    yield from (Dependency(Axis(operand, 0), Axis(y, 1)) for operand in bias)
    yield from _contract_groups(Axis(x, 1), Axis(weight, 1), Axis(y, 1), _number(node, "group", 1))


def _contract_groups(channels: Axis, rows: Axis, results: Axis, groups: int) -> Iterator[Dependency]:
    """The input channels of a convolution, which each group contracts with the same axis of its filters."""
    if not all(isinstance(axis.size, int) for axis in (channels, rows, results)):
        return
    if groups == 1:
        yield Dependency(channels, rows)
    elif rows.size == 1:  # depthwise: a group is a channel, and goes as a whole
        yield _spread(channels, results, _int(results.size) // groups)
    else:  # every group loses the same channels, and stays
        yield _fold(channels, rows, _int(rows.size))
        yield _fold(results, results, _int(results.size) // groups)


@_rule("ConvTranspose")
def _conv_transpose(node: Node) -> Iterator[Dependency]:
    x, weight, *bias = _given(node)
    y, groups = node.output, _number(node, "group", 1)
    yield Dependency(Axis(x, 0), Axis(y, 0))
    if groups == 1:
        yield Dependency(Axis(x, 1), Axis(weight, 0))
        yield Dependency(Axis(weight, 1), Axis(y, 1))
        yield from (Dependency(Axis(operand, 0), Axis(y, 1)) for operand in bias)
    elif weight.shape[0] == groups and weight.shape[1] == 1:
        yield Dependency(Axis(x, 1), Axis(weight, 0))
        yield Dependency(Axis(x, 1), Axis(y, 1))
        yield from (Dependency(Axis(operand, 0), Axis(y, 1)) for operand in bias)


@_rule("Gemm")
def _gemm(node: Node) -> Iterator[Dependency]:
    a, b, *bias = _given(node)
    y, turned_a, turned_b = node.output, _number(node, "transA", 0), _number(node, "transB", 0)
    yield Dependency(Axis(a, turned_a), Axis(y, 0))
    yield Dependency(Axis(a, 1 - turned_a), Axis(b, turned_b))
    yield Dependency(Axis(b, 1 - turned_b), Axis(y, 1))
    for operand in bias:
        yield from _broadcast(operand, y)


@_rule("MatMul", "com.microsoft::FusedMatMul")
def _matmul(node: Node) -> Iterator[Dependency]:
    a, b = _given(node)[:2]
    y, turned_a, turned_b = node.output, bool(node.attributes.get("transA")), bool(node.attributes.get("transB"))
    if min(a.type.rank, b.type.rank) < 2 or node.attributes.get("transBatchA") or node.attributes.get("transBatchB"):
        return
    yield from _broadcast(a, y, drop=2)
    yield from _broadcast(b, y, drop=2)
    rows, inner_a = (_back(a, 1), _back(a, 2)) if turned_a else (_back(a, 2), _back(a, 1))
    inner_b, columns = (_back(b, 1), _back(b, 2)) if turned_b else (_back(b, 2), _back(b, 1))
    yield Dependency(rows, _back(y, 2))
    yield Dependency(inner_a, inner_b)
    yield Dependency(columns, _back(y, 1))


def _back(value: Value, index: int) -> Axis:
    return Axis(value, value.type.rank - index)


# -- what acts on each element, channel or row


def _elementwise(node: Node) -> Iterator[Dependency]:
    for value in (*_given(node), *node.outputs[1:]):
        yield from _broadcast(value, node.outputs[0])


@_rule("QuantizeLinear", "DequantizeLinear")
def _quantize(node: Node) -> Iterator[Dependency]:
    x, *parameters = _given(node)
    yield from _along(x, node.output, range(x.type.rank))
    if x.type.rank and not node.attributes.get("block_size"):
        axis = Axis(x, _axis(node, x.type.rank, 1))
        yield from (Dependency(Axis(operand, 0), axis) for operand in parameters if operand.type.rank == 1)


@_rule("BatchNormalization", "InstanceNormalization")
def _channel_normalization(node: Node) -> Iterator[Dependency]:
    x, *parameters = _given(node)
    axes = range(x.type.rank) if node.operator == "BatchNormalization" else [0, 1]
    yield from _along(x, node.outputs[0], axes)
    yield from (Dependency(Axis(operand, 0), Axis(x, 1)) for operand in parameters)


@_rule("LayerNormalization", "RMSNormalization")
def _row_normalization(node: Node) -> Iterator[Dependency]:
    x = _given(node)[0]
    for output in node.outputs:
        yield from _along(x, output, range(_axis(node, x.type.rank, -1)))


@_rule("Softmax", "LogSoftmax")
def _softmax(node: Node) -> Iterator[Dependency]:
    x = _given(node)[0]
    normalized = _axis(node, x.type.rank, -1)
    yield from _along(x, node.output, [axis for axis in range(x.type.rank) if axis != normalized])


# -- what shrinks, pads or resizes some axes


@_rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _pool(node: Node) -> Iterator[Dependency]:
    if len(node.outputs) == 1:  # the positions that MaxPool may also give count through all channels
        yield from _along(_given(node)[0], node.output, [0, 1])


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


@_rule(*[f"Reduce{kind}" for kind in _REDUCTIONS])
def _reduce(node: Node) -> Iterator[Dependency]:
    x, y, axes = _given(node)[0], node.output, node.constant(1)
    if axes is None:
        return
    reduced = {int(axis) % x.type.rank for axis in axes}
    kept = [axis for axis in range(x.type.rank) if axis not in reduced]
    for position, axis in enumerate(kept):
        yield Dependency(Axis(x, axis), Axis(y, axis if y.type.rank == x.type.rank else position))


@_rule("Pad")
def _pad(node: Node) -> Iterator[Dependency]:
    x, pads, axes = _given(node)[0], node.constant(1), node.constant(3)
    if pads is None or (node.input(3) is not None and axes is None):
        return
    named = range(x.type.rank) if axes is None else [int(axis) % x.type.rank for axis in axes]
    widths = {axis: pair.any() for axis, pair in zip(named, pads.reshape(2, -1).T, strict=True)}
    yield from _along(x, node.output, [axis for axis in range(x.type.rank) if not widths.get(axis, False)])


@_rule("Resize")
def _resize(node: Node) -> Iterator[Dependency]:
    sizes = node.input(3)
    if sizes is not None and (node.constant(3) is None or "axes" in node.attributes):
        return
    if node.attributes.get("coordinate_transformation_mode") != "tf_crop_and_resize":
        yield from _along(_given(node)[0], node.output, [0, 1])


@_rule("Slice")
def _slice(node: Node) -> Iterator[Dependency]:
    x, starts = _given(node)[:2]
    axes = node.constant(3) if node.input(3) is not None else range(starts.type.static_shape[0])
    if axes is not None:
        named = {int(axis) % x.type.rank for axis in axes}
        yield from _along(x, node.output, [axis for axis in range(x.type.rank) if axis not in named])


@_rule("Gather")
def _gather(node: Node) -> Iterator[Dependency]:
    data, indices = _given(node)
    axis = _axis(node, data.type.rank, 0)
    for other in range(data.type.rank):
        if other != axis:
            yield Dependency(
                Axis(data, other), Axis(node.output, other if other < axis else other + indices.type.rank - 1)
            )
    for position in range(indices.type.rank):
        yield Dependency(Axis(indices, position), Axis(node.output, axis + position))


# -- what only moves elements


@_rule("Transpose")
def _transpose(node: Node) -> Iterator[Dependency]:
    x = _given(node)[0]
    order = node.attributes.get("perm", tuple(reversed(range(x.type.rank))))
    for position, axis in enumerate(order if isinstance(order, tuple) else ()):
        yield Dependency(Axis(x, int(axis)), Axis(node.output, position))


@_rule("Concat")
def _concat(node: Node) -> Iterator[Dependency]:
    yield from _pieces(_given(node), node.output, _axis(node, node.output.type.rank, 0))


@_rule("Split")
def _split(node: Node) -> Iterator[Dependency]:
    x = _given(node)[0]
    if node.input(1) is None or node.constant(1) is not None:
        yield from _pieces(list(node.outputs), x, _axis(node, x.type.rank, 0))


def _pieces(parts: list[Value], whole: Value, axis: int) -> Iterator[Dependency]:
    """Parts that lie one after the other along an axis of the whole."""
    others = [other for other in range(whole.type.rank) if other != axis]
    static = all(isinstance(part.shape[axis], int) for part in parts)
    start = 0
    for part in parts:
        yield from _along(part, whole, others)
        if static:
            yield _offset(Axis(part, axis), Axis(whole, axis), start)
            start += _int(part.shape[axis])


@_rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(node: Node) -> Iterator[Dependency]:
    x, y = _given(node)[0], node.output
    if node.operator == "Reshape" and not _is_writable(x, y):
        return
    left = [axis for axis in range(x.type.rank) if x.shape[axis] != 1]
    right = [axis for axis in range(y.type.rank) if y.shape[axis] != 1]
    while left and right and x.shape[left[0]] == y.shape[right[0]]:
        yield Dependency(Axis(x, left.pop(0)), Axis(y, right.pop(0)))
    while left and right and x.shape[left[-1]] == y.shape[right[-1]]:
        yield Dependency(Axis(x, left.pop()), Axis(y, right.pop()))
    for axes, others in _blocks(x, left, y, right):
        if len(axes) == 1 or len(others) == 1:
            yield _regrouped(x, axes, y, others)


def _is_writable(x: Value, y: Value) -> bool:
    """Whether a constant can say the shape of a reshape: 0 copies a dimension, -1 stands for one more unknown."""
    unknown = [axis for axis, dim in enumerate(y.shape) if isinstance(dim, str)]
    return len([axis for axis in unknown if axis >= x.type.rank or x.shape[axis] != y.shape[axis]]) <= 1


def _blocks(x: Value, left: list[int], y: Value, right: list[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest runs of axes of two shapes that hold as many elements as each other."""
    if not all(isinstance(dim, int) and dim > 0 for dim in (*[x.shape[i] for i in left], *[y.shape[i] for i in right])):
        return
    while left and right:
        axes, others = [left.pop(0)], [right.pop(0)]
        ahead, behind = _int(x.shape[axes[0]]), _int(y.shape[others[0]])
        while ahead != behind:
            if ahead < behind:
                axes.append(left.pop(0))
                ahead *= _int(x.shape[axes[-1]])
            else:
                others.append(right.pop(0))
                behind *= _int(y.shape[others[-1]])
        yield axes, others


def _regrouped(x: Value, axes: list[int], y: Value, others: list[int]) -> Dependency:
    """Axes that are merged into one, or one that is split: the outermost stands for a run of the single one."""
    if len(axes) == 1:
        return _spread(Axis(y, others[0]), Axis(x, axes[0]), _int(x.shape[axes[0]]) // _int(y.shape[others[0]]))
    return _spread(Axis(x, axes[0]), Axis(y, others[0]), _int(y.shape[others[0]]) // _int(x.shape[axes[0]]))
