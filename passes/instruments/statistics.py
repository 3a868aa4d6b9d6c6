"""`--stats`: what the passes did in all, and what the graph was before and is after them."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar, TextIO

from ...ir.analysis.cost import summarize
from ...ir.graph import Graph, nested
from ..base import PassContext
from ..instrument import Instrument, PassRecord
from ..units import show_bytes, show_count


class Statistics(Instrument):
    """Counts rewrites by pass and name, and prints them at the end with nodes, constants and bytes before and after.

    Args:
        stream: the stream to print to; stderr where none is given.
    """

    name: ClassVar[str] = "stats"

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._rewrites: Counter[tuple[str, str]] = Counter()
        self._graph = Graph()
        self._symbols: Mapping[str, int] = {}
        self._before: Sequence[str] = ()

    def start(self, graph: Graph, context: PassContext) -> None:
        self._graph, self._symbols = graph, context.sizes
        self._before = self._sizes()
        self._rewrites.clear()

    def after(self, record: PassRecord, graph: Graph) -> None:
        self._rewrites.update({(record.name, rewrite): count for rewrite, count in record.result.counts.items()})

    def finish(self) -> None:
        rewrites = [(name, rewrite, str(count)) for (name, rewrite), count in self._rewrites.items() if count]
        words = ("nodes", "constants", "parameters", "bytes", "FLOPs")
        sizes = list(zip(words, self._before, self._sizes(), strict=True))
        rows = [("pass", "rewrite", "times"), *rewrites, ("", "", ""), ("graph", "before", "after"), *sizes]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print(line.rstrip(), file=self._stream or sys.stderr)

    def _sizes(self) -> Sequence[str]:
        cost = summarize(self._graph, self._symbols)
        return (
            str(cost.nodes),
            str(sum(len(part.constants) for part in nested(self._graph))),
            show_count(cost.parameters),
            show_bytes(cost.bytes),
            show_count(cost.flops),
        )
