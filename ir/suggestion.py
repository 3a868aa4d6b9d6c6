"""What an error adds to an unknown name."""

from collections.abc import Iterable
from difflib import get_close_matches

_LONG = 12


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` if a known name is near; otherwise `; there are x, y`, or nothing if those are many."""
    names = sorted(known)
    if not names:
        return "; there is none"
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are {', '.join(names)}" if len(names) <= _LONG else ""
