"""Operators that write into their operand, such as `add_`, in a graph of values that nobody writes into.

Taking a program apart replaces them, but traces it anew, which takes longer than the export itself. Most programs do
without: an operand stands for its new value from the write on, which is right where no other name of the same memory is
read later.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

_ALIAS = torch.ops.aten.alias.default


def writes(node: fx.Node) -> bool:
    """Whether a node changes its first operand."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def functional_name(node: fx.Node) -> str:
    """The name of the operator that doesn't write: `aten.add.Tensor` for `aten.add_.Tensor`, else the node's own."""
    return str(node.target).replace("_.", ".", 1) if writes(node) else str(node.target)


def show_dropout(graph: fx.Graph) -> None:
    """Turn dropout in evaluation mode into an alias: it returns its very operand, which torch's exporter hides."""
    for node in graph.nodes:
        if node.target is torch.ops.aten.dropout.default and not node.args[2]:
            node.target, node.args = _ALIAS, node.args[:1]


def is_training(node: fx.Node) -> bool:
    """Whether a node is dropout or normalization at work in training: it may change what its schema doesn't tell."""
    if not isinstance(node.target, OpOverload) or torch.Tag.maybe_aliasing_or_mutating not in node.target.tags:
        return False
    parameters = [parameter.name for parameter in node.target._schema.arguments]
    return any(value is True and name.startswith("train") for name, value in zip(parameters, node.args, strict=False))


def names_of(node: fx.Node) -> list[fx.Node]:
    """The nodes that are the very tensor that a node returns: itself, what it writes into, what that wrote into, ..."""
    names = [node]
    while writes(names[-1]) or names[-1].target is _ALIAS:
        names.append(_operand(names[-1]))
    return names


def writes_unseen(graph: fx.Graph) -> bool:
    """Whether nothing that is written belongs to the caller, or is read under another name later.

    It goes by the memory of the fake tensors. Those of an archive share none, so it is false wherever one writes.
    """
    nodes = list(graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    last = {node: max((place[user] for user in node.users), default=-1) for node in nodes}
    memory = _memory(nodes)
    sharing: dict[Any, list[fx.Node]] = defaultdict(list)
    for node in nodes:
        for storage in memory[node]:
            sharing[storage].append(node)
    for write in filter(writes, nodes):
        names = names_of(write)
        others = [other for storage in memory[write] for other in sharing[storage]]
        if names[1] not in others or any(other.op == "placeholder" for other in others):
            return False
        if any(place[other] < place[write] < last[other] for other in others if other not in names):
            return False
    return True


def _memory(nodes: Sequence[fx.Node]) -> dict[fx.Node, set[Any]]:
    """The storages that each node's tensors lie in."""
    owner: dict[Any, Any] = {}
    memory: dict[fx.Node, set[Any]] = {}
    for node in nodes:
        tensors = [leaf for leaf in pytree.tree_leaves(node.meta.get("val")) if isinstance(leaf, torch.Tensor)]
        storages = {tensor.untyped_storage()._cdata for tensor in tensors}
        if node.target is _ALIAS:
            (source,) = memory[_operand(node)]
            owner.update(dict.fromkeys(storages, source))
        memory[node] = {owner.get(storage, storage) for storage in storages}
    return memory


def _operand(node: fx.Node) -> fx.Node:
    operand = node.args[0]
    assert isinstance(operand, fx.Node)  # a tensor, by the operator's schema
    return operand
