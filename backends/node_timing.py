"""How a backend times the nodes of several graphs: all of a graph's in one run, and the graphs in turn."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..ir.drafts import workspace
from ..ir.graph import Graph
from .base import NodeTimes
from .idle import wait_until_idle

QUIET = 0.2
"""The quantile of a node's times that counts: other work only ever slows a run down."""

_ROUNDS = 10
_ROUND, _RUNS = 0.02, (5, 50)
"""The seconds of a round, and the fewest and the most runs in it."""


class WatchedGraph(ABC):
    """A compiled graph whose nodes are timed whenever it runs."""

    def __init__(self) -> None:
        self.runs = 0
        """How often it runs in a round, by what the first run takes, which belongs to no round."""

    @abstractmethod
    def run(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Run once."""

    def is_warm(self, number: int) -> bool:
        """Whether a run, by its number from 0, isn't the first of a round."""
        return number > 0 and (number - 1) % self.runs > 0

    @abstractmethod
    def times(self) -> NodeTimes:
        """The times of the nodes, as a quantile of all runs."""

    def run_round(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Run often enough for caches to be its own; the first time of a round warms them."""
        if not self.runs:
            start = time.perf_counter()
            self.run(feeds)
            self.runs = int(np.clip(_ROUND / (time.perf_counter() - start), *_RUNS))
        for _ in range(self.runs):
            self.run(feeds)


def timed_in_turn(
    watch: Callable[[Graph, Path], WatchedGraph], graphs: Sequence[Graph], feeds: Mapping[str, np.ndarray]
) -> list[NodeTimes]:
    """Time the nodes of graphs.

    Args:
        watch: compiles a graph in a folder, and returns it ready to be timed.
        graphs: the graphs to time.
        feeds: one inference's inputs.
    """
    with workspace() as folder:
        watched = [watch(graph, folder / str(number)) for number, graph in enumerate(graphs)]
        for _ in range(_ROUNDS):
            for held in watched:
                wait_until_idle()
                held.run_round(feeds)
        return [held.times() for held in watched]
