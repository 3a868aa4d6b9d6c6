"""Structured pruning: whole channels of the least important filters are removed, for a smaller dense model."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Interval, Unit

from ...ir.graph import Constant, Graph, Value
from ..base import Effect, Pass, PassContext, PassResult
from .shrink import shrink

if TYPE_CHECKING:  # networkx and scipy come with it, which listing the passes must not import
    from ...ir.analysis.channels import ChannelGroup


@dataclass(frozen=True)
class ChannelPruning(Pass):
    """Remove the least important channels of every group of coupled channels, weights and activations alike.

    A channel's importance is the norm of the filters that compute it, summed over the layers that share it (Li et al.,
    "Pruning Filters for Efficient ConvNets", ICLR 2017; Fang et al., "DepGraph", CVPR 2023); each layer's norms are
    divided by their mean, so that no layer outvotes the others by its scale.

    Attributes:
        ratio: of the channels of each group that is removed.
        importance: `l1` or `l2`, the norm.
        round_to: the number of channels left is a multiple of it, as vector units like.
    """

    name: ClassVar[str] = "prune-channels"
    effect: ClassVar[Effect] = Effect.LOSSY
    needs: ClassVar[frozenset[str]] = frozenset({"float"})
    after: ClassVar[tuple[str, ...]] = ("fold-constants",)
    max_drift: ClassVar[float] = (
        10.0  # half of the channels of an untuned network may well be more than all of its output
    )

    ratio: Annotated[float, Interval(gt=0, lt=1), Unit("1")] = 0.5
    importance: Literal["l1", "l2"] = "l1"
    round_to: Annotated[int, Ge(1)] = 8

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        from ...ir.analysis.channels import channel_groups

        kept: dict[tuple[Value, int], np.ndarray] = {}
        misses: list[str] = []
        pruned = channels = 0
        for group in channel_groups(graph):
            if group.size == 1 or not _is_chosen(group, context):
                continue
            reason = group.frozen or self._no_room(group)
            if reason:
                misses.append(f"{_layers(group)}: the {group.size} channels stay, because {reason}")
                continue
            if not context.applies("prune", *(node for node, _ in group.producers)):
                continue
            removed = self._least_important(group)
            pruned, channels = pruned + 1, channels + len(removed)
            for value, axis, indices in group.members:
                size = value.shape[axis]
                assert isinstance(size, int)  # symbolic axes have no channels
                kept.setdefault((value, axis), np.ones(size, dtype=bool))[indices[removed]] = False
        shrink(graph, kept)
        return PassResult({"groups": pruned, "channels": channels}, misses)

    def _kept_count(self, group: "ChannelGroup") -> int:
        """How many channels stay; each may be several rows of a weight, and it is the rows that are rounded."""
        rows = group.producers[0][1].indices.shape[1]
        step = self.round_to // math.gcd(self.round_to, rows)
        return max(step, step * math.floor(group.size * (1 - self.ratio) / step + 0.5))

    def _no_room(self, group: "ChannelGroup") -> str:
        full = self._kept_count(group) >= group.size
        return f"no smaller multiple of {self.round_to} is near what ratio {self.ratio:g} leaves" if full else ""

    def _least_important(self, group: "ChannelGroup") -> np.ndarray:
        """The channels to remove, the least important first."""
        score = np.zeros(group.size)
        for _, (value, axis, indices) in group.producers:
            assert isinstance(value, Constant)
            norms = self._norms(value.data, axis)[indices].sum(axis=1)
            score += norms / (norms.mean() or 1.0)
        return np.argsort(score, kind="stable")[: group.size - self._kept_count(group)]

    def _norms(self, weight: np.ndarray, axis: int) -> np.ndarray:
        """A norm for each index along an axis, for l2 its square, since squares add up."""
        rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
        return np.abs(rows).sum(axis=1) if self.importance == "l1" else np.square(rows).sum(axis=1)


def _is_chosen(group: "ChannelGroup", context: PassContext) -> bool:
    """What is coupled is pruned if all that compute it are selected."""
    layers = [node for node, _ in group.producers]
    return bool(layers) and all(map(context.selects, layers))


def _layers(group: "ChannelGroup") -> str:
    return ", ".join(dict.fromkeys(str(node.location) for node, _ in group.producers))
