"""Which images must have the same factors for their channels, so that the network computes what it did."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...ir.graph import Graph, Node, Value
from .clipping import bounds_of
from .layers import Layer
from .plan import Plan

if TYPE_CHECKING:
    from networkx.utils import UnionFind  # listing the passes must not import it

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
        rounded: the images that will be put on a grid of their own.
        sources: all that the channels are proportional to.
        readers: the convolutions that read the images, and can undo the factors.
    """

    rounded: list[Value] = field(default_factory=list[Value])
    sources: list[Source] = field(default_factory=list[Source])
    readers: dict[Value, list[Layer]] = field(default_factory=dict[Value, list[Layer]])

    def is_carried(self, value: Value) -> bool:
        """Whether others than convolutions read a value."""
        return value.use_count > len(self.readers.get(value, ()))


_KEPT = object()
"""The mark of the set of all images that must stay as they are."""


def scale_groups(graph: Graph, layers: Sequence[Layer], plan: Plan) -> list[ScaleGroup]:
    """Find all groups with a convolution behind them.

    Args:
        graph: the graph in float.
        layers: its layers that will compute in integers.
        plan: the plan of their quantization.
    """
    from networkx.utils import UnionFind

    convolutions = {layer.node: layer for layer in layers if layer.node.operator == "Conv" and not layer.shares_weight}
    sets: UnionFind[object] = UnionFind()
    sources: dict[Value, list[Source]] = {}
    sets.union(_KEPT, *graph.inputs, *graph.outputs.values())
    for node in graph.nodes:
        _link(node, convolutions, plan, sets, sources)
    groups: dict[object, ScaleGroup] = {}
    for value in graph.values():
        if value.producer is None or sets[value] is sets[_KEPT]:
            continue
        group = groups.setdefault(sets[value], ScaleGroup())
        group.sources.extend(sources.get(value, ()))
        if value in plan.reads and plan.root(value) is value:
            group.rounded.append(value)
        for use in value.uses:
            if use.index == 0 and use.node in convolutions:
                group.readers.setdefault(value, []).append(convolutions[use.node])
    return [group for group in groups.values() if group.rounded and group.readers]


def _link(
    node: Node,
    convolutions: dict[Node, Layer],
    plan: Plan,
    sets: "UnionFind[object]",
    sources: dict[Value, list[Source]],
) -> None:
    """Join the images that a node reads and yields where factors pass through, and keep them as they are where not."""
    output, along = node.outputs[0], _along_channels(node)
    if node in convolutions:
        sources[output] = [Source(node, index) for index in (1, 2) if node.input(index) is not None]
    elif node.operator in _LINEAR and len(node.outputs) == 1 and (node.operator != "Clip" or bounds_of(node)[0] == 0):
        sets.union(node.operand(0), output)
    elif node.operator == "Add" and along is not None:
        sets.union(node.operand(1 - along), output)
        sources[output] = [Source(node, along)]
    elif node.operator == "Mul" and along is not None:
        sets.union(_KEPT, node.operand(1 - along))
        sources[output] = [Source(node, along)]
    elif node.operator == "Add" and len({value.shape[1:2] for value in _images(node)}) == 1 and len(_images(node)) == 3:
        sets.union(*_images(node))
    elif node.operator == "Mul" and (gate := _gate(node)) is not None:
        _link_gate(node, gate, plan, sets, sources)
    else:
        sets.union(_KEPT, *filter(None, node.inputs), *node.outputs, *node.captured)


def _link_gate(
    node: Node, gate: int, plan: Plan, sets: "UnionFind[object]", sources: dict[Value, list[Source]]
) -> None:
    """Pass the factors of an image through a gate, or multiply the gate where the image must stay as it is."""
    image = node.operand(1 - gate)
    sets.union(_KEPT, node.operand(gate))
    if sets[image] is not sets[_KEPT]:
        sets.union(image, node.output)
    elif node in plan.carriers:
        sets.union(_KEPT, node.output)
    else:
        sources[node.output] = [Source(node, gate)]


def _images(node: Node) -> list[Value]:
    """What a node of two operands reads and yields, of rank 4."""
    return [value for value in (node.operand(0), node.operand(1), node.output) if value.type.has_rank(4)]


def _along_channels(node: Node) -> int | None:
    """Which operand of a sum or product is a constant with a number for each channel, or one for all."""
    for index in (0, 1) if node.operator in ("Add", "Mul") and node.output.type.has_rank(4) else ():
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
