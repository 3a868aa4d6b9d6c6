"""Graphs inside nodes, written out where it is known how often they run."""

from collections.abc import Mapping, Sequence

import numpy as np

from ....ir.builder import Builder
from ....ir.dims import Dim, symbols
from ....ir.graph import Constant, Graph, Node, Value
from ....ir.operators import has_trait
from ....ir.traits import Trait
from ....ir.unknown import is_from_data
from ..expansion import Expansion, RefusedError, attribute

_MOST_STEPS = 256
"""A loop that runs more often is not written out: its code would grow beyond use."""


def _if(op: Builder, node: Node) -> tuple[Value, ...]:
    """The branch that is known to be taken; otherwise both, with a choice between their results."""
    condition = node.constant(0)
    if condition is not None:
        return tuple(written_out(op, attribute(node, "then_branch" if condition else "else_branch", None), []))
    branches = [attribute(node, name, None) for name in ("then_branch", "else_branch")]
    if any(_may_divide_by_zero(inner) for branch in branches for inner in branch.nodes):
        raise RefusedError("both of its branches are computed, and one divides whole numbers by what may be 0")
    taken, other = (written_out(op, branch, []) for branch in branches)
    for one, two in zip(taken, other, strict=True):
        if one.type != two.type or not one.type.is_ranked:
            raise RefusedError(f"its branches give {one.type} and {two.type}, and only data tells which")
        if one.dtype.bits < (16 if one.dtype.is_float else 8):
            raise RefusedError(f"its branches give {one.dtype}, and no operator chooses from two tensors of that")
    where = op.Reshape(node.operand(0), np.zeros(0, np.int64))
    return tuple(op.Where(where, one, two) for one, two in zip(taken, other, strict=True))


def _may_divide_by_zero(node: Node) -> bool:
    if node.operator not in ("Div", "Mod") or node.output.dtype.is_float:
        return False
    divisor = node.constant(1)
    return divisor is None or not divisor.all()


def _loop(op: Builder, node: Node) -> tuple[Value, ...]:
    limit, body = node.constant(0), attribute(node, "body", None)
    if limit is None or not _goes_on(node, body):
        raise RefusedError("how often it runs is known at run time alone")
    carried: list[Value] = [value for value in node.inputs[2:] if value is not None]
    rows: list[list[Value]] = []
    for step in range(steps(int(limit.reshape(-1)[0]))):
        _, *results = written_out(op, body, [op.constant(step), op.constant(np.array(True)), *carried])
        carried, row = results[: len(carried)], results[len(carried) :]
        rows.append(row)
    return (*carried, *_stacked(op, rows, [0] * (len(node.outputs) - len(carried))))


def _goes_on(node: Node, body: Graph) -> bool:
    """Whether nothing but its limit ends a loop."""
    start, end = node.input(1), next(iter(body.outputs.values()))
    while end.producer is not None and end.producer.operator == "Identity":
        end = end.producer.operand(0)
    begins = start is None or bool(np.all(node.constant(1)) if node.constant(1) is not None else False)
    return begins and (end is body.inputs[1] or (isinstance(end, Constant) and bool(np.all(end.data))))


def _scan(op: Builder, node: Node) -> tuple[Value, ...]:
    body, count = attribute(node, "body", None), attribute(node, "num_scan_inputs", 0)
    inputs = [value for value in node.inputs if value is not None]
    states, scanned = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    axes = attribute(node, "scan_input_axes", (0,) * count)
    backwards = attribute(node, "scan_input_directions", (0,) * count)
    if _has_equal_steps(node, body, count):
        return *states, *_all_at_once(op, body, states, scanned)
    length = scanned[0].shape[axes[0]]
    rows: list[list[Value]] = []
    length = steps(length)
    for step in range(length):
        places = [length - 1 - step if turned else step for turned in backwards]
        slices = [op.Gather(x, op.constant(at), axis=axis) for x, at, axis in zip(scanned, places, axes, strict=True)]
        results = written_out(op, body, [*states, *slices])
        states, row = results[: len(states)], results[len(states) :]
        rows.append(row)
    more = len(node.outputs) - len(states)
    turned = attribute(node, "scan_output_directions", (0,) * more)
    stacked = _stacked(op, rows, attribute(node, "scan_output_axes", (0,) * more), turned)
    return (*states, *stacked)


def _has_equal_steps(node: Node, body: Graph, count: int) -> bool:
    """Whether a scan along first axes hands its states on, and does with each slice what can be done with all at once.

    That are operators place by place, and reductions of axes that are known.
    """
    orders = [name for name in node.attributes if name.startswith(("scan_input_", "scan_output_"))]
    held, results = body.inputs[: len(body.inputs) - count], list(body.outputs.values())
    if any(any(node.attributes[name]) for name in orders) or held != results[: len(held)]:
        return False
    sliced = set(body.inputs[len(held) :])
    for inner in body.nodes:
        if sliced.isdisjoint(inner.inputs):
            continue
        is_reduced = inner.operator.startswith("Reduce") and inner.input(0) in sliced
        is_by_place = has_trait(inner.operator, Trait.ELEMENTWISE) and "axis" not in inner.attributes
        if not (_reduced_axes(inner) if is_reduced else is_by_place):
            return False
        sliced.update(inner.outputs)
    return sliced.issuperset(results[len(held) :])


def _reduced_axes(node: Node) -> list[int]:
    """The axes that a reduction is over, counted from the end; none if they aren't known."""
    rank, axes = node.operand(0).type.rank, node.constant(1)
    if axes is not None and axes.size:
        return [int(axis) % rank - rank for axis in axes.reshape(-1)]
    is_whole = node.input(1) is None and not attribute(node, "noop_with_empty_axes", 0)
    return list(range(-rank, 0)) if is_whole else []


def _all_at_once(op: Builder, body: Graph, states: Sequence[Value], scanned: Sequence[Value]) -> list[Value]:
    """Copy a body's nodes so that each computes all steps, which are a first axis of what depends on slices."""
    sliced = dict(zip(body.inputs[len(states) :], scanned, strict=True))
    values = dict(zip(body.inputs, [*states, *scanned], strict=True))
    values |= {constant: op.constant(constant.data, constant.name) for constant in body.constants.values()}
    for node in body.nodes:
        inner = Builder(op.graph, op.before, node.location)
        inputs = [None if value is None else values.get(value, value) for value in node.inputs]
        if is_sliced := not sliced.keys().isdisjoint(node.inputs):
            if node.operator.startswith("Reduce"):
                inputs = [inputs[0], inner.constant(_reduced_axes(node))]
            else:
                inputs = [_aligned(inner, value, node, index, sliced) for index, value in enumerate(inputs)]
        made = inner(node.operator, *inputs, outputs=len(node.outputs), **node.attributes)
        found = dict(zip(node.outputs, made if isinstance(made, tuple) else (made,), strict=True))
        values |= found
        sliced |= found if is_sliced else {}
    return [values[value] for value in list(body.outputs.values())[len(states) :]]


def _aligned(op: Builder, value: Value | None, node: Node, index: int, sliced: Mapping[Value, Value]) -> Value | None:
    """An operand with as many axes behind that of the steps as the result of a step has."""
    operand = node.inputs[index]
    if value is None or operand is None or operand not in sliced:
        return value
    missing = node.output.type.rank - operand.type.rank
    return op.Unsqueeze(value, list(range(1, 1 + missing))) if missing else value


def steps(count: Dim) -> int:
    """How many times a body or a step is written out.

    Raises:
        RefusedError: the number isn't known, or too large.
    """
    if not isinstance(count, int):
        sizes = ",".join(f"{symbol}=16" for symbol in sorted(symbols(count)) if not is_from_data(symbol))
        hint = f"; give a size behind the file's name, as in model.onnx{{{sizes}}}" if sizes else ""
        raise RefusedError(f"how often it runs, {count}, is known at run time alone{hint}")
    if not 0 < count <= _MOST_STEPS:
        raise RefusedError(f"it runs {count} times, and is written out for 1 to {_MOST_STEPS}")
    return count


def _stacked(
    op: Builder, rows: list[list[Value]], axes: Sequence[int], turned: Sequence[int] | None = None
) -> list[Value]:
    """Every step's results on a new axis, perhaps the last step's first."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    for column, is_turned in zip(columns, turned or [], strict=False):
        if is_turned:
            column.reverse()
    return [
        op.Concat(*(op.Unsqueeze(value, [axis]) for value in column), axis=axis)
        for column, axis in zip(columns, axes, strict=True)
    ]


def written_out(op: Builder, body: Graph, arguments: Sequence[Value]) -> list[Value]:
    """Copy a body's nodes into the graph around it; returns what the body returns."""
    values: dict[Value, Value] = dict(zip(body.inputs, arguments, strict=True))
    values |= {constant: op.constant(constant.data, constant.name) for constant in body.constants.values()}
    for node in body.nodes:
        if node.graphs:
            raise RefusedError(f"it holds {node.operator}, which holds graphs of its own")
        inner = Builder(op.graph, op.before, node.location)
        inputs = [None if value is None else values.get(value, value) for value in node.inputs]
        made = inner(node.operator, *inputs, outputs=len(node.outputs), **node.attributes)
        values.update(zip(node.outputs, made if isinstance(made, tuple) else (made,), strict=True))
    return [values.get(value, value) for value in body.outputs.values()]


EXPANSIONS: dict[str, Expansion] = {"If": _if, "Loop": _loop, "Scan": _scan}
