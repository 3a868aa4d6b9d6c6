"""The time of a graph while channels go, by the latencies of its layers at some widths of each group.

Latencies of layers at several widths, measured on the target, are what NetAdapt (Yang et al., ECCV 2018) and HALP
(Shen et al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS 2022) choose widths by: a layer may take as
long with 17 channels as with 32. Here they are measured in place, so that fusion and layouts are those of the whole
model. Groups that no layer has in common change their widths at the same time.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Graph, Node, Value
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ..base import PassContext, Timing
from .shrink import shrunk

if TYPE_CHECKING:  # networkx and scipy come with it, which listing the passes must not import
    from ...ir.analysis.channels import ChannelGroup

_WIDTHS = 12
"""How many widths of a group are measured at the most."""
_LEAST = 1e-3
"""What a layer takes at the least, relative to the same one with all channels."""


class Latencies:
    """The time of a graph while channels go.

    A layer's time is that in the whole graph, times a factor for each group that lies along what it reads or writes:
    how its time changed with fewer channels of that group alone.

    Args:
        whole: the seconds of each layer in the whole graph, float `[layers]`.
        factors: the factors on the layers' seconds, float `[layers]`, by how many channels are gone, for each group.
    """

    def __init__(self, whole: np.ndarray, factors: Sequence[Mapping[int, np.ndarray]]) -> None:
        self._whole = whole
        self._touched = [_touched(held, len(whole)) for held in factors]
        self._factors = [
            {gone: factor[touched] for gone, factor in {0: np.ones(len(whole)), **held}.items()}
            for held, touched in zip(factors, self._touched, strict=True)
        ]
        self._left = whole.copy()

    def anew(self) -> "Latencies":
        """The same latencies, with no channel gone."""
        found = copy(self)
        found._left = self._whole.copy()
        return found

    @property
    def saved(self) -> float:
        """The share of the time that is saved so far."""
        return 1 - float(self._left.sum() / (self._whole.sum() or 1.0))

    def choices(self, number: int, before: int) -> Sequence[int]:
        """The larger numbers of lost channels that a group was measured at; a later one may save more for its loss."""
        return [gone for gone in self._factors[number] if gone > before]

    def gain(self, number: int, before: int, after: int) -> float:
        """The seconds that are saved by more channels of a group, while others are as they are."""
        factors = self._factors[number]
        return float((self._left[self._touched[number]] * (1 - factors[after] / factors[before])).sum())

    def remove(self, number: int, before: int, after: int) -> None:
        """Take channels out."""
        factors = self._factors[number]
        self._left[self._touched[number]] *= factors[after] / factors[before]

    def speedup(self, counts: Mapping[int, int]) -> float:
        """How many times as fast the graph is predicted to be without the given numbers of each group's channels."""
        left = self._whole.copy()
        for number, gone in counts.items():
            left[self._touched[number]] *= self._factors[number][gone]
        return float(self._whole.sum() / left.sum())


def _touched(held: Mapping[int, np.ndarray], layers: int) -> np.ndarray:
    """The layers that a group changes."""
    return np.flatnonzero(np.any([np.ones(layers), *held.values()] != np.ones(layers), axis=0))


def widths(size: int, step: int) -> list[int]:
    """How many of a group's channels are gone at the widths that are measured, which are multiples of a step."""
    while size > _WIDTHS * step:
        step *= 2
    return [size - left for left in range((size - 1) // step * step, 0, -step)]


def measure(
    graph: Graph, groups: Sequence["ChannelGroup"], steps: Sequence[int], timing: Timing, context: PassContext
) -> Latencies:
    """Measure layers at some widths of groups.

    Args:
        graph: the graph to prune.
        groups: its groups of coupled channels.
        steps: the number that the channels left of each group are a multiple of.
        timing: measures the layers.
        context: the context that progress is reported to.
    """
    reach = [_reach(group, graph) for group in groups]
    gone = [widths(group.size, step) for group, step in zip(groups, steps, strict=True)]
    trials: list[dict[int, int]] = [  # how many channels of which groups are gone
        {number: gone[number][place] for number in apart if place < len(gone[number])}
        for apart in _apart(reach)
        for place in range(max(len(gone[number]) for number in apart))
    ]
    names = [node.outputs[0].name for node in graph.nodes]

    def graphs() -> Iterator[Graph]:
        yield graph
        for done, trial in enumerate(trials):
            context.progress("measuring layers at several widths", done, len(trials))
            yield shrunk(graph, [(groups[number], np.arange(count)) for number, count in trial.items()])

    taken = np.array([[held.get(name, 0.0) for name in names] for held in timing.layers(graphs())])
    whole = taken[0]
    factors: list[dict[int, np.ndarray]] = [{} for _ in groups]
    for trial, row in zip(trials, taken[1:], strict=True):
        ratio = np.maximum(np.divide(row, whole, out=np.ones_like(row), where=whole > 0), _LEAST)
        for number, count in trial.items():
            factors[number][count] = np.where(reach[number], ratio, 1.0)
    return Latencies(whole, factors)


def _reach(group: "ChannelGroup", graph: Graph) -> np.ndarray:
    """Which nodes' time depends on a group's width, bool `[nodes]`, with those that may be fused behind them."""
    values = {value for value, _, _ in group.members}
    near = {node for node in graph.nodes if not values.isdisjoint(_operands(node))}
    for node in graph.nodes:  # in order, so that chains are followed to their ends
        makers = [value.producer for value in node.inputs if value is not None and value.use_count == 1]
        if not has_trait(node.operator, Trait.CONTRACTING | Trait.RECURRENT) and not near.isdisjoint(makers):
            near.add(node)
    return np.array([node in near for node in graph.nodes])


def _operands(node: Node) -> list[Value | None]:
    return [*node.inputs, *node.captured, *node.outputs]


def _apart(reach: Sequence[np.ndarray]) -> list[list[int]]:
    """The groups' numbers in sets, of which no two groups reach the same node."""
    found: list[tuple[list[int], np.ndarray]] = []
    for number, own in enumerate(reach):
        for numbers, taken in found:
            if not (taken & own).any():
                numbers.append(number)
                taken |= own
                break
        else:
            found.append(([number], own.copy()))
    return [numbers for numbers, _ in found]
