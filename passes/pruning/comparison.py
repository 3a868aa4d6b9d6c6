"""Comparison of groups of channels: estimates rank the channels of a group, and exact losses compare groups.

An estimate takes errors of each output of a layer for independent. Those of an image's pixels, or of a sentence's
words, add up instead, so that it is right for one group and many times too low for another; and layers behind make up
for some of them. So some of each group's channels are removed, nothing else, and the model's loss is measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ...ir.analysis.cost import sizes_in, summarize
from ...ir.graph import Graph
from ..base import Feeds, PassContext
from ..judge import ONE_IN, Judge, split
from ..quantization.calibrate import first_batches_of
from .allocation import Candidate, Counts
from .importance import Ranking

_SHARES = (0.5, 0.75, 0.875)
"""The parts of a group's channels that are removed; below the first, losses are small and estimates good enough."""
_SAMPLES = 384
"""How many samples the model without these channels is fitted to and judged on."""

_MOST_OPERATIONS = 5e12
"""How many floating-point operations the comparison may take, minutes of two cores; MiniLM would take far more."""
_RUNS = 3
"""How often a model runs on the data for each number of channels: as it is, while it is fitted, and to be judged."""

_DRAFT_OPERATIONS, _FIT_OPERATIONS = 2e11, 5e11
"""How many operations a graph may take on the samples that a draft, or the final graph, is fitted to: some seconds."""
_DRAFT_SAMPLES, _FIT_SAMPLES = 64, 512
"""How many samples a draft, or the final graph, is fitted to at the least."""

Prune = Callable[[Counts, Sequence[Feeds]], Graph]
"""A function that makes a graph without so many channels of each group, by its number, fitted to some batches."""


def compared(
    graph: Graph,
    candidates: Sequence[Candidate],
    batches: Sequence[Feeds],
    prune: Prune,
    context: PassContext,
    about: str,
) -> list[Candidate] | None:
    """Candidates whose losses were measured on the model, without some numbers of a group's channels alone.

    Between these numbers, losses follow the estimates. None where measuring would take too long, or no output can be
    judged.

    Args:
        graph: the graph to prune.
        candidates: groups with their rankings.
        batches: the batches to fit to and to judge on.
        prune: makes the graphs that are judged.
        context: the context that shares what was measured, and that progress is reported to.
        about: what the losses depend on beside the graph, as text.
    """
    few = first_batches_of(batches, _SAMPLES)
    removed = [_removed(candidate) for candidate in candidates]
    if _RUNS * sum(map(len, removed)) * operations(graph, few) > _MOST_OPERATIONS:
        return None
    fit, judging = split(len(few), len(few))
    judge = Judge(graph, [few[place] for place in judging])
    if not judge.measures:
        return None
    fitted = [few[place] for place in fit]
    found: list[Candidate] = []
    for number, (candidate, counts) in enumerate(zip(candidates, removed, strict=True)):
        context.progress("comparing groups", number, len(candidates))

        def losses(number: int = number, counts: Sequence[int] = counts) -> list[np.ndarray]:
            return [np.array([judge.judge(prune({number: count}, fitted)).loss for count in counts])]

        (exact,) = context.share(f"losses of group {number} by {about}", losses) if counts else (np.empty(0),)
        known = np.isfinite(exact)
        found.append(replace(candidate, ranking=_through(candidate.ranking, np.array(counts)[known], exact[known])))
    return found


def enough_to_draft(graph: Graph, batches: Sequence[Feeds]) -> Sequence[Feeds]:
    """The first batches, enough to compare orders of removal by, and soon run; all where they are few."""
    return _soon_run(graph, batches, _DRAFT_OPERATIONS, _DRAFT_SAMPLES)


def enough_to_fit(graph: Graph, batches: Sequence[Feeds]) -> Sequence[Feeds]:
    """The first batches, as many as channels are ranked by and layers fitted to; all of a model that runs fast."""
    return _soon_run(graph, batches, _FIT_OPERATIONS, _FIT_SAMPLES)


def _soon_run(graph: Graph, batches: Sequence[Feeds], most: float, samples: int) -> Sequence[Feeds]:
    if len(batches) <= ONE_IN:
        return batches
    soon = int(most // max(operations(graph, [max(batches, key=_size)]), 1))
    return batches[: max(soon, len(first_batches_of(batches, samples)), ONE_IN)]


def _size(batch: Feeds) -> int:
    return sum(array.size for array in batch.values() if isinstance(array, np.ndarray))


def operations(graph: Graph, batches: Sequence[Feeds]) -> int:
    """How many floating-point operations a graph takes for batches that are as large as the first."""
    return len(batches) * summarize(graph, sizes_in(graph, batches[0])).flops


def _removed(candidate: Candidate) -> list[int]:
    """The numbers of channels without which the loss of a candidate is measured."""
    size, step = candidate.group.size, candidate.step
    left = {max(step, step * round(size * (1 - share) / step)) for share in _SHARES}
    return sorted(size - count for count in left if count < size)


def _through(ranking: Ranking, counts: np.ndarray, exact: np.ndarray) -> Ranking:
    """A ranking whose losses are exact after some numbers of channels, and follow the old ones between these."""
    if not len(counts):
        return ranking
    exact = np.maximum.accumulate(exact)
    estimated = ranking.losses[counts]
    last = exact[-1] * max(ranking.losses[-1] / max(estimated[-1], 1e-30), 1.0)
    places, heights = np.array([0.0, *estimated, ranking.losses[-1]]), np.array([0.0, *exact, last])
    places += np.arange(len(places)) * 1e-12 * max(places[-1], 1e-30)  # where they don't rise
    return Ranking(ranking.order, np.interp(ranking.losses, places, heights))
