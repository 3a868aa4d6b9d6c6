"""What an error adds to an unknown name."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches

_LONG = 12


def did_you_mean(name: str, known: Iterable[str], *, spell: Callable[[str], str] = repr, cutoff: float = 0.6) -> str:
    """`; did you mean 'x'?` if a known name is near, as `spell` writes it; otherwise nothing."""
    near = get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean {spell(near[0])}?" if near else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` if a known name is near; otherwise `; there are x, y`, or nothing if those are many."""
    names = sorted(known)
    if not names:
        return "; there is none"
    others = f"; there are {', '.join(names)}" if len(names) <= _LONG else ""
    return did_you_mean(name, names, cutoff=0.5) or others
