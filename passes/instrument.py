"""Instruments watch a pipeline run; the manager knows only this interface."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TextIO

from ..ir.analysis.cost import Cost
from ..ir.graph import Graph
from .base import Effect, Pass, PassResult


@dataclass(frozen=True, slots=True)
class PassRecord:
    """What happened in one step of a pipeline.

    Attributes:
        text: the pass with its options, as in a pipeline.
        name: of the pass.
        effect: that it declares.
        result: its own account.
        seconds: spent in the pass itself.
        cost: of the graph after it.
        drift: relative error of the outputs against the source's after it; None where it wasn't checked.
    """

    text: str
    name: str
    effect: Effect
    result: PassResult
    seconds: float
    cost: Cost
    drift: float | None


class Instrument:
    """Something that watches; every hook does nothing by default."""

    def start(self, graph: Graph) -> None:
        """Called once, with the graph as it was read."""

    def before(self, step: Pass, graph: Graph) -> None:
        """Called before each pass."""

    def after(self, record: PassRecord, graph: Graph) -> None:
        """Called after each pass that was checked and found right."""


class PrintIR(Instrument):
    """Prints the graph before or after passes.

    Args:
        before: names of the passes before which to print; `*` stands for all.
        after: the same for after.
        changed: print after every pass that changed something.
        stream: where to.
    """

    def __init__(
        self,
        before: Iterable[str] = (),
        after: Iterable[str] = (),
        *,
        changed: bool = False,
        stream: TextIO = sys.stderr,
    ) -> None:
        self._before = frozenset(before)
        self._after = frozenset(after)
        self._changed = changed
        self._stream = stream

    def before(self, step: Pass, graph: Graph) -> None:
        if self._before & {step.name, "*"}:
            self._print(f"before {step.name}", graph)

    def after(self, record: PassRecord, graph: Graph) -> None:
        if self._after & {record.name, "*"} or (self._changed and record.result.changed):
            self._print(f"after {record.text}", graph)

    def _print(self, title: str, graph: Graph) -> None:
        from ..ir.text import print_graph

        self._stream.write(f"// {title}\n{print_graph(graph)}\n")
