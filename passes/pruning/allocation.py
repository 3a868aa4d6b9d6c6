"""How many channels each group gives for a budget of operations: first those that lose the least for what they save."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...ir.analysis.cost import flops
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.operators import has_trait
from ...ir.traits import Trait
from .importance import Ranking

if TYPE_CHECKING:  # networkx and scipy come with it, which listing the passes must not import
    from ...ir.analysis.channels import ChannelGroup


@dataclass(frozen=True, slots=True)
class Candidate:
    """A group that may lose channels.

    Attributes:
        group: of coupled channels.
        ranking: of its channels.
        step: what is left is a multiple of it.
    """

    group: "ChannelGroup"
    ranking: Ranking
    step: int

    def next(self, removed: int) -> int:
        """The next larger number of channels that may be removed; the same number where there is none."""
        left = (self.group.size - removed - 1) // self.step * self.step
        return self.group.size - left if left else removed


@dataclass(frozen=True, slots=True)
class Stage:
    """Some channels more.

    Attributes:
        candidate: whose they are, by its number.
        removed: how many of its channels are gone then.
        saved: the share of all operations that is saved then.
    """

    candidate: int
    removed: int
    saved: float


def allocate(graph: Graph, candidates: Sequence[Candidate], sizes: Mapping[str, int]) -> list[Stage]:
    """Remove channels in the order of what they lose for each operation that they save, until none is left to remove.

    Args:
        graph: that they are of.
        candidates: groups of it.
        sizes: of symbolic dimensions, that operations are counted with.
    """
    work = _Work(graph, candidates, sizes)
    removed = [0] * len(candidates)
    queue = [entry for number in range(len(candidates)) if (entry := work.entry(number, removed))]
    heapq.heapify(queue)
    stages: list[Stage] = []
    while queue:
        _, number, _ = heapq.heappop(queue)
        entry = work.entry(number, removed)  # others have gone meanwhile, so that it may save less
        if entry is None:
            continue
        if queue and entry > queue[0]:
            heapq.heappush(queue, entry)
            continue
        work.remove(number, removed[number], entry[2])
        removed[number] = entry[2]
        stages.append(Stage(number, entry[2], work.saved))
        if entry := work.entry(number, removed):
            heapq.heappush(queue, entry)
    return stages


class _Work:
    """The operations of a graph while channels go."""

    def __init__(self, graph: Graph, candidates: Sequence[Candidate], sizes: Mapping[str, int]) -> None:
        self._candidates = candidates
        operations = {node: float(flops(node, sizes)) for node in graph.nodes}
        self._total = sum(operations.values()) or 1.0
        self._left = operations
        places: dict[tuple[Value, int], list[Node]] = {}
        for node in graph.nodes:
            for place in _scaled_by(node):
                places.setdefault(place, []).append(node)
        self._sizes: dict[tuple[Value, int], int] = {}
        self._touched: list[list[tuple[Node, tuple[Value, int], int]]] = []
        for candidate in candidates:
            touched: list[tuple[Node, tuple[Value, int], int]] = []
            for value, axis, indices in candidate.group.members:
                size = value.shape[axis]
                assert isinstance(size, int)
                self._sizes[value, axis] = size
                touched += [(node, (value, axis), indices.shape[1]) for node in places.get((value, axis), ())]
            self._touched.append(touched)

    @property
    def saved(self) -> float:
        """The share of the operations that is saved so far."""
        return 1 - sum(self._left.values()) / self._total

    def entry(self, number: int, removed: Sequence[int]) -> tuple[float, int, int] | None:
        """What a candidate's next channels lose for each operation, its number, and how many are gone then."""
        candidate, before = self._candidates[number], removed[number]
        after = candidate.next(before)
        if after == before:
            return None
        losses = candidate.ranking.losses
        gain = sum(
            self._left[node] * (after - before) * width / self._sizes[place]
            for node, place, width in self._touched[number]
        )
        return (float(losses[after] - losses[before]) / max(gain, 1e-9), number, after)

    def remove(self, number: int, before: int, after: int) -> None:
        """Take channels out."""
        for node, place, width in self._touched[number]:
            size = self._sizes[place]
            self._left[node] *= 1 - (after - before) * width / size
        for place, width in {(place, width) for _, place, width in self._touched[number]}:
            self._sizes[place] -= (after - before) * width


def _scaled_by(node: Node) -> list[tuple[Value, int]]:
    """The axes whose sizes the operations of a node are proportional to, each by itself."""
    weight = node.input(1) if has_trait(node.operator, Trait.CONTRACTING | Trait.RECURRENT) else None
    if isinstance(weight, Constant):
        return [(weight, axis) for axis in range(weight.type.rank)]
    axes = [
        (node.outputs[0], axis) for axis in range(node.outputs[0].type.rank if node.outputs[0].type.is_ranked else 0)
    ]
    if weight is not None and node.operand(0).type.is_ranked:
        x = node.operand(0)
        axes.append((x, x.type.rank - (2 if node.attributes.get("transA") else 1)))
    return axes
