"""A graph under construction that runs at all times: what every value is, for one set of inputs, is known."""

from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np

from planish.ir.builder import Builder
from planish.ir.dims import evaluate, symbols
from planish.ir.errors import ModelError
from planish.ir.graph import Constant, Graph, Node, Value
from planish.ir.infer import find_operator
from planish.ir.interpreter import Interpreter
from planish.ir.ops.dtypes import to_numpy
from planish.ir.reinfer import reinfer
from planish.ir.types import Container, TensorType
from planish.ir.verify import verify

from .cases import Fragment

_LARGE = 1e4
"""The bound beyond which operators overflow before long, and NaN hides everything else."""
_MOST_AXES = 8
_SHAPES = [*3 * [(2, 3, 4, 5)], (1, 3, 1, 5), (3, 4), (2, 1, 3), (4,), (0, 3)]


class Sketch:
    """A graph, its inputs, and its values.

    Attributes:
        graph: the graph that is built.
        op: the builder that writes at the graph's end.
        feeds: an array for each input.
        data: the array that each tensor is for these inputs.
    """

    def __init__(self, random: Random, graph: Graph | None = None, feeds: Mapping[str, Any] = {}) -> None:
        self.graph = graph or Graph()
        self.op = Builder(self.graph)
        self.feeds: dict[str, Any] = dict(feeds)
        self.data: dict[Value, np.ndarray] = {}
        self.random = random
        if graph is None:
            self.add(self._random_array(random.choice(_SHAPES)))
        else:
            self.data = computed(self.graph, self.feeds)

    def _random_array(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng(self.random.getrandbits(32)).uniform(-2, 2, shape).astype(np.float32)

    def weights(self, *shape: int) -> np.ndarray:
        """Random numbers, or the same one everywhere."""
        plain = self.random.choice([0.0, 1.0, None, None, None, None])
        return self._random_array(shape) if plain is None else np.full(shape, plain, np.float32)

    def add(self, array: np.ndarray, name: str = "x") -> Value:
        """A new input of the graph."""
        constant = Constant(self.graph.unique_name(name), array)
        value = self.graph.add_input(constant.name, constant.type)
        self.feeds[value.name] = self.data[value] = array
        return value

    def constant(self, array: np.ndarray, name: str = "constant") -> Value:
        value = self.graph.add_constant(array, name)
        self.data[value] = array
        return value

    def pick(self, *, rank: int = 0, dtype: Any = np.float32) -> Value:
        """One of the latest tensors of an element type, or of any, and at least some rank; or a new input."""
        found = [
            value
            for value, array in self.data.items()
            if dtype in (None, array.dtype) and array.ndim >= rank and array.size and not isinstance(value, Constant)
        ]
        return (
            self.random.choice(found[-5:])
            if found
            else self.add(self._random_array((2, 3, 4, 5)).astype(dtype or np.float32))
        )

    def insert(self, part: Fragment) -> None:
        """Copy a fragment to the end of the graph, reading values that are there, constants and new inputs."""
        values: dict[Value, Value] = {}
        for value in part.graph.inputs:
            values[value] = self._given(value, part.feeds[value.name])
        for constant in part.graph.constants.values():
            values[constant] = self.constant(constant.data, constant.name)
        for node in part.graph.nodes:
            copy_node(self.graph, node, values)

    def _given(self, value: Value, given: Any) -> Value:
        """What stands for an input of a fragment: such a value that its operators can make something of it."""
        if value.type.container is not Container.NONE:
            new = self.graph.add_input(self.graph.unique_name(value.name), value.type)
            self.feeds[new.name] = given
            return new
        way = self.random.choice(["value", "value", "value", "shaped", "shaped", "input", "constant"])
        if way == "input":
            return self.add(given, value.name)
        fitting = [other for other in self.data if self._fits(other, given)] if way != "constant" else []
        same = [other for other in fitting if self.data[other].shape == given.shape]
        if same and (way == "value" or len(same) == len(fitting)):
            return self.random.choice(same[-5:])
        if fitting and given.size:
            return self._shaped(self.random.choice(fitting[-5:]), given.shape)
        return self.constant(given, value.name)

    def _fits(self, value: Value, given: np.ndarray) -> bool:
        """Whether a value may stand for another: any reasonable float; of the rest, what has no more extreme elements.

        Counts of something may be floats too, such as the depth of a OneHot.
        """
        held = self.data[value]
        if held.dtype != given.dtype or held.dtype == object or not held.size or not given.size:
            return False
        if held.dtype == np.bool_:
            return True
        is_count = given.dtype.kind in "iu" or (given.size == 1 and np.all(given == np.floor(np.abs(given))))
        if not is_count:
            numbers = np.abs(held if held.dtype.kind == "c" else held.astype(np.float64))
            return bool(np.all(numbers < _LARGE)) or self.random.random() < 0.05
        return bool(given.min() <= held.min() and held.max() <= given.max())

    def _shaped(self, value: Value, shape: tuple[int, ...]) -> Value:
        """The elements of a value, repeated or cut off, in a shape."""
        size, count = self.data[value].size, int(np.prod(shape))
        flat = self.op.Reshape(value, [-1])
        if size < count:
            flat = self.op.Tile(flat, [-(-count // size)])
        if count % size:
            flat = self.op.Slice(flat, [0], [count])
        return self.op.Reshape(flat, np.array(shape, np.int64))

    def settle(self) -> None:
        """Infer all types, and compute everything.

        Raises:
            Exception: the graph is none, or doesn't run.
        """
        for node in self.graph.nodes:
            _check_ranks(node)
        reinfer(self.graph)
        self.graph.verified = 0
        verify(self.graph)
        self.data = computed(self.graph, self.feeds)


def _check_ranks(node: Node) -> None:
    """Refuse tensors of as many axes as another has elements: inference works with an algebra of all their sizes.

    Raises:
        ModelError: a shape is computed, and may be of many sizes.
    """
    for index in find_operator(node.operator).host:
        value = node.input(index)
        if value is None or isinstance(value, Constant) or not value.type.is_static:
            continue
        if np.prod(value.type.static_shape) > _MOST_AXES:
            raise ModelError(f"{node!r} reads a row of more than {_MOST_AXES} sizes")


def computed(graph: Graph, feeds: Mapping[str, Any]) -> dict[Value, np.ndarray]:
    """What each tensor of a graph is, those inside of nodes left out."""
    found: dict[Value, np.ndarray] = {constant: constant.data for constant in graph.constants.values()}
    own = set(graph.values())
    Interpreter(graph).run(feeds, lambda value, tensor: found.update({value: to_numpy(tensor)}))
    return {value: array for value, array in found.items() if value in own}


def copy_node(graph: Graph, node: Node, values: dict[Value, Value], before: Node | None = None) -> Node:
    """A copy of a node, with what is inside it, at the end of a graph or before a node; `values` maps what it reads."""
    copy = graph.add_node(
        node.operator,
        [value and values.get(value, value) for value in node.inputs],
        [output.type for output in node.outputs],
        {
            name: _copied(held, graph, values) if isinstance(held, Graph) else held
            for name, held in node.attributes.items()
        },
        names=[output.name for output in node.outputs],
        location=node.location,
        before=before,
    )
    values.update(zip(node.outputs, copy.outputs, strict=True))
    return copy


def _copied(source: Graph, outer: Graph, values: dict[Value, Value]) -> Graph:
    copy = Graph(source.name, outer)
    values |= {value: copy.add_input(copy.unique_name(value.name), value.type) for value in source.inputs}
    values |= {constant: copy.add_constant(constant.data, constant.name) for constant in source.constants.values()}
    for node in source.nodes:
        copy_node(copy, node, values)
    copy.outputs = {name: values[value] for name, value in source.outputs.items()}
    return copy


def with_symbol(graph: Graph, size: int) -> Graph | None:
    """A copy in which a size of inputs is called `n`; None where inference finds that it can't be another."""
    copy = graph.clone()
    for value in copy.inputs:
        dims = tuple("n" if dim == size else dim for dim in value.type.dims or ())
        if value.type.dims is not None and value.type.container is Container.NONE:
            value.type = TensorType(value.dtype, dims)
    try:
        reinfer(copy)
    except Exception:  # whatever inference raises
        return None
    return copy if any("n" in symbols(dim) for value in copy.inputs for dim in value.type.dims or ()) else None


def resized(graph: Graph, feeds: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Inputs of a graph with another size for `n`, made of the elements of those that are given."""
    return {
        value.name: np.resize(feeds[value.name], [evaluate(dim, {"n": size}) for dim in value.shape]).astype(
            feeds[value.name].dtype
        )
        if value.type.container is Container.NONE and value.type.symbols == {"n"}
        else feeds[value.name]
        for value in graph.inputs
    }
