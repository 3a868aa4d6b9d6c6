"""What recurrent layers tie: hidden units with their rows in every gate, and with what reads the state."""

from collections.abc import Iterator

import numpy as np

from ..graph import Constant, Node, Value
from ..operators import has_trait
from ..traits import Trait
from .dependency import Axis, Dependency, fold, given, known, number


def recurrent(node: Node) -> Iterator[Dependency]:
    """Tie hidden units over all gates, both biases, peepholes and states; both directions lose the same ones."""
    x, weight, recurrence = (node.operand(index) for index in range(3))
    (y, *last), size = node.outputs, known(recurrence.shape[2])
    batch, time = (0, 1) if number(node, "layout", 0) else (1, 0)
    if not size:
        return
    units = Axis(y, 3)
    yield Dependency(Axis(x, 2), Axis(weight, 2))
    yield Dependency(Axis(x, time), Axis(y, time))
    yield Dependency(Axis(x, batch), Axis(y, 2 * batch))
    yield fold(Axis(recurrence, 1), Axis(recurrence, 2), size)
    for operand in (weight, recurrence, node.input(3), node.input(7)):
        if operand is not None:
            yield fold(Axis(operand, 1), units, size)
    for state in (node.input(5), node.input(6), *last):
        if state is not None and not is_zero(state):
            yield Dependency(Axis(state, 2), units)
            yield Dependency(Axis(state, batch), Axis(x, batch))
    if (lengths := node.input(4)) is not None:
        yield Dependency(Axis(lengths, 0), Axis(x, batch))


def is_zero(value: Value) -> bool:
    """Whether a value is made of zeros alone, as states are from which recurrent layers start anyway."""
    if isinstance(value, Constant):
        return not value.data.any()
    node = value.producer
    if node is not None and node.operator == "ConstantOfShape":
        return not np.any(node.attributes.get("value", 0))
    if node is None or not has_trait(node.operator, Trait.MOVING):
        return False
    moved = [operand for operand in given(node) if operand.dtype is value.dtype]
    return bool(moved) and all(map(is_zero, moved))
