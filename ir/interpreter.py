"""The interpreter: runs a graph with torch, node by node; the meaning that every backend is held to."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from .analysis.liveness import last_uses
from .errors import ModelError
from .graph import Constant, Graph, Node, Value
from .infer import call_attributes, find_operator
from .ops.dtypes import to_numpy, to_torch

Observer = Callable[[Value, torch.Tensor], None]


class Interpreter:
    """A graph made ready to run: operators looked up, constants shared as tensors, lifetimes known."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._nodes = [(node, find_operator(node.operator)) for node in graph.nodes]
        self._constants: dict[Value, torch.Tensor] = {
            constant: to_torch(constant.data) for constant in graph.constants.values()
        }
        self._last_uses = last_uses(graph)

    def run(self, feeds: Mapping[str, np.ndarray], observe: Observer | None = None) -> dict[str, np.ndarray]:
        """The outputs by name.

        Args:
            feeds: an array for each input of the graph, by name.
            observe: called with every input's and node output's value and tensor, as soon as it is known.

        Raises:
            ModelError: an input is missing, or a node fails; the layer is named.
        """
        values = dict(self._constants)
        for value in self.graph.inputs:
            if value.name not in feeds:
                raise ModelError(f"input {value.name!r} ({value.type}) is missing")
            values[value] = to_torch(np.asarray(feeds[value.name])).contiguous()
            if observe is not None:
                observe(value, values[value])
        with torch.no_grad():
            for node, definition in self._nodes:
                for output, tensor in zip(node.outputs, evaluate(node, definition, values), strict=False):
                    values[output] = tensor
                    if observe is not None:
                        observe(output, tensor)
                for dead in self._last_uses.get(node, ()):
                    values.pop(dead, None)
        return {name: to_numpy(values[value]) for name, value in self.graph.outputs.items()}


def evaluate(node: Node, definition: Any, values: Mapping[Value, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The outputs of one node.

    Raises:
        ModelError: torch refuses, naming the layer.
    """
    arguments: list[Any] = []
    for index, value in enumerate(node.inputs):
        if value is None:
            arguments.append(None)
        elif index in definition.host:
            arguments.append(values[value].reshape(-1).tolist())
        else:
            arguments.append(values[value])
    try:
        keywords = call_attributes(definition, node.inputs, node.attributes, len(node.outputs))
        results = definition.function(*arguments, **keywords)
    except Exception as error:  # whatever torch raises is a property of the model and its input
        raise ModelError(f"{node.location}: {node!r} failed: {error}") from error
    results = results if isinstance(results, tuple) else (results,)
    return tuple(result.contiguous() for result in results)  # sums round differently over another layout in memory


def evaluate_constant(node: Node) -> tuple[np.ndarray, ...]:
    """The outputs of a node all of whose inputs are constants."""
    values: dict[Value, torch.Tensor] = {
        value: to_torch(value.data) for value in node.inputs if isinstance(value, Constant)
    }
    with torch.no_grad():
        return tuple(to_numpy(tensor) for tensor in evaluate(node, find_operator(node.operator), values))
