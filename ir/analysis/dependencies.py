"""What each operator ties: one small rule a family, from a node to the axes whose indices it keeps apart.

A rule is silent about the axes that its operator mixes (a spatial axis under a convolution, the axis of a softmax) and
about all of them where a shape isn't known; whoever collects the dependencies must take those as immovable.
"""

from collections.abc import Callable, Iterator

import numpy as np

from ..graph import Node, Value
from ..operators import has_trait
from ..traits import Trait
from .attention_dependencies import RULES as ATTENTION_RULES
from .dependency import (
    Axis,
    Dependency,
    Rule,
    along,
    axis_of,
    broadcast,
    fold,
    free,
    given,
    known,
    number,
    offset,
    run,
    spread,
)
from .recurrent_dependencies import recurrent
from .regroupings import reshape

_RULES: dict[str, Rule] = {**ATTENTION_RULES, **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshape)}


def dependencies(node: Node) -> list[Dependency]:
    """What a node ties; empty where its operator isn't understood."""
    rule = _RULES.get(node.operator)
    for trait, shared in ((Trait.ELEMENTWISE, _elementwise), (Trait.RECURRENT, recurrent)):
        if rule is None and has_trait(node.operator, trait):
            rule = shared
    is_ranked = all(value is None or value.type.is_ranked for value in (*node.inputs, *node.outputs))
    return [dependency for dependency in rule(node) if dependency.holds] if rule is not None and is_ranked else []


def _rule(*operators: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(operators, rule))
        return rule

    return register


# -- convolutions and matrix products


@_rule("Conv")
def _conv(node: Node) -> Iterator[Dependency]:
    x, weight, *bias = given(node)
    y = node.output
    yield Dependency(Axis(x, 0), Axis(y, 0))
    yield Dependency(Axis(weight, 0), Axis(y, 1))
    yield from (Dependency(Axis(operand, 0), Axis(y, 1)) for operand in bias)
    for axis in range(2, x.type.rank):
        if weight.shape[axis] == 1 and x.shape[axis] == y.shape[axis]:  # a product by places
            yield Dependency(Axis(x, axis), Axis(y, axis))
    yield from _contract_groups(Axis(x, 1), Axis(weight, 1), Axis(y, 1), number(node, "group", 1))


def _contract_groups(channels: Axis, rows: Axis, results: Axis, groups: int) -> Iterator[Dependency]:
    """The input channels of a convolution, which each group contracts with the same axis of its filters."""
    if not all(isinstance(axis.size, int) for axis in (channels, rows, results)):
        return
    if groups == 1:
        yield Dependency(channels, rows)
    elif rows.size == 1:  # depthwise: a group is a channel, and goes as a whole
        yield spread(channels, results, known(results.size) // groups)
    else:  # every group loses the same channels, and stays
        yield fold(channels, rows, known(rows.size))
        yield fold(results, results, known(results.size) // groups)


@_rule("ConvTranspose")
def _conv_transpose(node: Node) -> Iterator[Dependency]:
    x, weight, *bias = given(node)
    y, groups = node.output, number(node, "group", 1)
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
    a, b, *bias = given(node)
    y, turned_a, turned_b = node.output, number(node, "transA", 0), number(node, "transB", 0)
    yield Dependency(Axis(a, turned_a), Axis(y, 0))
    yield Dependency(Axis(a, 1 - turned_a), Axis(b, turned_b))
    yield Dependency(Axis(b, 1 - turned_b), Axis(y, 1))
    for operand in bias:
        yield from broadcast(operand, y)


@_rule("MatMul", "com.microsoft::FusedMatMul")
def _matmul(node: Node) -> Iterator[Dependency]:
    a, b = given(node)[:2]
    y, turned_a, turned_b = node.output, bool(node.attributes.get("transA")), bool(node.attributes.get("transB"))
    if min(a.type.rank, b.type.rank) < 2 or node.attributes.get("transBatchA") or node.attributes.get("transBatchB"):
        return
    yield from broadcast(a, y, drop=2)
    yield from broadcast(b, y, drop=2)
    rows, inner_a = (_back(a, 1), _back(a, 2)) if turned_a else (_back(a, 2), _back(a, 1))
    inner_b, columns = (_back(b, 1), _back(b, 2)) if turned_b else (_back(b, 2), _back(b, 1))
    yield Dependency(rows, _back(y, 2))
    yield Dependency(inner_a, inner_b)
    yield Dependency(columns, _back(y, 1))


def _back(value: Value, index: int) -> Axis:
    return Axis(value, value.type.rank - index)


# -- what acts on each element, channel or row


def _elementwise(node: Node) -> Iterator[Dependency]:
    for value in (*given(node), *node.outputs[1:]):
        yield from broadcast(value, node.outputs[0])


@_rule("QuantizeLinear", "DequantizeLinear")
def _quantize(node: Node) -> Iterator[Dependency]:
    x, *parameters = given(node)
    yield from along(x, node.output, range(x.type.rank))
    if x.type.rank and not node.attributes.get("block_size"):
        axis = Axis(x, axis_of(node, x.type.rank, 1))
        yield from (Dependency(Axis(operand, 0), axis) for operand in parameters if operand.type.rank == 1)


@_rule("BatchNormalization", "InstanceNormalization")
def _channel_normalization(node: Node) -> Iterator[Dependency]:
    x, *parameters = given(node)
    axes = range(x.type.rank) if node.operator == "BatchNormalization" else [0, 1]
    yield from along(x, node.outputs[0], axes)
    yield from (Dependency(Axis(operand, 0), Axis(x, 1)) for operand in parameters)


@_rule("GroupNormalization")
def _group_normalization(node: Node) -> Iterator[Dependency]:
    x, *parameters = given(node)
    yield from along(x, node.output, [0, 1])
    yield from (Dependency(Axis(operand, 0), Axis(x, 1)) for operand in parameters)
    if (groups := number(node, "num_groups", 1)) > 1:
        yield run(Axis(x, 1), known(x.shape[1]) // groups)  # a group of them goes as a whole


@_rule("LayerNormalization", "RMSNormalization")
def _row_normalization(node: Node) -> Iterator[Dependency]:
    """Tie all axes: where indices of a normalized one go, the statistics are those of what is left."""
    x, *parameters = given(node)
    yield from along(x, node.outputs[0], range(x.type.rank))
    for operand in parameters:
        yield from broadcast(operand, x)
    for statistics in node.outputs[1:]:
        yield from along(x, statistics, range(axis_of(node, x.type.rank, -1)))


@_rule("LpNormalization")
def _lp_normalization(node: Node) -> Iterator[Dependency]:
    x = given(node)[0]
    yield from along(x, node.output, range(x.type.rank))


@_rule("com.microsoft::SkipLayerNormalization")
def _skip_normalization(node: Node) -> Iterator[Dependency]:
    y, *others = node.outputs
    for value in given(node):
        yield from broadcast(value, y)
    for value in others:  # statistics, whose last axis has one place, and the sum
        yield from along(value, y, range(y.type.rank))


@_rule("Softmax", "LogSoftmax")
def _softmax(node: Node) -> Iterator[Dependency]:
    x = given(node)[0]
    normalized = axis_of(node, x.type.rank, -1)
    yield from along(x, node.output, [axis for axis in range(x.type.rank) if axis != normalized])


# -- what shrinks, pads or resizes some axes


@_rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _pool(node: Node) -> Iterator[Dependency]:
    if len(node.outputs) == 1:  # the positions that MaxPool may also give count through all channels
        yield from along(given(node)[0], node.output, [0, 1])


_SUMS = ("L1", "L2", "Mean", "Sum", "SumSquare")
_REDUCTIONS = ("LogSum", "LogSumExp", "Max", "Min", "Prod", *_SUMS)


@_rule(*[f"Reduce{kind}" for kind in _REDUCTIONS])
def _reduce(node: Node) -> Iterator[Dependency]:
    """Tie the axes that stay; of what is summed up indices can go by themselves, a mean is that of what is left."""
    x, y, axes = given(node)[0], node.output, node.constant(1)
    if axes is None:
        return
    reduced = {int(axis) % x.type.rank for axis in axes}
    kept = [axis for axis in range(x.type.rank) if axis not in reduced]
    for position, axis in enumerate(kept):
        yield Dependency(Axis(x, axis), Axis(y, axis if y.type.rank == x.type.rank else position))
    if node.operator.removeprefix("Reduce") in _SUMS:
        yield from (free(Axis(x, axis)) for axis in reduced)


@_rule("Pad")
def _pad(node: Node) -> Iterator[Dependency]:
    x, pads, axes = given(node)[0], node.constant(1), node.constant(3)
    if pads is None or (node.input(3) is not None and axes is None):
        return
    named = range(x.type.rank) if axes is None else [int(axis) % x.type.rank for axis in axes]
    widths = {axis: pair.any() for axis, pair in zip(named, pads.reshape(2, -1).T, strict=True)}
    yield from along(x, node.output, [axis for axis in range(x.type.rank) if not widths.get(axis, False)])


@_rule("Resize")
def _resize(node: Node) -> Iterator[Dependency]:
    sizes = node.input(3)
    if sizes is not None and (node.constant(3) is None or "axes" in node.attributes):
        return
    if node.attributes.get("coordinate_transformation_mode") != "tf_crop_and_resize":
        yield from along(given(node)[0], node.output, [0, 1])


@_rule("Expand")
def _expand(node: Node) -> Iterator[Dependency]:
    """Tie what is there, and free what it is repeated along; a constant has to be able to say the shape."""
    x, y = node.operand(0), node.output
    there = (None,) * (y.type.rank - x.type.rank) + x.shape
    if all(isinstance(dim, int) or dim == own for dim, own in zip(y.shape, there, strict=True)):
        yield from broadcast(x, y)
        yield from (free(Axis(y, axis)) for axis, dim in enumerate(there) if dim in (None, 1))


@_rule("Slice")
def _slice(node: Node) -> Iterator[Dependency]:
    x, starts = given(node)[:2]
    axes = node.constant(3) if node.input(3) is not None else range(starts.type.static_shape[0])
    if axes is None:
        return
    named = [int(axis) % x.type.rank for axis in axes]
    yield from along(x, node.output, [axis for axis in range(x.type.rank) if axis not in named])
    first, ends, steps = node.constant(1), node.constant(2), node.constant(4)
    if first is None or ends is None or (node.input(4) is not None and steps is None):
        return
    for place, axis in enumerate(named):
        stretch = slice(int(first[place]), int(ends[place]), None if steps is None else int(steps[place]))
        places = np.arange(known(x.shape[axis]))[stretch]
        if stretch.step is None or stretch.step > 0:
            yield run(Axis(x, axis), stretch.step or 1)  # as many go from each step's way
            yield Dependency(Axis(node.output, axis), Axis(x, axis), np.arange(len(places)), places)


@_rule("Tile")
def _tile(node: Node) -> Iterator[Dependency]:
    x, y, repeats = node.operand(0), node.output, node.constant(1)
    for axis, times in enumerate(() if repeats is None else repeats.tolist()):
        if times == 1:
            yield Dependency(Axis(x, axis), Axis(y, axis))
        elif x.shape[axis] == 1:
            yield free(Axis(y, axis))
        elif size := known(x.shape[axis]):
            yield fold(Axis(y, axis), Axis(x, axis), size)


@_rule("Gather")
def _gather(node: Node) -> Iterator[Dependency]:
    data, indices = given(node)
    axis, places = axis_of(node, data.type.rank, 0), node.constant(1)
    for other in range(data.type.rank):
        if other != axis:
            yield Dependency(
                Axis(data, other), Axis(node.output, other if other < axis else other + indices.type.rank - 1)
            )
    for position in range(indices.type.rank):
        yield Dependency(Axis(indices, position), Axis(node.output, axis + position))
    if places is not None and places.ndim == 1 and known(data.shape[axis]):
        whole = places.astype(np.int64) % known(data.shape[axis])
        yield Dependency(Axis(node.output, axis), Axis(data, axis), np.arange(len(whole)), whole)


# -- what only moves elements


@_rule("Transpose")
def _transpose(node: Node) -> Iterator[Dependency]:
    x = given(node)[0]
    order = node.attributes.get("perm", tuple(reversed(range(x.type.rank))))
    for position, axis in enumerate(order if isinstance(order, tuple) else ()):
        yield Dependency(Axis(x, int(axis)), Axis(node.output, position))


@_rule("Concat")
def _concat(node: Node) -> Iterator[Dependency]:
    yield from _pieces(given(node), node.output, axis_of(node, node.output.type.rank, 0))


@_rule("Split")
def _split(node: Node) -> Iterator[Dependency]:
    x = given(node)[0]
    yield from _pieces(list(node.outputs), x, axis_of(node, x.type.rank, 0))


def _pieces(parts: list[Value], whole: Value, axis: int) -> Iterator[Dependency]:
    """Parts that lie one after the other along an axis of the whole."""
    others = [other for other in range(whole.type.rank) if other != axis]
    static = all(isinstance(part.shape[axis], int) for part in parts)
    start = 0
    for part in parts:
        yield from along(part, whole, others)
        if static:
            yield offset(Axis(part, axis), Axis(whole, axis), start)
            start += known(part.shape[axis])
