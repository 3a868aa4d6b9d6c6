"""What reshapes tie: axes that stay, and axes that are merged into one or split from one."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from operator import mul
from typing import NamedTuple

import numpy as np

from ..graph import Node, Value
from ..operators import has_trait
from ..traits import Trait
from .dependency import Axis, Dependency, given, known


class Regrouping(NamedTuple):
    """One axis that holds the elements of several, in row-major order.

    Only one of the several can be tied to it: with two of them, each index of either would be with each of the other.
    """

    single: Axis
    several: tuple[Axis, ...]

    def tie(self, place: int) -> Dependency:
        """Tie one of the several: an index of it stands for all places of the single axis that it is part of."""
        shape = [known(axis.size) for axis in self.several]
        indices = np.arange(known(self.single.size))
        return Dependency(self.several[place], self.single, np.unravel_index(indices, shape)[place], indices)


def reshape(node: Node) -> Iterator[Dependency]:
    """Tie the axes that stay as they are."""
    x, y = given(node)[0], node.output
    for axes, others in _blocks(node):
        if len(axes) == len(others) == 1:
            yield Dependency(Axis(x, axes[0]), Axis(y, others[0]))


def regroupings(node: Node) -> list[Regrouping]:
    """The axes of a reshape that are merged into one, or split from one."""
    if not has_trait(node.operator, Trait.RESHAPING) or not all(
        value.type.is_ranked for value in (*given(node), *node.outputs)
    ):
        return []
    x, y = given(node)[0], node.output
    found: list[Regrouping] = []
    for axes, others in _blocks(node):
        before, after = tuple(Axis(x, axis) for axis in axes), tuple(Axis(y, other) for other in others)
        if len(axes) > 1 and len(others) > 1:
            found += _factored(before, after)
        elif len(others) > 1:
            found.append(Regrouping(before[0], after))
        elif len(axes) > 1:
            found.append(Regrouping(after[0], before))
    return found


def _factored(before: tuple[Axis, ...], after: tuple[Axis, ...]) -> list[Regrouping]:
    """Several axes that become several others, as images and heads side by side become their products.

    Each of them is merged from axes of a value that no graph has, whose sizes are the factors that both sides share:
    [2, 192] and [16, 24] from [2, 8, 24].
    """
    ends = [list(accumulate((known(axis.size) for axis in side), mul)) for side in (before, after)]
    cuts = sorted({1, *ends[0], *ends[1]})
    if any(outer % inner for inner, outer in pairwise(cuts)):
        return []
    sizes = tuple(outer // inner for inner, outer in pairwise(cuts))
    factors = Value("factors", before[0].value.type.resized(sizes))
    found: list[Regrouping] = []
    for side, stops in zip((before, after), ends, strict=True):
        for axis, start, stop in zip(side, [1, *stops], stops, strict=False):
            places = range(cuts.index(start), cuts.index(stop))
            found.append(Regrouping(axis, tuple(Axis(factors, place) for place in places)))
    return found


def choose_tied(
    found: Sequence[Regrouping], kind: Callable[[Axis], object], is_frozen: Callable[[Axis], bool]
) -> list[int]:
    """Which of the several axes each regrouping ties: heads of attention, channels that are shuffled.

    Axes that are tied to each other by all that isn't a regrouping are of one kind. A kind is chosen everywhere or
    nowhere, or else it could not lose an index: the one that is outermost most often among those that aren't frozen
    anyway, and of several such the largest.

    Args:
        found: all regroupings of a graph.
        kind: returns the kind of an axis.
        is_frozen: returns whether no index of an axis can be removed.
    """
    free = [[place for place, axis in enumerate(it.several) if not is_frozen(axis)] or [0] for it in found]
    votes = Counter(kind(it.several[places[0]]) for it, places in zip(found, free, strict=True))
    return [
        max(places, key=lambda place: (votes[kind(it.several[place])], known(it.several[place].size), -place))
        for it, places in zip(found, free, strict=True)
    ]


def _blocks(node: Node) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest runs of axes of input and output that hold the same elements; axes of size 1 are left out."""
    x, y = given(node)[0], node.output
    if node.operator == "Reshape" and not _is_writable(x, y):
        return
    left = [axis for axis in range(x.type.rank) if x.shape[axis] != 1]
    right = [axis for axis in range(y.type.rank) if y.shape[axis] != 1]
    while left and right and x.shape[left[0]] == y.shape[right[0]]:
        yield [left.pop(0)], [right.pop(0)]
    while left and right and x.shape[left[-1]] == y.shape[right[-1]]:
        yield [left.pop()], [right.pop()]
    yield from _runs(x, left, y, right)


def _is_writable(x: Value, y: Value) -> bool:
    """Whether a constant can say the shape of a reshape: 0 copies a dimension, -1 stands for one more unknown."""
    unknown = [axis for axis, dim in enumerate(y.shape) if isinstance(dim, str)]
    return len([axis for axis in unknown if axis >= x.type.rank or x.shape[axis] != y.shape[axis]]) <= 1


def _runs(x: Value, left: list[int], y: Value, right: list[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest runs of axes of two shapes that hold as many elements as each other."""
    if not all(isinstance(dim, int) and dim > 0 for dim in (*[x.shape[i] for i in left], *[y.shape[i] for i in right])):
        return
    while left and right:
        axes, others = [left.pop(0)], [right.pop(0)]
        ahead, behind = known(x.shape[axes[0]]), known(y.shape[others[0]])
        while ahead != behind:
            if ahead < behind:
                axes.append(left.pop(0))
                ahead *= known(x.shape[axes[-1]])
            else:
                others.append(right.pop(0))
                behind *= known(y.shape[others[-1]])
        yield axes, others
