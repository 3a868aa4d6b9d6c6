"""Coupled channels: which indices of which axes of which values stand or fall together.

An operator ties index i of one axis to index j of another where the one can't be removed without the other: a Conv ties
the rows of its weight to the channels of its output, an Add ties its operands, a Concat ties with an offset, a Flatten
ties one channel to a run of columns. The dependencies are kept per index, so grouped convolutions, concatenations and
flattenings are only other index arrays, and the channels of a group may lie anywhere along its axes.

Source: the dependency graph of Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import networkx as nx
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..graph import Constant, Graph, Node, Value
from ..operators import has_trait
from ..traits import Trait
from .dependencies import dependencies
from .dependency import Axis, Dependency
from .regroupings import Regrouping, choose_tied, regroupings


class Member(NamedTuple):
    """One axis that a group of channels runs along.

    Attributes:
        value: a constant or an activation.
        axis: the axis, counted from the front.
        indices: the k indices along the axis that belong to each channel, shape [channels, k].
    """

    value: Value
    axis: int
    indices: np.ndarray


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels that lie along the same axes, each of which can be removed by itself.

    Attributes:
        members: every axis that the channels run along, in the graph's order; constants come first.
        producers: the nodes that compute the channels from weights, each with the member among its weights.
        consumers: the nodes whose weights contract the channels away, each with the member among its weights.
        frozen: why no channel can be removed; None where any can.
    """

    members: tuple[Member, ...]
    producers: tuple[tuple[Node, Member], ...]
    consumers: tuple[tuple[Node, Member], ...]
    frozen: str | None

    @property
    def size(self) -> int:
        """The number of channels."""
        return len(self.members[0].indices)


def couple(graph: Graph) -> "nx.MultiGraph[Axis]":
    """The axes of a graph's values, with an edge for each dependency of an operator; symbolic dimensions are left out.

    A node's attribute `frozen` says why none of its indices can be removed, or is None; `is_real` whether its value is
    one of the graph's. An edge has the `dependency`, whose left axis is not always the edge's first, and the `node`
    that it comes from.
    """
    coupling: nx.MultiGraph[Axis] = nx.MultiGraph()
    for value in graph.values():
        for axis, dim in enumerate(value.shape if value.type.is_ranked else ()):
            if isinstance(dim, int) and dim > 0:
                coupling.add_node(Axis(value, axis), frozen=None, is_real=True)
    for value in graph.inputs:
        _freeze(coupling, value, f"%{value.name} is an input of the graph")
    for name, value in graph.outputs.items():
        _freeze(coupling, value, f"they are the graph's output {name!r}")
    found: list[tuple[Node, Regrouping]] = []
    for node in graph.nodes:
        told, regrouped = dependencies(node), regroupings(node)
        found += [(node, it) for it in regrouped if len(it.several) > 1]
        factors = [axis for it in regrouped for axis in it.several if axis not in coupling]
        coupling.add_nodes_from(factors, frozen=None, is_real=False)
        coupling.add_edges_from(
            (dependency.left, dependency.right, {"dependency": dependency, "node": node})
            for dependency in (*told, *(it.tie(0) for it in regrouped if len(it.several) == 1))
        )
        spared = {axis for dependency in told for axis in (dependency.left, dependency.right)}
        spared |= {axis for it in regrouped for axis in (it.single, *it.several)}
        for value in filter(None, (*node.inputs, *node.captured, *node.outputs)):
            _freeze(coupling, value, _mixing(node), spared)
    _tie_regroupings(coupling, found)
    return coupling


def _tie_regroupings(coupling: "nx.MultiGraph[Axis]", found: Sequence[tuple[Node, Regrouping]]) -> None:
    """Tie one of the axes that each reshape merges or splits, and freeze the others."""
    kinds = {axis: number for number, axes in enumerate(nx.connected_components(coupling)) for axis in axes}
    frozen, count = {kinds[axis] for axis in coupling if coupling.nodes[axis]["frozen"] is not None}, -1
    while count < len(frozen):  # what could be tied to frozen axes alone is frozen, too
        count = len(frozen)
        for _, it in found:
            several = {kinds[axis] for axis in it.several}
            if kinds[it.single] in frozen:
                frozen |= several
            elif several <= frozen:
                frozen.add(kinds[it.single])
    places = choose_tied([it for _, it in found], kinds.__getitem__, lambda axis: kinds[axis] in frozen)
    for (node, it), chosen in zip(found, places, strict=True):
        for place, axis in enumerate(it.several):
            if place != chosen and coupling.nodes[axis]["frozen"] is None:
                coupling.nodes[axis]["frozen"] = _mixing(node)
        tie = it.tie(chosen)
        coupling.add_edge(tie.left, tie.right, dependency=tie, node=node)


def _mixing(node: Node) -> str:
    return f"{node.operator} in {node.location} doesn't keep them apart"


def _freeze(coupling: "nx.MultiGraph[Axis]", value: Value, reason: str, spared: Iterable[Axis] = ()) -> None:
    """Freeze the axes of a value that aren't spared; the first reason stays."""
    for axis in (Axis(value, index) for index in range(value.type.rank if value.type.is_ranked else 0)):
        if axis in coupling and axis not in spared and coupling.nodes[axis]["frozen"] is None:
            coupling.nodes[axis]["frozen"] = reason


def channel_groups(graph: Graph) -> list[ChannelGroup]:
    """Every group of coupled channels, frozen ones included, in the graph's order."""
    coupling = couple(graph)
    component = {axis: number for number, axes in enumerate(nx.connected_components(coupling)) for axis in axes}
    axes: defaultdict[int, list[Axis]] = defaultdict(list)
    edges: defaultdict[int, list[tuple[Node, Dependency]]] = defaultdict(list)
    for axis in coupling:  # in this order, which doesn't depend on hashes
        axes[component[axis]].append(axis)
    for axis, _, edge in coupling.edges(data=True):
        edges[component[axis]].append((edge["node"], edge["dependency"]))
    return [group for number in axes for group in _split(coupling, axes[number], edges[number])]


def _split(
    coupling: "nx.MultiGraph[Axis]", axes: list[Axis], edges: list[tuple[Node, Dependency]]
) -> Iterator[ChannelGroup]:
    """The groups of one connected component: channels that lie equally often along each axis."""
    channels = _channels(axes, [dependency for _, dependency in edges])
    count = max(int(labels.max(initial=-1)) for labels in channels) + 1
    presence = np.stack([np.bincount(labels, minlength=count) for labels in channels], axis=1)
    alike: defaultdict[bytes, list[int]] = defaultdict(list)
    for channel, row in enumerate(presence):
        alike[row.tobytes()].append(channel)
    for chosen in alike.values():
        members = {
            axes[position]: Member(*axes[position], _indices(channels[position], chosen))
            for position in np.flatnonzero(presence[chosen[0]])
        }
        reasons = (coupling.nodes[axis]["frozen"] for axis in members)
        real = tuple(member for axis, member in members.items() if coupling.nodes[axis]["is_real"])
        if not real:
            continue
        yield ChannelGroup(
            members=real,
            producers=tuple(_weights(edges, members, produce=True)),
            consumers=tuple(_weights(edges, members, produce=False)),
            frozen=next(filter(None, reasons), None),
        )


def _channels(axes: list[Axis], told: list[Dependency]) -> list[np.ndarray]:
    """The channel that each index of each axis belongs to: the connected components of all indices."""
    starts = np.cumsum([0, *(int(axis.size) for axis in axes)])
    start = dict(zip(axes, starts, strict=False))
    left = [start[dependency.left] + _all(dependency.left, dependency.left_indices) for dependency in told]
    right = [start[dependency.right] + _all(dependency.right, dependency.right_indices) for dependency in told]
    pairs = (np.concatenate([starts[:0], *left]), np.concatenate([starts[:0], *right]))
    adjacency = coo_array((np.ones(len(pairs[0]), dtype=bool), pairs), shape=(starts[-1], starts[-1]))
    labels = connected_components(adjacency, directed=False)[1]
    return np.split(labels, starts[1:-1])


def _all(axis: Axis, indices: np.ndarray | None) -> np.ndarray:
    return np.arange(int(axis.size)) if indices is None else indices


def _indices(labels: np.ndarray, chosen: list[int]) -> np.ndarray:
    """Where the chosen channels lie along an axis, a row for each of them."""
    places = np.flatnonzero(np.isin(labels, chosen))
    return places[np.argsort(labels[places], kind="stable")].reshape(len(chosen), -1)


def _weights(
    edges: list[tuple[Node, Dependency]], members: dict[Axis, Member], *, produce: bool
) -> Iterator[tuple[Node, Member]]:
    """The constant operands of contractions tied to the result, or else to the other operand."""
    for node, dependency in edges:
        if not has_trait(node.operator, Trait.CONTRACTING | Trait.RECURRENT):
            continue
        weights = node.inputs[1:3] if has_trait(node.operator, Trait.RECURRENT) else node.inputs[:2]
        others = node.outputs if produce else node.inputs[:2]
        for axis, other in ((dependency.left, dependency.right), (dependency.right, dependency.left)):
            is_weight = isinstance(axis.value, Constant) and axis.value in weights
            if is_weight and axis in members and other.value in others:
                yield node, members[axis]
