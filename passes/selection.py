"""Which layers a pass may touch: the globs of its options `only` and `skip`."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ..ir.graph import Location


def is_selected(location: Location, only: Sequence[str], skip: Sequence[str], operator: str = "") -> bool:
    """Whether a layer's module path, or its operator, matches one of `only` (or that is empty) and none of `skip`."""

    def matches(patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for name in (location.module, operator) for pattern in patterns)

    return (not only or matches(only)) and not matches(skip)
