"""Taking indices out of axes: constants are sliced, and what nodes say about sizes is written anew."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...ir.analysis.recurrent_dependencies import is_zero
from ...ir.dims import Dim
from ...ir.graph import Attribute, Constant, Graph, Node, Value
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ...ir.unused import drop_unused

if TYPE_CHECKING:  # networkx and scipy come with it, which listing the passes must not import
    from ...ir.analysis.channels import ChannelGroup

Kept = Mapping[tuple[Value, int], np.ndarray]
"""A boolean for each index of an axis of a value: whether it stays."""


def without(removals: "Iterable[tuple[ChannelGroup, np.ndarray]]") -> dict[tuple[Value, int], np.ndarray]:
    """Which indices are kept, along all axes that groups lie along, where some of the groups' channels go."""
    kept: dict[tuple[Value, int], np.ndarray] = {}
    for group, channels in removals:
        for value, axis, indices in group.members:
            size = value.shape[axis]
            assert isinstance(size, int)  # symbolic axes have no channels
            kept.setdefault((value, axis), np.ones(size, dtype=bool))[indices[channels]] = False
    return kept


def moved(kept: Kept, source: Graph, copy: Graph) -> dict[tuple[Value, int], np.ndarray]:
    """Which indices are kept of the values of a graph's copy, from those of the graph's own."""
    twins = dict(zip(source.values(), copy.values(), strict=True))
    return {(twins[value], axis): mask for (value, axis), mask in kept.items()}


def shrunk(graph: Graph, removals: "Iterable[tuple[ChannelGroup, np.ndarray]]") -> Graph:
    """A copy of a graph without some channels of its groups."""
    copy = graph.clone()
    shrink(copy, moved(without(removals), graph, copy))
    return copy


def shrink(graph: Graph, kept: Kept) -> None:
    """Take indices out of a graph, along with all that is coupled to them.

    Args:
        graph: edited in place.
        kept: the indices that stay of every axis that loses some; closed under coupling, as a group's channels are.
    """
    from ...ir.reinfer import reinfer  # brings torch, which listing the passes must not

    for (value, axis), mask in kept.items():
        shape = list(value.shape)
        shape[axis] = int(mask.sum())
        value.type = value.type.resized(tuple(shape))
        if isinstance(value, Constant):
            value.data = np.compress(mask, value.data, axis=axis)
    for node in graph.nodes:
        _resize_attributes(graph, node, kept)
    reinfer(graph)


def _resize_attributes(graph: Graph, node: Node, kept: Kept) -> None:
    """Bring a node's own idea of the sizes of its operands up to date."""
    match node.operator:
        case "Conv" | "ConvTranspose" if node.attributes.get("group", 1) != 1:
            _regroup(node, kept)
        case "Reshape" if _touched(node, kept):
            _replace_ints(graph, node, 1, _reshape_target(node))
            node.attributes = _without(node, "allowzero")
        case "Expand" if _touched(node, kept):
            _replace_ints(graph, node, 1, [dim if isinstance(dim, int) else 1 for dim in node.output.shape])
        case "Tile" if _touched(node, kept) and (repeats := node.constant(1)) is not None:
            sizes = zip(node.operand(0).shape, node.output.shape, repeats.tolist(), strict=True)
            _replace_ints(graph, node, 1, [dim if size == 1 else times for size, dim, times in sizes])
        case "Attention" | "RotaryEmbedding" | "GroupNormalization":
            _recount(node, kept)
        case _ if has_trait(node.operator, Trait.RECURRENT):
            _count_units(graph, node, kept)
        case "Slice" if _touched(node, kept):
            _move_ends(graph, node, kept)
        case "Gather" if _touched(node, kept):
            _renumber(graph, node, kept)
        case "Resize" if _touched(node, kept) and node.constant(3) is not None:
            _replace_ints(graph, node, 3, _updated_sizes(node, kept))
        case "Split" if _touched(node, kept):
            axis = node.attributes.get("axis", 0)
            assert isinstance(axis, int)
            if (node.operand(0), axis % node.operand(0).type.rank) in kept:
                _replace_ints(graph, node, 1, [output.shape[axis] for output in node.outputs])
                node.attributes = _without(node, "num_outputs")
        case _:
            pass


def _without(node: Node, name: str) -> dict[str, Attribute]:
    return {key: value for key, value in node.attributes.items() if key != name}


def _touched(node: Node, kept: Kept) -> bool:
    return any((output, axis) in kept for output in node.outputs for axis in range(output.type.rank))


def _regroup(node: Node, kept: Kept) -> None:
    """A depthwise convolution loses groups; any other grouped one loses channels of each group and keeps its number."""
    x, weight = node.operand(0), node.operand(1)
    if (x, 1) in kept:
        width = 1 if node.operator == "ConvTranspose" else weight.type.static_shape[1]
        node.attributes = {**node.attributes, "group": int(kept[x, 1].sum()) // width}


def _recount(node: Node, kept: Kept) -> None:
    """Heads and groups that lie side by side along an axis keep their size, and are fewer."""
    counts = {"q_num_heads": (0, 2), "kv_num_heads": (1, 2), "num_heads": (0, 2), "num_groups": (0, 1)}
    for name, (index, axis) in counts.items():
        mask = kept.get((node.operand(index), axis)) if node.attributes.get(name) else None
        if mask is not None and (axis == 1 or node.operand(index).type.rank == 3):
            number = int(node.attributes[name])
            node.attributes = {**node.attributes, name: max(number * int(mask.sum()) // len(mask), 1)}


def _count_units(graph: Graph, node: Node, kept: Kept) -> None:
    """Bring the number of hidden units up to date; states of zeros, of which no group is part, are the default."""
    if (node.operand(2), 2) not in kept:
        return
    node.attributes = {**node.attributes, "hidden_size": node.operand(2).type.static_shape[2]}
    for index in (5, 6):
        state = node.input(index)
        if state is not None and is_zero(state):
            graph.set_input(node, index, None)


def _reshape_target(node: Node) -> list[Dim]:
    """The output's shape with 0 for a dimension that is copied and -1 for the one other that isn't known."""
    x = node.operand(0)
    copied = [axis < x.type.rank and x.shape[axis] == dim for axis, dim in enumerate(node.output.shape)]
    return [
        dim if isinstance(dim, int) else 0 if copy else -1 for dim, copy in zip(node.output.shape, copied, strict=True)
    ]


def _updated_sizes(node: Node, kept: Kept) -> list[Dim]:
    sizes = node.constant(3)
    assert sizes is not None
    masks = [kept.get((node.output, axis)) for axis in range(len(sizes))]
    return [int(size) if mask is None else int(mask.sum()) for size, mask in zip(sizes, masks, strict=True)]


def _move_ends(graph: Graph, node: Node, kept: Kept) -> None:
    """Bring the stretches that a Slice takes of axes that lose indices up to date."""
    x, starts, ends, axes, steps = node.operand(0), *(node.constant(index) for index in (1, 2, 3, 4))
    if starts is None or ends is None:  # then none of the axes that it names loses indices
        return
    firsts, lasts = starts.tolist(), ends.tolist()
    for place, axis in enumerate(range(len(firsts)) if axes is None else axes.tolist()):
        mask = kept.get((x, axis % x.type.rank))
        if mask is not None:
            step = 1 if steps is None else int(steps[place])
            first, last, _ = slice(firsts[place], lasts[place], step).indices(len(mask))
            way = first % step  # into a step, which goes as a whole
            firsts[place], lasts[place] = int(mask[: first - way].sum()) + way, int(mask[:last].sum())
    _replace_ints(graph, node, 1, firsts)
    _replace_ints(graph, node, 2, lasts)


def _renumber(graph: Graph, node: Node, kept: Kept) -> None:
    """Bring the places that a Gather takes from an axis that loses indices up to date."""
    data, places, axis = node.operand(0), node.constant(1), node.attributes.get("axis", 0)
    assert isinstance(axis, int)
    mask = kept.get((data, axis % data.type.rank))
    if mask is not None and places is not None:  # those that point at lost indices are gone
        _replace_ints(graph, node, 1, (np.cumsum(mask) - 1)[places % len(mask)].tolist())


def _replace_ints(graph: Graph, node: Node, index: int, numbers: Sequence[Dim]) -> None:
    old = node.input(index)
    name = old.name if isinstance(old, Constant) else "sizes"
    graph.set_input(node, index, graph.add_constant(np.asarray(numbers, dtype=np.int64), name))
    if isinstance(old, Constant):
        drop_unused(graph, [old])
