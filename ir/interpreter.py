"""The interpreter: runs a graph with torch, node by node; the meaning that every backend is held to."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast

import numpy as np
import torch

from .analysis.liveness import last_uses
from .applying import call_attributes
from .errors import ModelError, TargetError
from .graph import Constant, Graph, Node, Value
from .infer import find_operator
from .limits import MOST_BYTES, check_types
from .operators import has_trait
from .ops import Body, Operator
from .ops.dtypes import to_numpy, to_torch
from .traits import Trait
from .types import DType, TensorType

Observer = Callable[[Value, torch.Tensor], torch.Tensor | None]
"""What sees each value's tensor; where it returns another one, that is computed with instead."""

_DEPTH = 8
"""The fewest channels that a convolution sums over for which torch is faster in bfloat16."""

Held: TypeAlias = torch.Tensor | Sequence[torch.Tensor] | Sequence[Mapping[int | str, float]] | None
"""A tensor, a sequence of tensors or of maps, or an optional that holds nothing."""


class Interpreter:
    """A graph made ready to run: operators looked up, constants shared as tensors, lifetimes known.

    Args:
        graph: the graph to run.
        products: the type that factors of float32 are rounded to in convolutions and products of matrices, but for
            those in graphs inside nodes.
    """

    def __init__(self, graph: Graph, *, products: torch.dtype = torch.float32) -> None:
        self.graph = graph
        self._constants: dict[Value, Held] = {value: to_torch(value.data) for value in graph.constants.values()}
        self._last_uses = last_uses(graph)
        self._nodes = [
            (node, _definition(node, products), {name: Interpreter(inner) for name, inner in _graphs(node)})
            for node in graph.nodes
        ]
        self._fitting: set[tuple[tuple[str, int], ...]] = set()  # sizes of symbols

    def run(self, feeds: Mapping[str, Any], observe: Observer | None = None) -> dict[str, Any]:
        """The outputs by name.

        Args:
            feeds: an array for each input of the graph, by name; for a sequence a list of them, for an optional perhaps
                None.
            observe: called with every input's and node output's value and tensor, as soon as it is known; it may return
                another tensor to go on with.

        Raises:
            ModelError: an input is missing, or a node fails; the layer is named.
        """
        given = self.arguments(feeds)
        with torch.no_grad():
            results = self.call(given, {}, observe)
        return {name: _returned(result) for name, result in zip(self.graph.outputs, results, strict=True)}

    def arguments(self, feeds: Mapping[str, Any]) -> list[Held]:
        """What `call` takes, from what `run` takes.

        Raises:
            ModelError: an input is missing, or something would be too large.
        """
        given: list[Held] = []
        for value in self.graph.inputs:
            if value.name not in feeds:
                raise ModelError(f"input {value.name!r} ({value.type}) is missing")
            given.append(_fed(feeds[value.name]))
        self._check_sizes(given)
        return given

    def _check_sizes(self, given: Sequence[Held]) -> None:
        """Refuse what would take too much memory at the sizes of some inputs."""
        sizes = _sizes(zip(self.graph.inputs, given, strict=True))
        key = tuple(sizes.items())
        if key in self._fitting:
            return
        for node, _, _ in self._nodes:
            check_types((output.type for output in node.outputs), sizes, str(node.location))
        self._fitting.add(key)

    def call(
        self, arguments: Sequence[Held], around: Mapping[Value, Held], observe: Observer | None = None
    ) -> tuple[Held, ...]:
        """The outputs for inputs in order; `around` holds the values of the graphs around this one that it reads."""
        values: dict[Value, Held] = {
            **around,
            **self._constants,
            **dict(zip(self.graph.inputs, arguments, strict=True)),
        }
        self._observe(self.graph.inputs, values, observe)
        self.advance(values, range(len(self._nodes)), observe)
        return tuple(values[value] for value in self.graph.outputs.values())

    def advance(self, values: dict[Value, Held], places: range, observe: Observer | None = None) -> None:
        """Compute some of the nodes, by their places in the graph.

        Args:
            values: the values computed so far, constants included; the nodes' results are added, and values that
                nobody reads after them are taken out.
            places: the positions of the nodes to compute.
            observe: the same as in `run`.
        """
        for node, definition, inner in self._nodes[places.start : places.stop]:
            bodies = _bodies(node, inner, values, observe) if inner else {}
            results = map(_dense, evaluate(node, definition, values, bodies))
            values.update(zip(node.outputs, results, strict=False))
            self._observe(node.outputs, values, observe)
            for dead in self._last_uses.get(node, ()):
                values.pop(dead, None)

    def _observe(self, found: Sequence[Value], values: dict[Value, Held], observe: Observer | None) -> None:
        if observe is None:
            return
        for value in found:
            held = values[value]
            if isinstance(held, torch.Tensor) and (other := observe(value, held)) is not None:
                values[value] = other


class _Body:
    """A graph inside a node, ready to be called by the node's operator."""

    def __init__(
        self,
        interpreter: Interpreter,
        around: Mapping[Value, Held],
        sizes: Mapping[str, int],
        observe: Observer | None,
    ) -> None:
        self.types = tuple(_sized(value.type, sizes) for value in interpreter.graph.outputs.values())
        self._interpreter = interpreter
        self._around = around
        self._observe = observe

    def __call__(self, *arguments: Held) -> tuple[Held, ...]:
        return self._interpreter.call(arguments, self._around, self._observe)


def _definition(node: Node, products: torch.dtype) -> Operator:
    """What a node means, with products in a type."""
    definition = find_operator(node.operator)
    function = multiplied_in(products, node, definition.function)
    return definition if function is definition.function else replace(definition, function=function)


def _bodies(
    node: Node, inner: Mapping[str, Interpreter], values: Mapping[Value, Held], observe: Observer | None
) -> dict[str, _Body]:
    """The graphs inside a node."""
    seen = {value: values[value] for value in (*node.inputs, *node.captured) if value is not None}
    around, sizes = {value: seen[value] for value in node.captured}, _sizes(seen.items())
    return {name: _Body(body, around, sizes, observe) for name, body in inner.items()}


def _sizes(held: Iterable[tuple[Value, Held]]) -> dict[str, int]:
    """The sizes of symbolic dimensions, as tensors of values have them."""
    sizes: dict[str, int] = {}
    for value, tensor in held:
        if isinstance(tensor, torch.Tensor) and value.type.is_ranked:
            sizes |= {dim: size for dim, size in zip(value.shape, tensor.shape, strict=False) if isinstance(dim, str)}
    return sizes


def _sized(type: TensorType, sizes: Mapping[str, int]) -> TensorType:
    """A type whose dimensions are numbers where their sizes are known."""
    dims = type.dims
    if dims is None:
        return type
    return type.resized(tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in dims))


def _graphs(node: Node) -> Iterator[tuple[str, Graph]]:
    return ((name, value) for name, value in node.attributes.items() if isinstance(value, Graph))


def _dense(held: Held) -> Held:
    """A tensor in the layout that its shape has: sums round differently over another.

    Strides of axes of size 1 say nothing, but torch takes an image of one channel for channels-last by them.
    """
    if not isinstance(held, torch.Tensor):
        return held
    dense = held.contiguous()
    return dense.view(dense.shape) if 1 in dense.shape else dense


def _fed(given: Any) -> Held:
    """The tensors to compute with, from arrays brought into the layout that their shape has."""
    if given is None:
        return None
    if isinstance(given, list | tuple):
        return [to_torch(np.asarray(array, order="C")) for array in cast("Sequence[Any]", given)]
    return to_torch(np.asarray(given, order="C"))


def _returned(held: Held) -> Any:
    if held is None or isinstance(held, torch.Tensor):
        return None if held is None else to_numpy(held)
    return [to_numpy(item) if isinstance(item, torch.Tensor) else item for item in held]


def evaluate(
    node: Node, definition: Operator, values: Mapping[Value, Held], bodies: Mapping[str, Body] | None = None
) -> tuple[Held, ...]:
    """The outputs of one node.

    Raises:
        ModelError: torch refuses, or the result is beyond all bounds; it names the layer.
        TargetError: it needs a package that isn't installed.
    """
    arguments: list[Any] = []
    for index, value in enumerate(node.inputs):
        held = None if value is None else values[value]
        if index in definition.host and isinstance(held, torch.Tensor):
            arguments.append(held.reshape(-1).tolist())
        else:
            arguments.append(_dense(held))
    try:
        keywords = call_attributes(definition, node.inputs, node.attributes, len(node.outputs)) | dict(bodies or {})
        results = definition.function(*arguments, **keywords)
    except ModelError:  # from a graph inside the node, which knows better where
        raise
    except TargetError as error:
        raise TargetError(f"{node.location}: {node!r} can't be run here: {error}") from error
    except Exception as error:  # whatever torch raises is a property of the model and its input
        raise ModelError(f"{node.location}: {node!r} failed: {error}") from error
    results = results if isinstance(results, tuple) else (results,)
    if any(isinstance(result, torch.Tensor) and result.nbytes > MOST_BYTES for result in results):
        raise ModelError(f"{node.location}: {node!r} makes more than {MOST_BYTES:,} bytes at once")
    return results


def evaluate_constant(node: Node) -> tuple[np.ndarray, ...]:
    """The outputs of a node all of whose inputs are constants: views of these where torch makes a view."""
    values: dict[Value, Held] = {value: to_torch(value.data) for value in node.inputs if isinstance(value, Constant)}
    check_types((output.type for output in node.outputs), {}, str(node.location))
    with torch.no_grad():
        return tuple(map(_returned, evaluate(node, find_operator(node.operator), values)))


def multiplied_in(dtype: torch.dtype, node: Node, function: Callable[..., Any]) -> Callable[..., Any]:
    """A node's function, with its factors rounded to a type if it sums many products of float32.

    Its result is float32 all the same, as in Micikevicius et al., "Mixed Precision Training", ICLR 2018.

    Args:
        dtype: the type to multiply in; float32 for the function as it is.
        node: the node.
        function: what computes its outputs.
    """
    factors = () if dtype is torch.float32 else _factors(node)
    if not factors:
        return function

    @functools.wraps(function)
    def narrow(*arguments: torch.Tensor | None, **attributes: Any) -> torch.Tensor:
        rounded = [it.to(dtype) if place in factors and it is not None else it for place, it in enumerate(arguments)]
        return function(*rounded, **attributes).to(torch.float32)

    return narrow


def _factors(node: Node) -> Sequence[int]:
    """The operands in float32 that a type with fast products may hold, where a node sums many products of them.

    Factors on a grid stay as they are, which the model that is deployed computes with; weights of few bits are made
    into floats first, which then have the type of what they are multiplied with.
    """
    if node.outputs[0].dtype is not DType.float32:
        return ()
    if node.operator == "com.microsoft::MatMulNBits":
        return (0,)
    if not has_trait(node.operator, Trait.CONTRACTING):
        return ()
    first, second = node.operand(0), node.operand(1)
    if any(it.producer is not None and it.producer.operator == "DequantizeLinear" for it in (first, second)):
        return ()
    is_deep = "Conv" not in node.operator or (isinstance(second, Constant) and second.data.shape[1] >= _DEPTH)
    return range(len(node.inputs)) if is_deep else ()
