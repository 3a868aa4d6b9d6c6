"""Backends on random graphs, each in a process of its own: ONNX Runtime may end a process over an odd one."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from planish.ir.graph import Graph
from planish.ir.numerics import Outputs
from planish.ir.text import print_graph, weights

from .checks import Broken, State, decided_by_rounding, differing
from .graphs import Sample
from .unspecified import unspecified

_SHOWN = 60
"""Characters of a reason, by which refusals are counted."""
_SECONDS = 120.0
"""The time after which a graph counts as hung."""


class Runtime:
    """A backend, with what it refused, and where it computes something else than the interpreter.

    Attributes:
        backend: the name of the backend.
        agreed: the number of graphs on which it computes what the interpreter computes.
        refused: the reasons why it can't run others.
        unspecified: the cases of docs/edges.md in which, and only there, it gives something else.
        rounded: the operators inside of which, and only there, rounding decides on what it gives.
        strange: the outputs for others that neither the interpreter nor the standard explains.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.agreed = 0
        self.refused: list[str] = []
        self.unspecified: list[str] = []
        self.rounded: list[str] = []
        self.strange: list[str] = []
        self._pool: ProcessPoolExecutor | None = None

    def __str__(self) -> str:
        rows = [f"{self.backend}: {self.agreed} agreed, {len(self.refused)} refused, {len(self.strange)} strange"]
        reasons = Counter([*map(shortened, self.refused), *self.unspecified, *self.rounded])
        rows += [f"{count:5} x {reason}" for reason, count in reasons.most_common()]
        return "\n".join([*rows, *self.strange])

    def run(self, graph: Graph, probes: Sequence[Mapping[str, Any]]) -> Sequence[Outputs] | str:
        """The outputs, or why there are none."""
        self._pool = self._pool or ProcessPoolExecutor(1, get_context("spawn"))
        try:
            return self._pool.submit(run_here, self.backend, print_graph(graph), weights(graph), list(probes)).result(
                _SECONDS
            )
        except BrokenProcessPool:
            self._pool = None
            return "the process died"

    def hold_last(self, sample: Sample, state: State) -> None:
        """Hold what all passes made of a graph to what it computes; the graph itself is only run if that fails.

        Raises:
            Broken: the backend gives other outputs than the interpreter, though none of the passes is needed for that.
        """
        after = self.run(state.graph, sample.probes)
        if isinstance(after, str) or differing(sample, after):
            self.hold(sample, [("all", state)])
        else:
            self.agreed += 1

    def hold(self, sample: Sample, states: Sequence[tuple[str, State]]) -> None:
        """Hold what passes made of a graph to what the backend makes of it before them.

        Raises:
            Broken: it gives other outputs after a pass, or none.
        """
        before = self.run(sample.graph, sample.probes)
        if isinstance(before, str):
            self.refused.append(before)
            return
        free = unspecified(sample) if differing(sample, before) else {}
        rounded = decided_by_rounding(sample, before, free)
        if different := differing(sample, before, {**free, **rounded}):
            self.strange.append(f"{different}\n{sample}")
            return
        self.agreed += not (free or rounded)
        self.unspecified += free.values()
        self.rounded += rounded.values()
        for name, state in states:
            after = self.run(state.graph, sample.probes)
            if isinstance(after, str):
                raise Broken(f"after {name}, {self.backend} refuses: {after}\n{print_graph(state.graph)}")
            rounded = decided_by_rounding(sample, after, free)  # other outputs than before, perhaps
            if different := differing(sample, after, {**free, **rounded}):
                raise Broken(f"after {name}, in {self.backend}: {different}\n{print_graph(state.graph)}")
            self.rounded += rounded.values()

    def end(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


@contextmanager
def runtime(backend: str) -> Iterator[Runtime]:
    """A backend whose process ends with it."""
    held = Runtime(backend)
    try:
        yield held
    finally:
        held.end()


def shortened(reason: str) -> str:
    """What refusals of one kind have in common."""
    return re.sub(r"^.*?: ", "", reason)[:_SHOWN]


def fed(graph: Graph, probe: Mapping[str, Any]) -> dict[str, Any]:
    """What a graph takes of a probe: passes may have left inputs out."""
    return {value.name: probe[value.name] for value in graph.inputs}


def run_here(backend: str, text: str, arrays: dict[str, Any], probes: list[Mapping[str, Any]]) -> list[Outputs] | str:
    """The outputs of a graph's artifact in this process, or why there are none."""
    import torch

    from planish.backends import find_backend
    from planish.backends.artifact import load, write_artifact
    from planish.backends.tvm.backend import Tvm
    from planish.ir.drafts import workspace
    from planish.ir.errors import PlanishError
    from planish.ir.numerics import flattened
    from planish.ir.text import parse_graph
    from planish.targets.load import load_target

    torch.set_num_threads(1)
    graph = parse_graph(text, arrays)
    found = Tvm(checks_kernels=False) if backend == "tvm" else find_backend(backend)
    try:
        with workspace() as folder:
            write_artifact(folder / "artifact", graph, found, load_target("native"))
            executable = load(folder / "artifact", threads=1)
        runs = [executable.run(fed(graph, probe)) for probe in probes]
        return [flattened(dict(zip(graph.outputs, run, strict=True))) for run in runs]
    except PlanishError as error:
        return str(error)
