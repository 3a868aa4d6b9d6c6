"""How many channels go by shares that are given, of all groups or by layer, as in `stem*:0.25`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor
from typing import Self

from ...ir.errors import UsageError
from ...ir.graph import Graph, nested_nodes
from .. import units
from ..selection import Selection
from .allocation import Candidate, Counts


@dataclass(frozen=True, slots=True)
class Ratios:
    """The share of each group's channels that is removed.

    Attributes:
        rows: layers, and the share of the groups that they compute; the first row that has a group's layer counts.
        default: the share of all other groups.
    """

    rows: Sequence[tuple[Selection, float]]
    default: float

    @classmethod
    def read(cls, texts: Iterable[str], default: float) -> Self:
        """Read rows from texts `glob:share`.

        Raises:
            UsageError: a text is none of these.
        """
        return cls([_row(text) for text in texts], default)

    @property
    def are_given(self) -> bool:
        """Whether they say how much is removed."""
        return bool(self.rows or self.default)

    def counts(self, candidates: Sequence[Candidate]) -> Counts:
        """How many channels of each candidate are removed: what is left is the nearest multiple of its step."""
        counts: Counts = {}
        for number, candidate in enumerate(candidates):
            size, step = candidate.group.size, candidate.step
            left = max(step, step * floor(size * (1 - self._of(candidate)) / step + 0.5))
            counts[number] = max(0, size - left)
        return counts

    def why_none(self, candidate: Candidate) -> str:
        """Why a candidate loses no channel."""
        ratio = self._of(candidate)
        if not ratio:
            return "because their ratio is 0"
        return f"because ratio={ratio:g} rounds to none of them in steps of {candidate.step}: give a larger ratio"

    def doubts(self, graph: Graph) -> list[str]:
        """A sentence for each glob that matches nothing."""
        return [
            f"no layer is called {glob}, which ratios= names; `planish inspect` lists what there is"
            for layers, _ in self.rows
            for glob in layers.unmatched(nested_nodes(graph))
        ]

    def _of(self, candidate: Candidate) -> float:
        own = [node for node, _ in candidate.group.producers]
        return next((share for layers, share in self.rows if any(node in layers for node in own)), self.default)


def _row(text: str) -> tuple[Selection, float]:
    glob, _, share = text.rpartition(":")
    try:
        ratio = units.parse(share, units.PARTS)
    except ValueError:
        ratio = 1.0
    if not glob or ratio >= 1:
        raise UsageError(
            f"prune-channels: ratios are of the form layer:share, with a share from 0 to less than 1, not {text!r}"
        )
    return Selection().narrowed((glob.strip(),), ()), ratio
