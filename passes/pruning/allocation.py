"""How many channels each group gives for a budget: first those that lose the least for what they save.

It is an integer program with one constraint, whose Lagrange multiplier is raised from nothing on: each stage is what it
takes next, a step of the lower convex hull of a group's losses by what they save.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

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
        group: the group of coupled channels.
        ranking: the ranking of the group's channels.
        step: the number that the channels left are a multiple of.
    """

    group: "ChannelGroup"
    ranking: Ranking
    step: int


Counts = dict[int, int]
"""How many channels are gone of each group that loses any, by its number."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of removal, in which a candidate loses further channels.

    Attributes:
        candidate: the candidate's number.
        removed: how many of the candidate's channels are gone then.
        saved: the share of the graph's cost that is saved then.
    """

    candidate: int
    removed: int
    saved: float


class Savings(Protocol):
    """What is saved while channels of candidates, which are known by number, are removed."""

    @property
    def saved(self) -> float:
        """The share of the graph's cost that is saved so far."""
        ...

    def choices(self, number: int, before: int) -> Sequence[int]:
        """How many channels of a candidate may be gone next, after those that are gone before; the fewest first."""
        ...

    def gain(self, number: int, before: int, after: int) -> float:
        """What is saved by more channels of a candidate, while others are as they are."""
        ...

    def remove(self, number: int, before: int, after: int) -> None:
        """Take channels out."""
        ...


def allocate(candidates: Sequence[Candidate], savings: Savings) -> list[Stage]:
    """Remove channels in the order of what they lose for what they save, until none is left to remove.

    Args:
        candidates: the groups with their rankings.
        savings: what is saved, by the candidates' indices.
    """
    removed = [0] * len(candidates)

    def entry(number: int) -> tuple[float, int, int] | None:
        """The loss of a candidate's next channels for what they save, its number, and how many are gone then."""
        losses, before = candidates[number].ranking.losses, removed[number]
        found = [
            (float(losses[after] - losses[before]) / gain, number, after)
            for after in savings.choices(number, before)
            if (gain := savings.gain(number, before, after)) > 0
        ]
        return min(found, default=None)

    queue = [found for number in range(len(candidates)) if (found := entry(number))]
    heapq.heapify(queue)
    stages: list[Stage] = []
    while queue:
        number = heapq.heappop(queue)[1]
        found = entry(number)  # others have gone meanwhile, so that it may save less
        if found is None:
            continue
        if queue and found > queue[0]:
            heapq.heappush(queue, found)
            continue
        savings.remove(number, removed[number], found[2])
        removed[number] = found[2]
        stages.append(Stage(number, found[2], savings.saved))
        if found := entry(number):
            heapq.heappush(queue, found)
    return stages


def evenly(candidates: Sequence[Candidate], savings: Savings) -> list[Stage]:
    """Remove channels of all candidates in equal shares, until none is left to remove.

    Args:
        candidates: the groups with their rankings.
        savings: what is saved, by the candidates' indices.
    """
    removed, stages = [0] * len(candidates), list[Stage]()

    def entry(number: int) -> list[tuple[float, float, int, int]]:
        """What share of a candidate's channels goes next, what is lost then, its number, and how many are gone."""
        size, losses = candidates[number].group.size, candidates[number].ranking.losses
        next_ones = savings.choices(number, removed[number])[:1]
        return [(after / size, float(losses[after]), number, after) for after in next_ones]

    queue = [found for number in range(len(candidates)) for found in entry(number)]
    heapq.heapify(queue)
    while queue:
        *_, number, after = heapq.heappop(queue)
        savings.remove(number, removed[number], after)
        removed[number] = after
        stages.append(Stage(number, after, savings.saved))
        for found in entry(number):
            heapq.heappush(queue, found)
    return stages


class Operations:
    """The operations of a graph while channels go.

    Args:
        graph: the graph whose operations are counted.
        candidates: the groups of the graph that lose channels.
        sizes: the sizes of symbolic dimensions that operations are counted with.
    """

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

    def choices(self, number: int, before: int) -> Sequence[int]:
        """The next larger number of channels that may be removed: what each saves doesn't depend on how many go."""
        size, step = self._candidates[number].group.size, self._candidates[number].step
        left = (size - before - 1) // step * step
        return [size - left] if left else []

    def gain(self, number: int, before: int, after: int) -> float:
        """The operations that are saved by more channels of a candidate; always above 0."""
        gain = sum(
            self._left[node] * (after - before) * width / self._sizes[place]
            for node, place, width in self._touched[number]
        )
        return max(gain, 1e-9)

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
