"""Timing ends early only where chance hardly explains what it saw."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import binom

from planish.ir.graph import Graph
from planish.passes.base import Profile
from planish.passes.profit import slower


def rounds_needed(faster: Sequence[bool]) -> int:
    """The number of rounds after which timing ends, of which the second graph is faster in some."""
    taken: list[int] = []

    def profile(
        graphs: Sequence[Graph], *, by_layer: bool = True, settled: Callable[[np.ndarray], bool] | None = None
    ) -> Sequence[Profile]:
        assert settled is not None
        seconds = np.array([[1.0] * len(faster), [0.9 if it else 1.5 for it in faster]])
        taken.append(next((n for n in range(1, len(faster) + 1) if settled(seconds[:, :n])), len(faster)))
        return [Profile(row[: taken[0]], {}, {}) for row in seconds]

    slower(profile, Graph(), Graph())
    return taken[0]


def test_four_rounds_that_agree_are_enough() -> None:
    assert rounds_needed([True] * 25) == 4


def test_a_slower_round_asks_for_more() -> None:
    for place in range(4):
        needed = rounds_needed([it != place for it in range(25)])
        assert needed == next(n for n in range(1, 26) if binom.sf(n - 2, n, 0.25) < 0.004)


def test_what_is_slower_is_timed_to_the_end() -> None:
    assert rounds_needed([False] * 25) == 25
