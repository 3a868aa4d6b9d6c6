"""Which nodes one kernel computes: an anchor such as a product, and its epilogue of elementwise operators.

A group is closed: only its last value is read by nodes outside of the group. So it can be lowered where its last node
stands, after everything else that it reads. A group dequantizes what it reads by itself, and its last node doesn't
dequantize: so integers are what lies in memory.
"""

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tvm import relax

from ....ir.graph import Constant, Graph, Node, Value
from ....ir.quantization import quant_params_of
from ....ir.types import DType
from ....passes.legalization.expansions.integers import ROW_QUANTIZER
from ..kernels.epilogue import Broadcast, Epilogue, Operand, PostOp
from ..kernels.vector_math import ELEMENTS, Attributes
from .emitter import Blocked, Emitter

QUANTIZING = frozenset({"DequantizeLinear", "QuantizeLinear"})
DYNAMIC = frozenset({"DynamicQuantizeLinear", ROW_QUANTIZER})
_LONGEST = 24
"""The most nodes behind an anchor: longer chains make kernels that registers can't hold."""
ROUNDING = frozenset({"Cast"})
"""Operators that round to bfloat16: a value that all its readers round is stored so."""
ARITHMETIC = frozenset(ELEMENTS) - ROUNDING
"""The operators of epilogues on float32."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A node whose kernel has an epilogue.

    Attributes:
        node: the product.
        channels: the axis of channels in its result, counted from the end.
        addend: the value that it adds to the product, if any.
        fusable: the operators that its kernel can compute in an epilogue.
        prologue: the step from the kernel's result to the node's, if they differ.
        is_step: whether it is elementwise itself, so that the kernel computes nothing but the epilogue.
    """

    node: Node
    channels: int
    addend: Value | None = None
    fusable: Collection[str] = ARITHMETIC
    prologue: PostOp | None = None
    is_step: bool = False


@dataclass(frozen=True, slots=True)
class FusionGroup:
    """An anchor and its epilogue.

    Attributes:
        anchor: the node in front.
        chain: the nodes behind it, in order.
        epilogue: the epilogue that the chain's nodes make up.
        operands: the values that the epilogue reads.
    """

    anchor: Node
    chain: tuple[Node, ...]
    epilogue: Epilogue
    operands: tuple[Value, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The anchor and the nodes behind it."""
        return self.anchor, *self.chain

    @property
    def last(self) -> Node:
        return self.nodes[-1]

    @property
    def output(self) -> Value:
        return self.last.output


@dataclass(frozen=True, slots=True)
class FusedKernel:
    """A kernel with an epilogue.

    Attributes:
        anchor: returns the anchor for a node; None if the kernel can't compute it.
        lower: calls the kernel for a group.
    """

    anchor: Callable[[Node], Anchor | None]
    lower: Callable[[Emitter, FusionGroup], relax.Expr | Blocked]


def find_groups(graph: Graph, nodes: Sequence[Node], templates: Mapping[str, FusedKernel]) -> dict[Node, FusionGroup]:
    """Return the groups of a graph, by each of their nodes.

    Args:
        graph: the graph of the nodes.
        nodes: the nodes that are lowered, in order; reads of values by other nodes don't matter.
        templates: the templates by the operator of the anchor.
    """
    surroundings = _Surroundings(graph, frozenset(nodes), frozenset(graph.outputs.values()))
    groups: dict[Node, FusionGroup] = {}
    for node in nodes:
        template = templates.get(node.operator) if node not in groups else None
        anchor = None if template is None else template.anchor(node)
        group = None if anchor is None else _Growth(surroundings, groups, anchor).group()
        if group is not None:
            groups |= dict.fromkeys(group.nodes, group)
    return groups


def reach(value: Value, result: Value, channels: int) -> Broadcast | float | None:
    """Return how a value is broadcast to a result; the number for a constant of one, None for any other way.

    What has fewer axes than an image is none, be it that as many elements are in both.
    """
    if isinstance(value, Constant) and value.data.size == 1:
        return float(value.data.reshape(()))
    shape = (1,) * (result.type.rank - value.type.rank) + value.shape
    if shape == result.shape and (channels == 1 or value.type.rank == result.type.rank):
        return Broadcast.ELEMENTS
    if channels == 1 and shape == (*result.shape[:-1], 1):
        return Broadcast.ROWS
    axis = result.type.rank - channels
    is_alone = all(size == 1 for index, size in enumerate(shape) if index != axis)
    return Broadcast.CHANNELS if is_alone and len(shape) > axis and shape[axis] == result.shape[axis] else None


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """The graph around groups that are found.

    Attributes:
        graph: the graph that the nodes belong to.
        lowered: the nodes that can be grouped.
        returned: the graph's outputs.
    """

    graph: Graph
    lowered: frozenset[Node]
    returned: frozenset[Value]

    def readers(self, value: Value) -> list[Node]:
        return [use.node for use in value.uses if use.node in self.lowered]


class _Growth:
    """A group while it grows from its anchor."""

    def __init__(self, surroundings: _Surroundings, taken: Container[Node], anchor: Anchor) -> None:
        self._surroundings, self._taken, self._anchor = surroundings, taken, anchor
        self._result = anchor.node.output

    def group(self) -> FusionGroup | None:
        """Return the largest closed group; None if the anchor's addend can't be broadcast to its result."""
        chain: list[Node] = []
        closed = 0
        while len(chain) < _LONGEST and (node := self._next(chain)) is not None:
            chain.append(node)
            if node.operator != "DequantizeLinear" and len(self._open([self._anchor.node, *chain])) == 1:
                closed = len(chain)
        return self._made(chain[:closed])

    def _next(self, chain: list[Node]) -> Node | None:
        """Return the first node beyond the chain that can join it: one that reads an open value."""
        open_values = self._open([self._anchor.node, *chain])
        if not self._surroundings.returned.isdisjoint(open_values):
            return None
        readers = {node for value in open_values for node in self._surroundings.readers(value)} - set(chain)
        joining = [node for node in readers if node not in self._taken and self._joins(node)]
        return min(joining, key=self._surroundings.graph.position, default=None)

    def _open(self, nodes: Iterable[Node]) -> list[Value]:
        """Return the results of some nodes that other nodes read or the graph returns."""
        inside = set(nodes)
        return [
            node.output
            for node in inside
            if node.output in self._surroundings.returned
            or not inside.issuperset(self._surroundings.readers(node.output))
        ]

    def _joins(self, node: Node) -> bool:
        if node.operator not in self._anchor.fusable or node.output.shape != self._result.shape:
            return False
        if node.operator in QUANTIZING:
            return quant_params_of(node) is not None
        if node.operator in ROUNDING and node.inputs[0] is self._result and self._result.dtype is DType.int32:
            return node.output.dtype is DType.float32
        expected = DType.bfloat16 if node.operator in ROUNDING else DType.float32
        return node.output.dtype is expected and all(
            value is None or (value.dtype is DType.float32 and self._reach(value) is not None) for value in node.inputs
        )

    def _reach(self, value: Value) -> Broadcast | float | None:
        return reach(value, self._result, self._anchor.channels)

    def _made(self, chain: list[Node]) -> FusionGroup | None:
        anchor = self._anchor
        inside = [anchor.node.output, *(node.output for node in chain)]
        written = [anchor.node, *chain] if anchor.is_step else chain
        read = [anchor.addend, *(value for node in written for value in step_operands(node))]
        reaches = {value: self._reach(value) for value in read if value is not None and value not in inside}
        if None in reaches.values():
            return None
        steps = _Steps({value: reach for value, reach in reaches.items() if reach is not None})
        steps.places[inside[0]] = 0
        if anchor.addend is not None:
            steps.add(PostOp("Add", (), (0, steps.places[anchor.addend])), inside[0])
        if anchor.prologue is not None and _is_undone(anchor.prologue, written):
            steps.places[written[0].output] = 0
            written = written[1:]
        elif anchor.prologue is not None:
            steps.add(anchor.prologue, inside[0])
        for node in written:
            inputs = tuple(None if value is None else steps.places[value] for value in step_operands(node))
            steps.add(PostOp(node.operator, step_attributes(node), inputs), node.output)
        operands = tuple(Operand(reach, str(value.dtype)) for value, reach in steps.operands.items())
        epilogue = Epilogue(operands, tuple(steps.steps), str(inside[-1].dtype), self._is_coarse(inside[-1]))
        return FusionGroup(anchor.node, tuple(chain), epilogue, tuple(steps.operands))

    def _is_coarse(self, result: Value) -> bool:
        """Whether a result is rounded at once, to bfloat16 or by all its readers, so that coarse functions will do."""
        readers = {node.operator for node in self._surroundings.readers(result)}
        is_quantized = bool(readers) and readers <= DYNAMIC and result not in self._surroundings.returned
        is_rounded = result.dtype is DType.bfloat16 or is_quantized
        return is_rounded and all(operator in self._anchor.fusable for operator in ROUNDING)


def _is_undone(prologue: PostOp, chain: Sequence[Node]) -> bool:
    """Whether the chain first quantizes the result again to the grid of the prologue, which it alone reads."""
    value = chain[0].inputs[0] if chain and chain[0].operator == "QuantizeLinear" else None
    return value is not None and value.use_count == 1 and step_attributes(chain[0]) == prologue.attributes


class _Steps:
    """The steps of an epilogue that is being built.

    Attributes:
        operands: the values that steps read, and how these are broadcast to the result.
        places: the place of each value among the result, the operands and the steps' results; a number is its own.
        steps: the steps in order.
    """

    def __init__(self, reaches: Mapping[Value, Broadcast | float]) -> None:
        beside = {value: reach for value, reach in reaches.items() if isinstance(reach, Broadcast)}
        sources = {
            value: source(value) if reach is Broadcast.ELEMENTS else unscaled(value) for value, reach in beside.items()
        }
        self.operands = {sources[value]: reach for value, reach in beside.items()}
        self.places: dict[Value, int | float] = {value: 1 + index for index, value in enumerate(self.operands)}
        self.places |= {value: reach for value, reach in reaches.items() if isinstance(reach, float)}
        self.steps: list[PostOp] = []
        for value in beside:
            if value not in self.operands and value.producer is not None:
                attributes = step_attributes(value.producer) if value.producer.operator in QUANTIZING else ()
                self.add(PostOp(value.producer.operator, attributes, (self.places[sources[value]],)), value)

    def add(self, step: PostOp, output: Value) -> None:
        self.steps.append(step)
        self.places[output] = len(self.operands) + len(self.steps)


def widened_from(value: Value) -> Value | None:
    """Return the bfloat16 value that a float32 value was widened from, if it was."""
    node = value.producer
    if node is None or node.operator != "Cast" or value.dtype is not DType.float32:
        return None
    return node.inputs[0] if node.inputs[0] is not None and node.inputs[0].dtype is DType.bfloat16 else None


def step_operands(node: Node) -> Sequence[Value | None]:
    """Return the operands of a node's step, which has scales and zero points as attributes."""
    return node.inputs[:1] if node.operator in QUANTIZING else node.inputs


def step_attributes(node: Node) -> Attributes:
    if node.operator not in QUANTIZING:
        return tuple(sorted(node.attributes.items()))
    grid = quant_params_of(node)
    assert grid is not None
    return (("limits", grid.dtype.limits), ("scale", grid.scale), ("zero_point", grid.zero_point))


def source(value: Value) -> Value:
    """Return what a value is read from: the integers that it was dequantized from, the bfloat16 of a widened one."""
    narrow = widened_from(value)
    return unscaled(value) if narrow is None or isinstance(narrow, Constant) else narrow


def unscaled(value: Value) -> Value:
    """Return the value that a value was dequantized from, or the value itself."""
    node = value.producer
    is_dequantized = node is not None and node.operator == "DequantizeLinear" and quant_params_of(node) is not None
    found = node.inputs[0] if node is not None and is_dequantized else None
    return value if found is None or isinstance(found, Constant) else found
