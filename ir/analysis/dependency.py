"""The forms that dependencies take, for the rules that say what an operator ties."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np

from ..dims import Dim
from ..graph import Node, Value


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
        left_indices: the tied indices of the left axis; None where both axes are tied index by index.
        right_indices: the index of the right axis that each of the left indices is tied to; None likewise.
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


def along(left: Value, right: Value, axes: range | list[int]) -> Iterator[Dependency]:
    """The same axes of two values, index by index."""
    for axis in axes:
        yield Dependency(Axis(left, axis), Axis(right, axis))


def broadcast(operand: Value, result: Value, drop: int = 0) -> Iterator[Dependency]:
    """The axes of an operand with those of the result that they align with from the right, but for the last `drop`."""
    offset = result.type.rank - operand.type.rank
    for axis in range(operand.type.rank - drop):
        yield Dependency(Axis(operand, axis), Axis(result, axis + offset))


def spread(outer: Axis, inner: Axis, run: int) -> Dependency:
    """Index i of one axis with the run of indices i * run ... i * run + run - 1 of the other."""
    indices = np.arange(known(outer.size) * run)
    return Dependency(outer, inner, indices // run, indices)


def fold(long: Axis, short: Axis, period: int) -> Dependency:
    """Indices of one axis that are equal modulo the period with one index of the other."""
    indices = np.arange(known(long.size))
    return Dependency(long, short, indices, indices % period)


def run(axis: Axis, length: int) -> Dependency:
    """The runs of indices of an axis, of a length, each of which stands or falls as a whole."""
    indices = np.arange(known(axis.size))
    return Dependency(axis, axis, indices, indices // max(length, 1) * max(length, 1))


def free(axis: Axis) -> Dependency:
    """The indices of an axis, each of which can go by itself."""
    return Dependency(axis, axis)


def offset(part: Axis, whole: Axis, start: int) -> Dependency:
    """The indices of a part with those of the whole from a place on."""
    indices = np.arange(known(part.size))
    return Dependency(part, whole, indices, indices + start)


def known(size: Dim) -> int:
    """A size, or 0 where it isn't known."""
    return size if isinstance(size, int) else 0


def given(node: Node) -> list[Value]:
    """The inputs that aren't left out."""
    return [value for value in node.inputs if value is not None]


def number(node: Node, name: str, default: int) -> int:
    """A whole number among a node's attributes."""
    held = node.attributes.get(name, default)
    return held if isinstance(held, int) else default


def axis_of(node: Node, rank: int, default: int) -> int:
    """The axis that a node names, counted from the front."""
    return number(node, "axis", default) % rank
