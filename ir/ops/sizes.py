"""Sizes that may be symbolic: asking one for its value, or branching on it, would fix it to the one tried."""

from collections.abc import Sequence

import torch


def larger(a: int, b: int) -> int:
    return torch.sym_max(a, b)  # pyright: ignore[reportReturnType]  # torch declares numbers at large


def smaller(a: int, b: int) -> int:
    return torch.sym_min(a, b)  # pyright: ignore[reportReturnType]


def is_known(size: int, value: int) -> bool:
    """Whether a size is a value for certain."""
    return isinstance(size, int) and size == value


def place_of(axis: int, rank: int) -> int:
    """An axis counted from the first, where it may be counted from the end.

    Raises:
        ValueError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"there is no axis {axis} among {rank}")
    return axis % rank


def places_of(axes: Sequence[int], rank: int) -> list[int]:
    """Several axes, counted from the first.

    Raises:
        ValueError: there is no such axis, or one is named twice.
    """
    found = [place_of(axis, rank) for axis in axes]
    if len({*found}) < len(found):
        raise ValueError(f"an axis is named twice: {axes}")
    return found
