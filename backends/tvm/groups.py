"""Which nodes one kernel computes: a product, and the elementwise operators that follow it.

A group is closed: of the values inside, nothing but the last one is read by other nodes. So it can be lowered where its last
node stands, after everything else that it reads.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...ir.graph import Constant, Graph, Node, Value
from ...ir.types import DType, TensorType
from .kernels.elements import ELEMENTS
from .kernels.epilogue import Epilogue, Reach, Step

if TYPE_CHECKING:
    from .lowering import Lowering

_LONGEST = 24
"""Nodes behind an anchor: longer chains make kernels that registers can't hold."""
ROUNDING = frozenset({"Cast"})
"""What is rounded to bfloat16 for all its readers is stored so."""
ARITHMETIC = frozenset(ELEMENTS) - ROUNDING
"""Operators on float32."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A node whose kernel has an epilogue.

    Attributes:
        node: the product.
        channels: the axis of its result that numbers of a channel belong to, counted from the end.
        addend: what it adds to the product, if anything.
        joins: operators that its kernel can compute behind it.
    """

    node: Node
    channels: int
    addend: Value | None = None
    joins: Collection[str] = ARITHMETIC


@dataclass(frozen=True, slots=True)
class Group:
    """An anchor and its epilogue.

    Attributes:
        anchor: the node in front.
        chain: the nodes behind it, in order.
        epilogue: what they compute.
        operands: that the epilogue reads.
    """

    anchor: Node
    chain: tuple[Node, ...]
    epilogue: Epilogue
    operands: tuple[Value, ...]

    @property
    def last(self) -> Node:
        return self.chain[-1] if self.chain else self.anchor

    @property
    def output(self) -> Value:
        return self.last.output


@dataclass(frozen=True, slots=True)
class Template:
    """A kernel with an epilogue.

    Attributes:
        anchor: a node as one that the kernel computes; None if it can't.
        lower: a call of the kernel for a group.
    """

    anchor: Callable[[Node], Anchor | None]
    lower: Callable[["Lowering", Group], Any]


def find_groups(graph: Graph, nodes: Sequence[Node], templates: Mapping[str, Template]) -> dict[Node, Group]:
    """The groups of a graph, by each of their nodes.

    Args:
        graph: that the nodes are of.
        nodes: that are lowered, in order; others may read values without that mattering.
        templates: by the operator of the anchor.
    """
    lowered = set(nodes)
    groups: dict[Node, Group] = {}
    for node in nodes:
        template = templates.get(node.operator) if node not in groups else None
        anchor = None if template is None else template.anchor(node)
        group = None if anchor is None else _Growth(graph, lowered, set(groups), anchor).group()
        if group is not None:
            groups |= dict.fromkeys((group.anchor, *group.chain), group)
    return groups


def reach(value: Value, result: Value, channels: int) -> Reach | float | None:
    """How a value lies beside a result; a number for a constant of one, None where it is spread in another way."""
    if isinstance(value, Constant) and value.data.size == 1:
        return float(value.data.reshape(()))
    shape = (1,) * (result.type.rank - value.type.rank) + value.shape
    if shape == result.shape:
        return Reach.ELEMENTS
    axis = result.type.rank - channels
    is_alone = all(size == 1 for index, size in enumerate(shape) if index != axis)
    return Reach.CHANNELS if is_alone and len(shape) > axis and shape[axis] == result.shape[axis] else None


class _Growth:
    """A group while it grows from its anchor."""

    def __init__(self, graph: Graph, lowered: set[Node], taken: set[Node], anchor: Anchor) -> None:
        self._graph, self._lowered, self._taken, self._anchor = graph, lowered, taken, anchor
        self._result = anchor.node.output

    def group(self) -> Group | None:
        """The largest closed one; None if what the anchor adds doesn't lie beside its result."""
        chain: list[Node] = []
        closed = 0
        while len(chain) < _LONGEST and (node := self._next(chain)) is not None:
            chain.append(node)
            if len(self._open([self._anchor.node, *chain])) == 1:
                closed = len(chain)
        return self._made(chain[:closed])

    def _next(self, chain: list[Node]) -> Node | None:
        """The first node beyond the chain that can join it: one that reads an open value."""
        open_values = self._open([self._anchor.node, *chain])
        if any(self._graph.is_output(value) for value in open_values):
            return None
        readers = {use.node for value in open_values for use in value.uses if use.node in self._lowered}
        joining = [node for node in readers - self._taken - set(chain) if self._joins(node)]
        return min(joining, key=self._graph.position, default=None)

    def _open(self, nodes: Iterable[Node]) -> list[Value]:
        """Of the results of some nodes, those that others read or that the graph returns."""
        inside = set(nodes)
        return [
            node.output
            for node in inside
            if self._graph.is_output(node.output)
            or any(use.node in self._lowered and use.node not in inside for use in node.output.uses)
        ]

    def _joins(self, node: Node) -> bool:
        return (
            node.operator in self._anchor.joins
            and node.output.type == self._type(node)
            and all(value is None or value.dtype is DType.float32 for value in node.inputs)
            and all(value is None or self._reach(value) is not None for value in node.inputs)
        )

    def _type(self, node: Node) -> TensorType:
        """That of what a node gives, if it joins."""
        type = self._result.type
        return TensorType(DType.bfloat16, type.dims) if node.operator in ROUNDING else type

    def _reach(self, value: Value) -> Reach | float | None:
        return reach(value, self._result, self._anchor.channels)

    def _made(self, chain: list[Node]) -> Group | None:
        anchor = self._anchor
        inside = [anchor.node.output, *(node.output for node in chain)]
        added = [] if anchor.addend is None else [anchor.addend]
        read = [
            *added,
            *(value for node in chain for value in node.inputs if value is not None and value not in inside),
        ]
        reaches = {value: self._reach(value) for value in read}
        if None in reaches.values():
            return None
        operands = [value for value, reach in reaches.items() if isinstance(reach, Reach)]
        places: dict[Value, int | float] = {value: 1 + index for index, value in enumerate(operands)}
        places |= {value: reach for value, reach in reaches.items() if isinstance(reach, float)}
        places[inside[0]] = 0
        steps: list[Step] = []
        if anchor.addend is not None:
            steps.append(Step("Add", (), (0, places[anchor.addend])))
            places[inside[0]] = 1 + len(operands)
        for node in chain:
            inputs = tuple(None if value is None else places[value] for value in node.inputs)
            steps.append(Step(node.operator, tuple(sorted(node.attributes.items())), inputs))
            places[node.output] = len(operands) + len(steps)
        kinds = tuple(reach for reach in reaches.values() if isinstance(reach, Reach))
        return Group(anchor.node, tuple(chain), Epilogue(kinds, tuple(steps)), tuple(operands))
