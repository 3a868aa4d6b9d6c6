"""ONNX Runtime on random graphs, in a process of its own: it may end a process over an odd one."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from planish.ir.graph import Graph
from planish.ir.numerics import Outputs
from planish.ir.text import print_graph, weights

from .checks import Broken, State, unequal
from .graphs import Sample

_SECONDS = 120.0
"""After which a graph counts as hung."""


class Runtime:
    """ONNX Runtime, with what it refused, and where it computes something else than the interpreter.

    Attributes:
        agreed: graphs on which it computes what the interpreter computes.
        refused: why it can't run others.
        strange: what it computes of others that neither the interpreter nor the standard says.
    """

    def __init__(self) -> None:
        self.agreed = 0
        self.refused: list[str] = []
        self.strange: list[str] = []
        self._pool: ProcessPoolExecutor | None = None

    def __str__(self) -> str:
        return f"{self.agreed} agreed, {len(self.refused)} refused, {len(self.strange)} strange"

    def run(self, graph: Graph, probes: Sequence[Mapping[str, Any]]) -> Sequence[Outputs] | str:
        """The outputs, or why there are none."""
        self._pool = self._pool or ProcessPoolExecutor(1, get_context("spawn"))
        try:
            return self._pool.submit(_run, print_graph(graph), weights(graph), list(probes)).result(_SECONDS)
        except BrokenProcessPool:
            self._pool = None
            return "the process died"

    def hold(self, sample: Sample, states: Sequence[tuple[str, State]]) -> None:
        """Hold what passes made of a graph to what the runtime makes of it before them.

        Raises:
            Broken: it gives other outputs after a pass, or none.
        """
        before = self.run(sample.graph, sample.probes)
        if isinstance(before, str):
            self.refused.append(before)
            return
        if different := unequal(sample, sample.outputs, before, is_exact=False):
            self.strange.append(f"{different}\n{sample}")
            return
        self.agreed += 1
        for name, state in states:
            after = self.run(state.graph, sample.probes)
            if isinstance(after, str):
                raise Broken(f"after {name}, ONNX Runtime refuses: {after}\n{print_graph(state.graph)}")
            if different := unequal(sample, sample.outputs, after, is_exact=False):
                raise Broken(f"after {name}, in ONNX Runtime: {different}\n{print_graph(state.graph)}")

    def end(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


@contextmanager
def runtime() -> Iterator[Runtime]:
    """A runtime whose process ends with it."""
    held = Runtime()
    try:
        yield held
    finally:
        held.end()


def _run(text: str, arrays: dict[str, Any], probes: list[Mapping[str, Any]]) -> list[Outputs] | str:
    import torch

    import planish
    from planish.ir.numerics import flattened
    from planish.ir.text import parse_graph

    torch.set_num_threads(1)
    graph = parse_graph(text, arrays)
    try:
        executable = planish.compile(graph, backend="onnxruntime")
        return [flattened(dict(zip(graph.outputs, executable.run(probe), strict=True))) for probe in probes]
    except planish.PlanishError as error:
        return str(error)
