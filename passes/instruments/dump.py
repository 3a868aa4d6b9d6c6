"""`--dump-dir`: the graph after each pass as a numbered text file, with a diff to the one before."""

import re
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from ...ir.blocks import blocks
from ...ir.errors import UsageError
from ...ir.graph import Graph
from ...ir.text import print_graph, weights
from ..base import Pass, PassContext
from ..instrument import Instrument
from ..pipeline import format_pass
from .diff import unified_diff

_UNUSUAL = re.compile(r"[^\w.-]+")
"""The characters that names of files don't keep."""


class Dump(Instrument):
    """Writes `00-source.txt`, `01-fold-constants.txt`, and where a pass changed something `01-fold-constants.diff`.

    A pass that is found wrong has its files as well. The data of large constants is not in the text; a checksum of each
    stands below the graph, so that the diff shows which ones a pass changed. A build runs a second pipeline, the
    backend's: its files follow, with a source of their own.

    Args:
        folder: the folder for the files, which is made, or is empty.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._last: tuple[str, list[str]] = "", []

    def start(self, graph: Graph, context: PassContext) -> None:
        if not self._count and self._folder.is_dir() and any(self._folder.iterdir()):
            raise UsageError(f"the folder {self._folder} is not empty: dump into another, or remove it")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write("source", "", graph)

    def ran(self, step: Pass, graph: Graph) -> None:
        self._write(step.name, format_pass(step), graph)

    def _write(self, name: str, text: str, graph: Graph) -> None:
        """Write the files of one point.

        Args:
            name: the pass's name.
            text: the pass with its options, for the head of the diff; empty for the source.
            graph: the graph at this point.
        """
        stem = f"{self._count:02}-{_UNUSUAL.sub('-', name)}"
        lines = [*print_graph(graph).splitlines(keepends=True), *_checksums(graph)]
        (self._folder / f"{stem}.txt").write_text("".join(lines), encoding="utf-8")
        old, before = self._last
        if text and lines != before:
            diff = unified_diff(before, lines, (old, f"{stem}.txt\t{text}"))
            (self._folder / f"{stem}.diff").write_text("".join(diff), encoding="utf-8")
        self._last = f"{stem}.txt", lines
        self._count += 1


def _checksums(graph: Graph) -> Iterator[str]:
    """A comment for each constant whose data the text leaves out."""
    for name, array in weights(graph).items():
        total = 0
        for block in blocks(array):
            total = crc32(block, total)
        yield f"// crc32 {total:08x} of %{name}\n"
