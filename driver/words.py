"""Ratios in words, in the direction in which they went."""

from .measurement import Ratio


def faster(ratio: Ratio) -> str:
    """How much faster or slower something is, with quartiles."""
    if round(ratio.median, 2) == 1:
        return "the same"
    return f"{ratio} faster" if ratio.median >= 1 else f"{ratio.inverse} slower"


def smaller(ratio: float) -> str:
    """How much smaller or larger something is."""
    if round(ratio, 2) == 1:
        return "the same"
    return f"{ratio:.2f}x smaller" if ratio >= 1 else f"{1 / ratio:.2f}x larger"
