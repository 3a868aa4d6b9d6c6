"""The graph before and after each pass that changed it, as differences: what the page's slider goes through."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...ir.analysis.cost import Sizes
from ...ir.graph import Graph
from .nodes import TEXTS, NodeRows, Row


@dataclass(frozen=True, slots=True)
class Change:
    """What a pass changed, or several taken together, or the whole graph as it was read.

    Attributes:
        numbers: the passes' rows in the table of passes; 0 is the graph as it was read.
        made: the nodes that are new or changed, by name.
        gone: the names of nodes that are no more.
    """

    numbers: tuple[int, ...]
    made: Mapping[str, Row]
    gone: Sequence[str]

    def then(self, later: "Change") -> "Change":
        """What this change and the next one come to together."""
        made = {name: row for name, row in self.made.items() if name not in set(later.gone)} | dict(later.made)
        gone = [name for name in dict.fromkeys((*self.gone, *later.gone)) if name not in made]
        return Change((*self.numbers, *later.numbers), made, gone)


class History:
    """Follows a graph through its passes.

    Args:
        sizes: the sizes of symbolic dimensions that operations are counted with.
    """

    def __init__(self, sizes: Sizes) -> None:
        self._rows = NodeRows(sizes)
        self._last: dict[str, Row] = {}
        self.changes: list[Change] = []

    def see(self, number: int, graph: Graph) -> None:
        """Note what a graph has become after a pass, unless it is as it was.

        Args:
            number: the pass's row in the table of passes; 0 is the graph as it was read.
            graph: the graph after the pass.
        """
        now = self._rows.rows(graph)
        made = {name: row for name, row in now.items() if self._last.get(name) != row}
        gone = [name for name in self._last if name not in now]
        if made or gone:
            self.changes.append(Change((number,), made, gone))
        self._last = now

    def plain(self) -> Any:
        """All of it as plain values, for JSON."""
        return encoded(self.changes)

    def resume(self, held: Any) -> None:
        """Go on from the history of an earlier build's first steps.

        Args:
            held: the history, as `plain` returned it.
        """
        self.changes = decoded(held)
        self._last = final(self.changes)


def final(changes: Sequence[Change]) -> dict[str, Row]:
    """The graph that changes lead to, in an order in which nodes come behind what they read."""
    rows: dict[str, Row] = {}
    for change in changes:
        for name in change.gone:
            rows.pop(name, None)
        rows.update(change.made)
    waiting = {name: sum(it in rows for it in row.inputs) for name, row in rows.items()}
    readers: dict[str, list[str]] = {name: [] for name in rows}
    for name, row in rows.items():
        for it in row.inputs:
            readers.get(it, []).append(name)
    order = [name for name, count in waiting.items() if not count]
    for name in order:
        for reader in readers[name]:
            waiting[reader] -= 1
            if not waiting[reader]:
                order.append(reader)
    return {name: rows[name] for name in dict.fromkeys((*order, *rows))}  # what can't be ordered comes last


def encoded(changes: Sequence[Change]) -> dict[str, Any]:
    """Changes as plain values, in which each text stands once and is a number elsewhere."""
    numbers: dict[str, int] = {}

    def number(text: str) -> int:
        return numbers.setdefault(text, len(numbers))

    steps = [
        {
            "numbers": list(change.numbers),
            "made": [
                [*map(number, row.texts), *row[TEXTS:-1], *map(number, row.inputs)] for row in change.made.values()
            ],
            "gone": [number(name) for name in change.gone],
        }
        for change in changes
    ]
    return {"texts": list(numbers), "steps": steps}


def decoded(held: Any) -> list[Change]:
    """The changes that `encoded` made plain values of."""
    texts: list[str] = held["texts"]
    last = len(Row._fields) - 1
    found: list[Change] = []
    for step in held["steps"]:
        rows = (
            Row._make((*(texts[at] for at in it[:TEXTS]), *it[TEXTS:last], tuple(texts[at] for at in it[last:])))
            for it in step["made"]
        )
        gone = [texts[at] for at in step["gone"]]
        found.append(Change(tuple(step["numbers"]), {row.name: row for row in rows}, gone))
    return found


def fitted(changes: Sequence[Change], most: int) -> dict[str, Any] | None:
    """Changes as plain values that take so many bytes of JSON at the most.

    Changes in between are taken together until they fit; None where the first and the last graph alone don't.
    """
    kept = list(changes)
    while kept:
        plain = encoded(kept)
        if size_of(plain) <= most:
            return plain
        if len(kept) <= 2:
            return None
        first, *others = kept
        pairs = [others[at : at + 2] for at in range(len(others) % 2, len(others), 2)]
        kept = [first, *others[: len(others) % 2], *(a.then(b) for a, b in pairs)]
    return None


def size_of(plain: Any) -> int:
    """The bytes of plain values as JSON."""
    return len(json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode(errors="replace"))
