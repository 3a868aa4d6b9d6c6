"""Answers that are kept by what they depend on: layers repeat one another, and graphs are looked at many times."""

from collections.abc import Hashable
from typing import TypeVar

Answer = TypeVar("Answer")

_MOST = 1_000
"""The most answers to one question; when there are so many, all are forgotten."""


def keep(found: dict[Hashable, Answer], key: Hashable, answer: Answer) -> Answer:
    """Keep an answer, and return it."""
    if len(found) >= _MOST:
        found.clear()
    found[key] = answer
    return answer
