"""Which images must have the same factors for their channels, so that the network computes what it did."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...ir.graph import Graph, Node, Value
from .clipping import bounds_of
from .layers import Layer
from .plan import Plan

_LINEAR = frozenset({"AveragePool", "Clip", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Relu"})
"""What a positive factor passes through: a Clip that begins at 0, too, where it cuts nothing off larger channels."""


@dataclass(frozen=True, slots=True)
class Source:
    """What channels are proportional to: a node's constant input, or a gate that is a number for each channel."""

    node: Node
    index: int


@dataclass(slots=True)
class ScaleGroup:
    """Images `[N, C, ...]` whose channels can be multiplied by the same factors.

    Attributes:
        rounded: those of the images that will be put on a grid of their own.
        sources: all that the channels are proportional to.
        readers: the convolutions that read the images, and can undo the factors.
    """

    rounded: list[Value] = field(default_factory=list[Value])
    sources: list[Source] = field(default_factory=list[Source])
    readers: dict[Value, list[Layer]] = field(default_factory=dict[Value, list[Layer]])

    def is_carried(self, value: Value) -> bool:
        """Whether others than convolutions read a value."""
        return value.use_count > len(self.readers.get(value, ()))


class _Sets:
    """Disjoint sets of values, some of which must stay as they are."""

    def __init__(self) -> None:
        self._parents: dict[Value, Value] = {}
        self._fixed: set[Value] = set()

    def find(self, value: Value) -> Value:
        """The representative of a value's set."""
        while (parent := self._parents.get(value, value)) is not value:
            value = parent
        return value

    def join(self, values: Sequence[Value]) -> None:
        """Make one set of several."""
        roots = [self.find(value) for value in values]
        for root in roots[1:]:
            if root is not roots[0]:
                self._parents[root] = roots[0]
        if any(root in self._fixed for root in roots):
            self._fixed.add(self.find(values[0]))

    def fix(self, value: Value) -> None:
        """Keep a value's set as it is."""
        self._fixed.add(self.find(value))

    def is_fixed(self, value: Value) -> bool:
        """Whether a value's set is kept as it is."""
        return self.find(value) in self._fixed


def scale_groups(graph: Graph, layers: Sequence[Layer], plan: Plan) -> list[ScaleGroup]:
    """Find all groups with a convolution behind them.

    Args:
        graph: in float.
        layers: of it that will compute in integers.
        plan: of their quantization.
    """
    convolutions = {layer.node: layer for layer in layers if layer.node.operator == "Conv" and not layer.shares_weight}
    sets, sources = _Sets(), dict[Value, list[Source]]()
    for value in (*graph.inputs, *graph.outputs.values()):
        sets.fix(value)
    for node in graph.nodes:
        _link(node, convolutions, plan, sets, sources)
    groups: dict[Value, ScaleGroup] = {}
    for value in graph.values():
        if value.producer is None or sets.is_fixed(value):
            continue
        group = groups.setdefault(sets.find(value), ScaleGroup())
        group.sources.extend(sources.get(value, ()))
        if value in plan.reads and plan.root(value) is value:
            group.rounded.append(value)
        for use in value.uses:
            if use.index == 0 and use.node in convolutions:
                group.readers.setdefault(value, []).append(convolutions[use.node])
    return [group for group in groups.values() if group.rounded and group.readers]


def _link(
    node: Node, convolutions: dict[Node, Layer], plan: Plan, sets: _Sets, sources: dict[Value, list[Source]]
) -> None:
    """Join the images that a node reads and yields where factors pass through, and fix them where not."""
    output, along = node.outputs[0], _along_channels(node)
    if node in convolutions:
        sources[output] = [Source(node, index) for index in (1, 2) if node.input(index) is not None]
    elif node.operator in _LINEAR and len(node.outputs) == 1 and (node.operator != "Clip" or bounds_of(node)[0] == 0):
        sets.join([node.operand(0), output])
    elif node.operator == "Add" and along is not None:
        sets.join([node.operand(1 - along), output])
        sources[output] = [Source(node, along)]
    elif node.operator == "Mul" and along is not None:
        sets.fix(node.operand(1 - along))
        sources[output] = [Source(node, along)]
    elif node.operator == "Add" and len({value.shape[1:2] for value in _images(node)}) == 1 and len(_images(node)) == 3:
        sets.join([*_images(node)])
    elif node.operator == "Mul" and (gate := _gate(node)) is not None:
        _link_gate(node, gate, plan, sets, sources)
    else:
        for value in (*filter(None, node.inputs), *node.outputs, *node.captured):
            sets.fix(value)


def _link_gate(node: Node, gate: int, plan: Plan, sets: _Sets, sources: dict[Value, list[Source]]) -> None:
    """Pass the factors of an image through a gate, or multiply the gate where the image must stay as it is."""
    image = node.operand(1 - gate)
    sets.fix(node.operand(gate))
    if not sets.is_fixed(image):
        sets.join([image, node.output])
    elif node in plan.carriers:
        sets.fix(node.output)
    else:
        sources[node.output] = [Source(node, gate)]


def _images(node: Node) -> list[Value]:
    """What a node of two operands reads and yields, of rank 4."""
    return [value for value in (node.operand(0), node.operand(1), node.output) if value.type.rank == 4]


def _along_channels(node: Node) -> int | None:
    """Which operand of a sum or product is a constant with a number for each channel, or one for all."""
    for index in (0, 1) if node.operator in ("Add", "Mul") and node.output.type.rank == 4 else ():
        data = node.constant(index)
        if data is not None and all(size == 1 or data.ndim - axis == 3 for axis, size in enumerate(data.shape)):
            return index
    return None


def _gate(node: Node) -> int | None:
    """Which operand of a product is a number for each channel of the other one."""
    for index in (0, 1) if len(_images(node)) == 3 else ():
        gate, image = node.operand(index), node.operand(1 - index)
        if gate.shape[2:] == (1, 1) != image.shape[2:] and gate.shape[1] == image.shape[1]:
            return index
    return None
