"""Trials: whether what was found for the sizes of a result holds whatever the sizes are that only data tells.

A symbolic run answers each question about a size (is it 1? less than 10?) for one size and forgets that it asked. So
the operator is run at many sizes as well: at 0, 1 and 2, at sizes that agree with others, and at those that divide
well.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import TypeAlias

from .dims import Dim, evaluate
from .unknown import is_from_data

Run: TypeAlias = tuple[Mapping[str, int], Sequence[Dim]]
"""The size of each symbol, and the shape that came out."""

_BASES = ((352, 416, 304, 464, 272, 368, 496), (48, 34, 38, 46, 58, 62))
"""Sizes of the symbols that are not in question, in turns."""
_PLAIN = (
    (2, 3, 5, 7, 11, 13, 17),
    (353, 419, 307, 461, 271, 367, 499),
    (20011, 20021, 20023, 20029, 20047, 20051, 20063),
)
"""Primes of three magnitudes: no quotient, rest, bound or sum of them is one of them in each row."""
_SMALL = (0, 1, 2)
_MOST = 300
_LARGEST = 2**31


def sample_sizes(symbols: Iterable[str], numbers: Iterable[int], *, together: bool = False) -> Iterator[dict[str, int]]:
    """Sizes to try, for every symbol.

    Args:
        symbols: those of the inputs.
        numbers: sizes, and elements that are read on the host, which sizes may have to agree with or to divide by.
        together: whether several sizes may have to fit at once, so that all combinations are tried if they are few.
    """
    names, numbers = sorted(symbols), sorted({number for number in numbers if number > 0})
    asked = [name for name in names if is_from_data(name)]
    multiples = (prod(numbers), 2 * prod(numbers)) if prod(numbers) < _LARGEST else ()
    bases = _rows(names, _BASES)
    seen: set[tuple[int, ...]] = set()
    for usual in (*bases, dict.fromkeys(names, 1)):
        values = tuple(dict.fromkeys((*_SMALL, *numbers, *multiples, *usual.values())))
        for row in ({}, *(_combined(asked, values) if together else _one_by_one(asked, values))):
            sizes = usual | row
            if (key := tuple(sizes.values())) not in seen:
                seen.add(key)
                yield sizes


def plain_sizes(symbols: Iterable[str]) -> list[dict[str, int]]:
    """Sizes at which a result's are numbers or symbols only if they are so at any that go together."""
    return _rows(sorted(symbols), _PLAIN)


def _rows(names: Sequence[str], bases: Sequence[Sequence[int]]) -> list[dict[str, int]]:
    return [
        {name: base[index % len(base)] * (1 + index // len(base)) for index, name in enumerate(names)} for base in bases
    ]


def common_shape(runs: Sequence[Run], dims: Iterable[Dim]) -> tuple[Dim, ...] | None:
    """The shape of all runs by numbers and some dimensions; None where these don't say it."""
    first, dims = runs[0][1], tuple(dims)
    if any(len(shape) != len(first) for _, shape in runs):
        return None
    found = [
        next((dim for dim in (size, *dims) if holds(dim, axis, runs)), None) if type(size) is int else None
        for axis, size in enumerate(first)
    ]
    return None if None in found else tuple(found)


def _one_by_one(names: Sequence[str], values: Sequence[int]) -> Iterator[dict[str, int]]:
    """The same for all, and each by itself."""
    for value in values:
        yield dict.fromkeys(names, value)
        if len(names) > 1:
            yield from ({name: value} for name in names)


def _combined(names: Sequence[str], values: Sequence[int]) -> Iterator[dict[str, int]]:
    if len(values) ** len(names) > _MOST:
        return _one_by_one(names, values)
    return (dict(zip(names, row, strict=True)) for row in product(values, repeat=len(names)))


def holds(dim: Dim, axis: int, runs: Iterable[Run]) -> bool:
    """Whether a dimension is that of an axis in every run."""
    try:
        return all(evaluate(dim, sizes) == shape[axis] for sizes, shape in runs)
    except (ArithmeticError, ValueError):
        return False


def are_telling(runs: Sequence[Run]) -> bool:
    """Whether runs show what a size depends on: all symbols but one, which is bound to a number, had several sizes."""
    seen = {name: {sizes[name] for sizes, _ in runs} for name in runs[0][0]}
    return sum(len(sizes) == 1 for sizes in seen.values()) <= 1
