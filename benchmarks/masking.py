"""What a graph computes where some channels are set to zero: that which a pruned graph is held to."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

from planish.ir.graph import Constant, Graph, Node, Value
from planish.ir.infer import find_operator
from planish.ir.interpreter import Interpreter, evaluate
from planish.ir.operators import has_trait
from planish.ir.traits import Trait

STATISTICS = {"LayerNormalization", "RMSNormalization", "com.microsoft::SkipLayerNormalization", "ReduceMean"}
"""Operators that take a mean over an axis, which channels that are gone have no part in."""

Kept: TypeAlias = Mapping[tuple[Value, int], np.ndarray]
"""A boolean for each index of an axis of a value: whether it stays."""
Decide: TypeAlias = Callable[[Value, torch.Tensor], torch.Tensor | None]
"""What takes the place of a value that is computed, if anything does."""


def run_masked(
    graph: Graph, kept: Kept, feeds: Mapping[str, Any], decide: Decide = lambda value, tensor: None
) -> dict[str, np.ndarray]:
    """The outputs where all that isn't kept is set to zero wherever it is computed.

    Args:
        graph: the graph with all channels; weights of recurrent layers are set to zero in place.
        kept: whether each index of an axis of a value is kept.
        feeds: an array for each input.
        decide: what values that are decided by comparing numbers are replaced by, such as a replay of another run.
    """
    for node in graph.nodes:
        for value in node.inputs if has_trait(node.operator, Trait.RECURRENT) else ():
            if isinstance(value, Constant):
                value.data = _zeroed(value, torch.from_numpy(value.data), kept).numpy()
    means = {node.outputs[0]: node for node in graph.nodes if _takes_means(node)}
    read = [value for node in means.values() for value in node.inputs if isinstance(value, Constant)]
    held: dict[Value, torch.Tensor] = {value: torch.from_numpy(value.data) for value in read}

    def observe(value: Value, tensor: torch.Tensor) -> torch.Tensor:
        if value in means:
            tensor = _of_what_is_left(means[value], tensor, held, kept)
        tensor = _zeroed(value, tensor, kept)
        answer = decide(value, tensor)
        tensor = tensor if answer is None else answer
        if any(_takes_means(use.node) for use in value.uses):
            held[value] = tensor
        return tensor

    return Interpreter(graph).run(feeds, observe)


def _takes_means(node: Node) -> bool:
    """Whether a node takes a mean over channels that may go one by one."""
    return node.operator in STATISTICS or (
        node.operator == "GroupNormalization" and node.attributes.get("num_groups") == 1
    )


def _zeroed(value: Value, tensor: torch.Tensor, kept: Kept) -> torch.Tensor:
    for axis in range(tensor.ndim):
        if (value, axis) in kept:
            tensor = tensor.index_fill(axis, torch.from_numpy(np.flatnonzero(~kept[value, axis])), 0)
    return tensor


def _of_what_is_left(node: Node, result: torch.Tensor, held: Mapping[Value, torch.Tensor], kept: Kept) -> torch.Tensor:
    """The result of a node for the indices alone that are kept."""
    narrow: dict[Value, Any] = {}
    for value in filter(None, node.inputs):
        narrow[value] = held[value]
        for axis in range(held[value].ndim):
            if (value, axis) in kept:
                narrow[value] = narrow[value].index_select(axis, torch.from_numpy(np.flatnonzero(kept[value, axis])))
    (found, *_) = evaluate(node, find_operator(node.operator), narrow)
    assert isinstance(found, torch.Tensor)
    places = [
        torch.from_numpy(np.flatnonzero(kept[node.outputs[0], axis]))
        if (node.outputs[0], axis) in kept
        else torch.arange(size)
        for axis, size in enumerate(result.shape)
    ]
    wide = torch.zeros_like(result)
    wide[torch.meshgrid(*places, indexing="ij")] = found
    return wide
