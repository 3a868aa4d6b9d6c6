"""`--print-ir-before`, `--print-ir-after` and `--print-ir-changed`."""

import sys
from collections.abc import Iterable
from typing import TextIO

from ...ir.graph import Graph
from ...ir.text import print_graph
from ..base import Pass
from ..instrument import Instrument, PassRecord


class PrintIR(Instrument):
    """Prints the graph before or after passes.

    Args:
        before: names of the passes before which to print; `*` stands for all.
        after: names of the passes after which to print, likewise.
        changed: whether to print after every pass that changed something.
        stream: the stream to print to; stderr where none is given.
    """

    def __init__(
        self,
        before: Iterable[str] = (),
        after: Iterable[str] = (),
        *,
        changed: bool = False,
        stream: TextIO | None = None,
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
        (self._stream or sys.stderr).write(f"// {title}\n{print_graph(graph)}\n")
