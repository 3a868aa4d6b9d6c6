"""`planish inspect --groups`: which channels stand or fall together, what couples them, and why some can't go."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.analysis.channels import ChannelGroup, channel_groups
from ..ir.graph import Constant, Graph, Node, Value
from ..passes.base import PassContext
from ..passes.manager import PassManager
from ..passes.pipeline import parse_pipeline
from ..targets import Target


@dataclass(frozen=True, slots=True)
class GroupRow:
    """Channels, neurons or heads that are removed from all layers at once.

    Attributes:
        size: how many channels, neurons or heads there are.
        width: the rows of a weight that belong to each; a head's, or a place's behind a flattening.
        layers: the layers that compute them.
        readers: layers that contract them with weights.
        couplers: operators that tie what several layers compute.
        frozen: why none can be removed; None where any can.
    """

    size: int
    width: int
    layers: Sequence[str]
    readers: Sequence[str]
    couplers: Sequence[str]
    frozen: str | None


def find_groups(graph: Graph, target: Target) -> list[GroupRow]:
    """Find the groups that weights compute, in the graph as `prune-channels` sees it behind `cleanup`."""
    cleaned = graph.clone()
    PassManager(parse_pipeline("cleanup"), verify="none").run(cleaned, PassContext(target, graph))
    return [_row(group) for group in channel_groups(cleaned) if group.producers and group.size > 1]


def _row(group: ChannelGroup) -> GroupRow:
    return GroupRow(
        group.size,
        group.producers[0][1].indices.shape[1],
        _places([node for node, _ in group.producers]),
        _places([node for node, _ in group.consumers]),
        list(dict.fromkeys(f"{node.operator} in {node.location}" for node in _couplers(group))),
        group.frozen,
    )


def _places(nodes: Sequence[Node]) -> list[str]:
    return list(dict.fromkeys(node.location.module or str(node.location) for node in nodes))


def _couplers(group: ChannelGroup) -> list[Node]:
    """The nodes at which several activations of a group meet."""
    members = {member.value for member in group.members if not isinstance(member.value, Constant)}

    def meet(node: Node) -> bool:
        return len({value for value in node.inputs if isinstance(value, Value) and value in members}) > 1

    nodes = dict.fromkeys(value.producer for value in members if value.producer is not None)
    readers = dict.fromkeys(use.node for value in members for use in value.uses)
    return [node for node in {**nodes, **readers} if meet(node)]
