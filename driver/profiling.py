"""The times that passes decide by: graphs are lowered to the backend at hand, and timed in turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..backends import Backend, backend_names, find_backend
from ..backends.base import NodeTimes
from ..backends.legal import legalized
from ..backends.machine import runs_here
from ..ir.drafts import workspace
from ..ir.graph import Graph
from ..passes.base import Feeds, Profile, Profiler
from ..targets import Target
from .latencies import LatencyTable, TableTiming
from .lowering import lower
from .measurement import Settled, interleaved

_FIRST = "onnxruntime"
"""The backend that graphs are timed on where several may be chosen."""


@dataclass(frozen=True, slots=True)
class GraphProfiler:
    """Times graphs.

    Attributes:
        backend: the backend that runs them.
        target: the target that they are compiled for.
        sample: the inputs that they run on.
    """

    backend: Backend
    target: Target
    sample: Feeds

    def __call__(
        self,
        graphs: Sequence[Graph],
        *,
        wholes: bool = True,
        by_layer: bool = True,
        settled: Settled | None = None,
    ) -> list[Profile]:
        """Time graphs as wholes, in turn, and their operators; see `Profiler`.

        Raises:
            TargetError: the backend can't run them, or doesn't tell what operators take.
        """
        rounds: Sequence[np.ndarray] = [np.empty(0)] * len(graphs)
        times = [NodeTimes({}, {})] * len(graphs)
        if by_layer:
            legal = [legalized(graph, self.target, self.backend) for graph in graphs]
            times = self.backend.node_times(legal, self.target, self.sample)
        if wholes:
            rounds = self._wholes(graphs, settled)
        return [Profile(own, held.modules, held.conversions) for own, held in zip(rounds, times, strict=True)]

    def _wholes(self, graphs: Sequence[Graph], settled: Settled | None) -> list[np.ndarray]:
        with workspace() as scratch:
            models = [
                lower(graph, self.backend, self.target, Path(scratch, str(number)))
                for number, graph in enumerate(graphs)
            ]
            runs = [lambda model=it.executable: model.run(self.sample) for it in models]
            return [latency.compared for latency in interleaved(runs, settled)]


def profiler(choice: str | None, target: Target, sample: Feeds | None) -> Profiler | None:
    """A profiler of graphs on a backend; None without one, or where it compiles slowly or can't time graphs here.

    Args:
        choice: the backend's name, `auto` for ONNX Runtime, or None.
        target: the target that graphs are compiled for.
        sample: the inputs that they run on; None gives no profiler.
    """
    found = _profiler(choice, target, sample)
    return None if found is None or found.backend.compiles_slowly else found


def timings(
    choice: str | None, target: Target, sample: Feeds | None, sizes: Mapping[str, int]
) -> tuple[TableTiming, ...]:
    """Timings of graphs by the user's tables of latencies, one for each backend that may be chosen and can time graphs.

    Args:
        choice: the backend's name, `auto` for all, ONNX Runtime first, or None.
        target: the target that graphs are compiled for.
        sample: the inputs that they run on; None gives no times.
        sizes: the sizes of the symbolic dimensions in the sample.
    """
    names = sorted(backend_names(), key=lambda name: name != _FIRST) if choice == "auto" else [choice]
    found = [it for name in names if (it := _profiler(name, target, sample)) is not None]
    return tuple(TableTiming(it, LatencyTable.of_user(it.backend, target), sizes) for it in found)


def _profiler(choice: str | None, target: Target, sample: Feeds | None) -> GraphProfiler | None:
    if choice is None or sample is None:
        return None
    backend = find_backend(_FIRST if choice == "auto" else choice)
    if (
        not backend.tells_times
        or backend.available()
        or (backend.native and not runs_here(target.architecture, target.features))
    ):
        return None
    return GraphProfiler(backend, target, sample)
