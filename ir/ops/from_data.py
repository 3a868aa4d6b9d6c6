"""How types are inferred where an operator's result has sizes that only data tells.

    @operator("TopK", from_data={"k": FromData(lambda axis: [axis], stand_in=0)})

says: where `k` is not known at compile time, the function is run with 0 for it, and the size along `axis` is unknown.

A rule is called with those of the operator's arguments that it names: tensors without data, attributes, and of an input
that is read on the host the row of its elements, with `UNKNOWN` in the place of each that depends on data. Where not
even their number is known, the row itself is `UNKNOWN`. The input that the rule is for is called `row`.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from torch import Tensor

from ..unknown import UNKNOWN, is_unknown
from .sizes import is_known

Rule: TypeAlias = Callable[..., Any]
Axes: TypeAlias = Iterable[int]
"""The axes that have sizes of their own, the same ones in every output."""


class RankFromData(Exception):  # noqa: N818 -- a finding, not an error
    """The number of a result's axes depends on data."""


@dataclass(frozen=True, slots=True)
class FromData:
    """What depends on an input that is known when the operator runs, and not before.

    Attributes:
        sizes: a rule for the axes of the outputs that get sizes of their own: those of every output, where two outputs
            have the same size along an axis, or for each output a mapping from axes to numbers, where equal numbers
            are equal sizes. It raises `RankFromData` where it can't tell how many axes there are.
        stand_in: the number that stands for each unknown element of an input that is read on the host, or a rule for
            the whole row, or for None if the operator does without.
        is_size: whether the elements are the sizes; numbers are then positions in the row.
    """

    sizes: Rule
    stand_in: int | Rule = 0
    is_size: bool = False

    def row(self, name: str, arguments: Mapping[str, Any]) -> list[Any] | None:
        """The elements with which the function is run."""
        if isinstance(self.stand_in, int):
            return filled(arguments[name], self.stand_in, 1)
        return _apply(self.stand_in, name, arguments)

    def axes(self, name: str, arguments: Mapping[str, Any]) -> list[Any]:
        """What the rule for the sizes gives."""
        return list(_apply(self.sizes, name, arguments))


def numbered(axes: list[Any], ranks: Sequence[int]) -> list[dict[int, int]]:
    """The numbers of each output's unknown sizes by axis, from what a rule gave and the outputs' ranks."""
    if not axes or not isinstance(axes[0], Mapping):
        return [{axis % rank: axis % rank for axis in axes} for rank in ranks]
    return [{axis % rank: number for axis, number in sizes.items()} for rank, sizes in zip(ranks, axes, strict=False)]


def _apply(rule: Rule, name: str, arguments: Mapping[str, Any]) -> Any:
    """Call a rule for an input with the arguments that it names."""
    given = {**arguments, "row": arguments[name]}
    return rule(**{parameter: given[parameter] for parameter in _names(rule) if parameter in given})


@cache
def _names(rule: Rule) -> tuple[str, ...]:
    return tuple(inspect.signature(rule).parameters)


def nothing() -> Axes:
    """The rule of an input that decides no size."""
    return ()


NOTHING = FromData(nothing)


def places(row: Sequence[Any]) -> list[int]:
    """Where a row of elements is unknown.

    Raises:
        RankFromData: the whole row is unknown, even the number of its elements.
    """
    if row is UNKNOWN:
        raise RankFromData
    return [index for index, element in enumerate(row) if element is UNKNOWN]


def along(x: Tensor, row: Sequence[Any], axes: Sequence[int] | None = None) -> Axes:
    """The axes, of the ones named or of all, whose elements are unknown in a row of one or two for each axis."""
    if is_unknown(axes):
        return range(x.ndim)
    named = range(x.ndim) if axes is None else [axis % x.ndim for axis in axes]
    return named if row is UNKNOWN else [named[index % len(named)] for index in places(row)]


def for_each_axis(value: int, times: int = 1) -> Rule:
    """The stand-in of a row of one element, or more, for each of the axes named or of all."""

    def stand_in(x: Tensor, row: Sequence[Any], axes: Sequence[int] | None = None) -> list[Any]:
        return filled(row, value, times * (x.ndim if axes is None or axes is UNKNOWN else len(axes)))

    return stand_in


def filled(row: Sequence[Any], value: Any, count: int) -> list[Any]:
    """A row with a value in the place of each unknown element; `count` of them if not even their number is known."""
    return [value] * count if row is UNKNOWN else [value if element is UNKNOWN else element for element in row]


def changeable(x: Tensor, axes: Axes) -> Axes:
    """The axes along which a tensor isn't certain to have exactly one element."""
    return [axis for axis in axes if not is_known(x.shape[axis], 1)]
