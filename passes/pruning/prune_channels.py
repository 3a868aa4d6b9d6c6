"""Structured pruning: whole channels of the least important filters are removed, and the model is a smaller dense one."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...ir.errors import UsageError
from ...ir.graph import Constant, Graph, Value
from ..base import Effect, Pass, PassContext, PassResult
from ..selection import is_selected
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
        only: globs on layers or operators; a group is pruned if all that compute it match.
        skip: globs on what keeps its channels, along with all that is coupled to it.
    """

    name: ClassVar[str] = "prune-channels"
    effect: ClassVar[Effect] = Effect.LOSSY
    after: ClassVar[tuple[str, ...]] = ("fold-constants",)
    max_drift: ClassVar[float] = (
        10.0  # half of the channels of an untuned network may well be more than all of its output
    )

    ratio: float = 0.5
    importance: str = "l1"
    round_to: int = 8
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        from ...ir.analysis.channels import channel_groups

        self._check_options()
        kept: dict[tuple[Value, int], np.ndarray] = {}
        misses: list[str] = []
        pruned = channels = 0
        for group in channel_groups(graph):
            if group.size == 1 or not self._is_chosen(group):
                continue
            reason = group.frozen or self._no_room(group)
            if reason:
                misses.append(f"{_layers(group)}: the {group.size} channels stay, because {reason}")
                continue
            removed = self._least_important(group)
            pruned, channels = pruned + 1, channels + len(removed)
            for value, axis, indices in group.members:
                size = value.shape[axis]
                assert isinstance(size, int)  # symbolic axes have no channels
                kept.setdefault((value, axis), np.ones(size, dtype=bool))[indices[removed]] = False
        shrink(graph, kept)
        return PassResult({"groups": pruned, "channels": channels}, misses)

    def _check_options(self) -> None:
        if not 0 < self.ratio < 1:
            raise UsageError(f"{self.name}: ratio must be between 0 and 1, not {self.ratio}")
        if self.importance not in ("l1", "l2"):
            raise UsageError(f"{self.name}: importance must be l1 or l2, not {self.importance!r}")
        if self.round_to < 1:
            raise UsageError(f"{self.name}: round_to must be at least 1, not {self.round_to}")

    def _is_chosen(self, group: "ChannelGroup") -> bool:
        layers = [node for node, _ in group.producers]
        return bool(layers) and all(is_selected(node.location, self.only, self.skip, node.operator) for node in layers)

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
        """A norm for each index along an axis; of l2 the square, which adds up."""
        rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
        return np.abs(rows).sum(axis=1) if self.importance == "l1" else np.square(rows).sum(axis=1)


def _layers(group: "ChannelGroup") -> str:
    return ", ".join(dict.fromkeys(str(node.location) for node, _ in group.producers))
