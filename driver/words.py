"""Ratios in words, in the direction in which they went, and names in columns."""

from collections.abc import Iterator, Mapping

from .measurement import Ratio


def faster(ratio: Ratio) -> str:
    """How much faster or slower something is, with quartiles."""
    if round(ratio.median, 2) == 1:
        return "the same"
    return f"{ratio} faster" if ratio.median >= 1 else f"{ratio.inverse} slower"


def at_sizes(sizes: Mapping[str, int]) -> str:
    """Sizes of symbolic dimensions, apart from those of 1, such as that of a batch; empty where there are none."""
    return ", ".join(f"{name} {size}" for name, size in sizes.items() if size != 1)


def smaller(ratio: float) -> str:
    """How much smaller or larger something is."""
    if round(ratio, 2) == 1:
        return "the same"
    return f"{ratio:.2f}x smaller" if ratio >= 1 else f"{1 / ratio:.2f}x larger"


def folded_lines(name: str, width: int) -> Iterator[str]:
    """A name in lines of at most so many characters, which end behind a mark where there is one in the second half."""
    while len(name) > width > 0:
        end = max(name.rfind(mark, width // 2, width) for mark in ",.:/| ") + 1 or width
        yield name[:end]
        name = name[end:]
    yield name
