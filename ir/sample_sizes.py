"""Trials: whether what was found for the sizes of a result holds whatever the sizes are that only data tells.

A symbolic run answers each question about a size (is it 1? less than 10?) for one size and forgets that it asked. So
the operator is run at many sizes as well: at 0, 1 and 2, at sizes that agree with others, and at those that divide
well.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product
from math import prod
from typing import Any, TypeAlias

from .dims import Dim, evaluate
from .unknown import is_from_data

Run: TypeAlias = tuple[Mapping[str, int], Sequence[Dim]]
"""The size of each symbol, and the shape that came out."""

_BASES = ((352, 416, 304, 464, 272, 368, 496), (48, 34, 38, 46, 58, 62))
"""Sizes of the symbols that are not in question, in turns."""
_PLAIN = (
    (2, 3, 5, 7, 11, 13, 17),
    (127, 131, 137, 139, 149, 151, 157),
    (353, 419, 307, 461, 271, 367, 499),
    (100_003, 100_019, 100_043, 100_049, 100_057, 100_069, 100_103),
)
"""Primes of four magnitudes: no quotient, rest or bound of them is one of them in each row."""
_HUGE = (1_000_000_007, 1_000_000_009, 1_000_000_021, 1_000_000_033, 1_000_000_087, 1_000_000_093, 1_000_000_097)
"""Primes beyond the numbers that sizes are compared with, whose products of two still are int64."""
LARGEST_BOUND, UNBOUNDED = 100_000, (1 << 31) - 1
"""The largest number for which sizes in `_PLAIN` tell whether one is bounded by it, and the least that bounds none."""
_SMALL = (0, 1, 2)
_MOST = 300
_LARGEST = 2**31


def sample_sizes(symbols: Iterable[str], numbers: Iterable[int], *, together: bool = False) -> Iterator[dict[str, int]]:
    """Sizes to try, for every symbol.

    Args:
        symbols: the symbols of the inputs.
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


def plain_sizes(symbols: Iterable[str], *, are_numbers: bool = False) -> list[dict[str, int]]:
    """Sizes at which `plain_shape` finds shapes that hold for all that fit together, unless larger numbers bound them.

    Args:
        symbols: the symbols of the inputs.
        are_numbers: whether the sizes are only computed with, so that no tensor has to be that large.
    """
    return _rows(sorted(symbols), (*_PLAIN, _HUGE) if are_numbers else _PLAIN)


def _rows(names: Sequence[str], bases: Sequence[Sequence[int]]) -> list[dict[str, int]]:
    return [
        {name: base[index % len(base)] * (1 + index // len(base)) for index, name in enumerate(names)} for base in bases
    ]


def plain_shape(runs: Sequence[Run], given: Iterable[Dim] = ()) -> tuple[Dim, ...] | None:
    """The shape of runs at `plain_sizes`; None where one of its sizes isn't plain.

    That is a number, a dimension that is given, a symbol, a product of two or of one and a number, or a symbol and a
    number in sum.
    """
    rank = len(runs[0][1])
    if any(len(shape) != rank for _, shape in runs):
        return None
    names = sorted(runs[0][0])
    terms = [*names, *(f"{a} * {b}" for a, b in combinations(names, 2))]
    values = {dim: [evaluate(dim, sizes) for sizes, _ in runs] for dim in (*given, *terms)}
    found = (_plain_dim([shape[axis] for _, shape in runs], values, terms) for axis in range(rank))
    dims = tuple(dim for dim in found if dim is not None)
    return dims if len(dims) == rank else None


def _plain_dim(sizes: Sequence[Any], values: Mapping[Dim, Sequence[int]], terms: Sequence[str]) -> Dim | None:
    """A dimension that has these sizes in the runs, found by the values that other dimensions have in them."""
    if any(type(size) is not int for size in sizes):
        return None
    if len(set(sizes)) == 1:
        return sizes[0]
    for dim, known in values.items():
        if sizes == known:
            return dim
    for term in terms:
        pairs = list(zip(sizes, values[term], strict=True))
        if len(factors := {divmod(*pair) for pair in pairs}) == 1 and not (factor := factors.pop())[1]:
            return f"{factor[0]} * {term}"
        if term.isidentifier() and len(offsets := {size - value for size, value in pairs}) == 1:
            offset = offsets.pop()
            return f"{term} {'+' if offset > 0 else '-'} {abs(offset)}"
    return None


def _one_by_one(names: Sequence[str], values: Sequence[int]) -> Iterator[dict[str, int]]:
    """Each value for all symbols at once, and for each symbol by itself."""
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
