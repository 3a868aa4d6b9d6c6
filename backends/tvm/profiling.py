"""Where a compiled model spends its time, by the nodes of the graph that it was compiled from."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...ir.drafts import workspace
from ...ir.graph import Graph
from ..base import NodeTimes, runs_of_a_round
from .compiler.compilation import Compilation
from .runtime import libraries
from .runtime.program import LIBRARY, Program, Stopwatch
from .runtime.storage import carried
from .runtime.weights import read_weights

if TYPE_CHECKING:
    from ...targets import Target

_ROUNDS = 10


def node_times(legal: Sequence[Graph], target: "Target", feeds: Mapping[str, np.ndarray]) -> list[NodeTimes]:
    """Time the kernels of graphs one by one, while all of a graph's run, and the graphs in turn.

    A kernel counts for the last of the nodes that are fused in it.

    Args:
        legal: with their constants folded.
        target: with the number of threads.
        feeds: one inference's inputs.
    """
    with workspace() as folder:
        watched = [_Watched(graph, target, folder / str(number)) for number, graph in enumerate(legal)]
        for _ in range(_ROUNDS):
            for held in watched:
                held.run(feeds)
        return [held.times() for held in watched]


class _Watched:
    """A compiled graph whose kernels are timed.

    Args:
        graph: whose nodes are timed.
        target: with the number of threads.
        folder: for what is compiled.
    """

    def __init__(self, graph: Graph, target: "Target", folder: Path) -> None:
        folder.mkdir()
        compilation = Compilation(graph, graph, target, checks_kernels=False)
        compilation.write(folder)
        libraries.runtime(folder)
        self._modules = {node.outputs[0].name: node.location.module for node in graph.nodes}
        self._kernels = compilation.kernels
        self._inputs = [value.name for value in graph.inputs]
        self._watch = Stopwatch(Program(folder / LIBRARY, read_weights(folder), target.threads))
        self._count = 0
        self._runs: list[dict[str, float]] = []

    def run(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Run the graph often enough for caches to be its own, and keep the times of all runs but the first."""
        arrays = [carried(np.asarray(feeds[name], order="C")) for name in self._inputs]
        self._count = self._count or runs_of_a_round(lambda: self._watch(arrays))
        self._runs += [self._by_module(self._watch(arrays)) for _ in range(self._count)][1:]

    def times(self) -> NodeTimes:
        """The median of all runs."""
        names = dict.fromkeys([*self._modules.values(), *(name for run in self._runs for name in run)])
        medians = {name: float(np.median([run.get(name, 0.0) for run in self._runs])) for name in names}
        return NodeTimes(medians, {})

    def _by_module(self, calls: Sequence[tuple[str, float]]) -> dict[str, float]:
        """The seconds of each module in one run; the virtual machine's own calls count for nobody."""
        seen, taken = defaultdict[str, int](int), defaultdict[str, float](float)
        for symbol, seconds in calls:
            results = self._kernels.get(symbol, ())
            place = seen[symbol]
            seen[symbol] += 1
            if results:  # of a kernel that runs more often than it is named, the last result stands for the rest
                taken[self._modules.get(results[min(place, len(results) - 1)], "")] += seconds
        return taken
