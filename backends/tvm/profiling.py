"""Where a compiled model spends its time, by the nodes of the graph that it was compiled from."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Graph
from ..base import NodeTimes
from ..node_timing import QUIET, WatchedGraph, timed_in_turn
from .compiler.compilation import Compilation
from .runtime import libraries
from .runtime.program import LIBRARY, Program, Stopwatch
from .runtime.storage import carried
from .runtime.weights import read_weights

if TYPE_CHECKING:
    from ...targets import Target


def node_times(legal: Sequence[Graph], target: "Target", feeds: Mapping[str, np.ndarray]) -> list[NodeTimes]:
    """Time the kernels of graphs one by one, while all of a graph's run, and the graphs in turn.

    A kernel counts for the last of the nodes that are fused in it.

    Args:
        legal: the graphs, legal and with their constants folded.
        target: the target, with the number of threads.
        feeds: one inference's inputs.
    """
    return timed_in_turn(lambda graph, folder: _Watched(graph, target, folder), legal, feeds)


class _Watched(WatchedGraph):
    """A compiled graph whose kernels are timed.

    Args:
        graph: the graph whose nodes are timed.
        target: the target, with the number of threads.
        folder: the folder for what is compiled.
    """

    def __init__(self, graph: Graph, target: "Target", folder: Path) -> None:
        super().__init__()
        folder.mkdir()
        compilation = Compilation(graph, graph, target, checks_kernels=False)
        compilation.write(folder)
        libraries.runtime(folder)
        self._modules = {node.outputs[0].name: node.location.module for node in graph.nodes}
        self._kernels = compilation.kernels
        self._inputs = [value.name for value in graph.inputs]
        self._watch = Stopwatch(Program(folder / LIBRARY, read_weights(folder), target.threads))
        self._taken: list[dict[str, float]] = []

    def run(self, feeds: Mapping[str, np.ndarray]) -> None:
        arrays = [carried(np.asarray(feeds[name], order="C")) for name in self._inputs]
        self._taken.append(self._by_module(self._watch(arrays)))

    def times(self) -> NodeTimes:
        warm = [taken for number, taken in enumerate(self._taken) if self.is_warm(number)]
        names = dict.fromkeys([*self._modules.values(), *(name for taken in warm for name in taken)])
        medians = {name: float(np.quantile([taken.get(name, 0.0) for taken in warm], QUIET)) for name in names}
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
