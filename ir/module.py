"""A graph as a torch module, and its weights back: what training and distillation work on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from .applying import call_attributes
from .graph import Attribute, Constant, Graph, Value
from .infer import find_operator
from .interpreter import multiplied_in
from .ops.dtypes import to_numpy, to_torch
from .types import TensorType


def to_module(graph: Graph, *, training: bool = False, products: torch.dtype = torch.float32) -> fx.GraphModule:
    """The graph as a module that computes it.

    `forward` takes the inputs in order and returns a tuple of the outputs in order. Constants of a floating type of 16
    bits or more are parameters, the others buffers; all share memory with the graph's arrays.

    Args:
        graph: the graph to run or train.
        training: whether the module is trained: it has parameters of its own then, since an optimizer writes into them,
            and operators have their meaning for training, if any (rounding passes gradients straight through).
        products: the type that factors of float32 are rounded to in convolutions and products of matrices, as in
            Micikevicius et al., "Mixed Precision Training", ICLR 2018; all else keeps its type.
    """
    return _module(graph, (), training=training, products=products)


def _module(graph: Graph, around: Sequence[Value], *, training: bool, products: torch.dtype) -> fx.GraphModule:
    """Do what `to_module` does; values of the graphs around that the graph reads become further inputs."""
    root = nn.Module()
    target = fx.Graph()
    values: dict[Value, fx.Node] = {
        value: target.placeholder(f"input_{index}") for index, value in enumerate((*graph.inputs, *around))
    }
    for index, constant in enumerate(graph.constants.values()):
        name = f"constant_{index}"
        tensor = to_torch(constant.data)
        if constant.dtype.is_trainable:
            root.register_parameter(name, nn.Parameter(tensor.clone() if training else tensor, requires_grad=training))
        else:
            root.register_buffer(name, tensor)
        values[constant] = target.get_attr(name)
    for node in graph.nodes:
        definition = find_operator(node.operator)
        function = definition.trainable if training and definition.trainable else definition.function
        function = multiplied_in(products, node, function)
        arguments = tuple(
            _host_argument(target, value, values) if index in definition.host else value and values[value]
            for index, value in enumerate(node.inputs)
        )
        keywords = call_attributes(definition, node.inputs, node.attributes, len(node.outputs))
        for name, attribute in keywords.items():
            if isinstance(attribute, Graph):
                keywords[name] = _body(root, target, attribute, node.captured, values)
            elif not _is_code(attribute):
                keywords[name] = _held(root, target, attribute)
        result = target.call_function(function, arguments, keywords)
        for index, output in enumerate(node.outputs):
            single = len(node.outputs) == 1
            values[output] = result if single else target.call_function(_item, (result, index))
    target.output(tuple(values[value] for value in graph.outputs.values()))
    return fx.GraphModule(root, target)


def update_constants(graph: Graph, module: fx.GraphModule) -> int:
    """Write a module's parameters back into the graph that it was made from, where they differ.

    Returns:
        How many constants changed.
    """
    changed = 0
    for index, constant in enumerate(graph.constants.values()):
        trained = to_numpy(module.get_parameter(f"constant_{index}").detach()) if constant.dtype.is_trainable else None
        if trained is not None and not np.array_equal(trained, constant.data, equal_nan=True):
            constant.data = trained.copy()
            changed += 1
    return changed


def _is_code(attribute: Attribute) -> bool:
    """Whether an attribute can be written into the module's code; arrays and graphs can't."""
    return isinstance(attribute, int | float | str | tuple | torch.dtype)


def _held(root: nn.Module, target: fx.Graph, attribute: Attribute) -> fx.Node:
    """An attribute as one of the module's own."""
    name = f"attribute_{len(target.nodes)}"
    setattr(root, name, attribute)
    return target.get_attr(name)


def _body(
    root: nn.Module, target: fx.Graph, graph: Graph, around: Sequence[Value], values: dict[Value, fx.Node]
) -> fx.Node:
    """A graph inside a node, as what the node's operator can call; its weights are not trained."""
    module = _held(root, target, _module(graph, around, training=False, products=torch.float32))
    types = _held(root, target, tuple(value.type for value in graph.outputs.values()))
    return target.call_function(_Body, (module, types, *(values[value] for value in around)))


class _Body:
    """A module of a graph inside a node, with the values that it reads of those around it."""

    def __init__(self, module: fx.GraphModule, types: tuple[TensorType, ...], *around: torch.Tensor) -> None:
        self.types = types
        self._module = module
        self._around = around

    def __call__(self, *arguments: Any) -> tuple[Any, ...]:
        return self._module(*arguments, *self._around)


def _item(values: tuple[torch.Tensor, ...], index: int) -> torch.Tensor:
    return values[index]


def _elements(tensor: torch.Tensor) -> list[int]:
    return tensor.reshape(-1).tolist()


def _host_argument(target: fx.Graph, value: Value | None, values: dict[Value, fx.Node]) -> list[int] | fx.Node | None:
    if value is None:
        return None
    if isinstance(value, Constant):
        return value.data.reshape(-1).tolist()
    return target.call_function(_elements, (values[value],))
