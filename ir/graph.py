"""The graph: SSA values, nodes in topological order, constants, and the edits that passes make.

Every edit is O(1) per edge it touches. Nodes are a linked list, so a pass may insert and erase while it iterates: an
erased node keeps its link forward, and iteration goes on from there.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .dims import Dim
from .types import DType, TensorType

Attribute: TypeAlias = Any
"""An int, a float, a str, a tuple of these, an array, a `TensorType` or a `Graph`: the operator's schema says which."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a node came from in the user's model; it stays with the node through every rewrite.

    Attributes:
        module: path of the module, such as `encoder.layer.0.attention`, or the name of an ONNX node.
        source: file and line, such as `modeling_bert.py:177`; empty where it isn't known.
    """

    module: str = ""
    source: str = ""

    def __str__(self) -> str:
        return " at ".join(filter(None, (self.module, self.source))) or "an unnamed place"


_DECLARED = frozenset({"attributes", "operator", "outputs"})
_NO_ATTRIBUTES: Mapping[str, Attribute] = MappingProxyType({})


_moment = 0
"""The moment of the last edit of any graph."""


def now() -> int:
    """The present moment: all that is edited later is edited at a greater one."""
    return _moment


def _next_moment() -> int:
    global _moment  # noqa: PLW0603 -- a clock, which all graphs share since values don't know theirs
    _moment += 1
    return _moment


class Use(NamedTuple):
    """One place where a value is read: input `index` of `node`."""

    node: "Node"
    index: int  # pyright: ignore[reportIncompatibleMethodOverride] -- nobody searches in a use


class Value:
    """A tensor in the graph: a graph input, an output of a node, or a `Constant`.

    Attributes:
        name: the value's name, unique in its graph.
        producer: the node that computes it; None for graph inputs and constants.
        index: its position among the outputs of its producer, or among the graph's inputs.
        edited: the moment of the last change of its type or data.
    """

    __slots__ = ("_uses", "edited", "index", "name", "producer", "type")

    def __init__(self, name: str, type: TensorType, producer: "Node | None" = None, index: int = 0) -> None:
        self._uses: dict[Use, None] = {}  # a set that keeps its order, so that passes are deterministic
        self.name = name
        self.producer = producer
        self.index = index
        self.type = type

    def __setattr__(self, name: str, value: Any) -> None:
        """Note when the type or the data change, for those who compute and read the value as well."""
        object.__setattr__(self, name, value)
        if name in ("type", "data"):
            self.edited = _next_moment()
            for node in (self.producer, *(use.node for use in self._uses)):
                if node is not None:
                    node.edited, node.conforms = self.edited, False

    @property
    def uses(self) -> tuple[Use, ...]:
        """Where nodes read this value; what the graph returns is not among them (see `Graph.is_output`)."""
        return tuple(self._uses)

    @property
    def use_count(self) -> int:
        """How many `uses` there are, in O(1): a constant may have as many as there are layers."""
        return len(self._uses)

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Constant(Value):
    """A value known at compile time: a weight, or a small array such as a shape.

    The array may be memory-mapped or shared with the model that it came from, so nobody writes into it: a pass that
    changes a weight makes a new constant.
    """

    __slots__ = ("data",)

    def __init__(self, name: str, data: np.ndarray) -> None:
        super().__init__(name, TensorType.of(data))
        self.data = data


class Node:
    """An operator applied to values.

    Attributes:
        operator: ONNX's name, such as `Conv`; other domains are spelled out, as in `com.microsoft::FusedMatMul`.
        inputs: values in the schema's order; None where an optional input is left out.
        attributes: the attributes that are set; the schema's defaults hold for the rest. To change them, assign others.
        graphs: the graphs among the attributes: branches, the body of a loop.
        edited: the moment of the last change of anything that the node computes, or of the types of what it reads.
        conforms: whether `verify` found that operator, attributes and types suit each other; not known of changed ones.
        owner: the graph that the node is part of.
    """

    __slots__ = (
        *("_alive", "_inputs", "_next", "_position", "_previous"),
        *("attributes", "conforms", "edited", "graphs", "location", "operator", "outputs", "owner"),
    )
    attributes: Mapping[str, Attribute]
    conforms: bool
    edited: int
    graphs: "tuple[Graph, ...]"

    def __init__(
        self,
        owner: "Graph",
        operator: str,
        inputs: tuple[Value | None, ...],
        attributes: Mapping[str, Attribute],
        location: Location,
    ) -> None:
        self.owner = owner
        self.operator = operator
        self._inputs = inputs
        self.attributes = attributes
        self.location = location
        self.outputs: tuple[Value, ...] = ()
        self._position = 0.0
        self._previous: Node | None = None
        self._next: Node | None = None
        self._alive = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Note when what the node computes changes."""
        if name == "attributes":
            value = MappingProxyType(dict(value)) if value else _NO_ATTRIBUTES
            self.graphs = tuple([held for held in value.values() if isinstance(held, Graph)])
        object.__setattr__(self, name, value)
        if name in _DECLARED:
            object.__setattr__(self, "conforms", False)
            object.__setattr__(self, "edited", _next_moment())
        elif name == "_inputs":
            object.__setattr__(self, "edited", _next_moment())

    @property
    def inputs(self) -> tuple[Value | None, ...]:
        return self._inputs

    @property
    def domain(self) -> str:
        """The operator's domain: empty for the ONNX standard's own."""
        return self.operator.rpartition("::")[0]

    @property
    def output(self) -> Value:
        """The only output.

        Raises:
            ValueError: the node has several.
        """
        if len(self.outputs) != 1:
            raise ValueError(f"{self!r} has {len(self.outputs)} outputs")
        return self.outputs[0]

    def input(self, index: int) -> Value | None:
        """The input at a position, None where it is left out or the node has fewer."""
        return self._inputs[index] if index < len(self._inputs) else None

    def operand(self, index: int) -> Value:
        """The input at a position where the schema demands one.

        Raises:
            ValueError: it is left out.
        """
        if (value := self.input(index)) is None:
            raise ValueError(f"{self!r} has no input {index}")
        return value

    def constant(self, index: int) -> np.ndarray | None:
        """The data of an input that is a constant, None otherwise."""
        value = self.input(index)
        return value.data if isinstance(value, Constant) else None

    @property
    def captured(self) -> tuple[Value, ...]:
        """What the graphs inside this node read of those around it, each value once."""
        read: dict[Value, None] = {}
        for graph in self.graphs:
            own = set(graph.values())
            found = (value for node in graph.nodes for value in (*node.inputs, *node.captured))
            read.update(dict.fromkeys(value for value in found if value is not None and value not in own))
        return tuple(read)

    def __repr__(self) -> str:
        names = ", ".join("none" if value is None else f"%{value.name}" for value in self._inputs)
        return f"{self.operator}({names})"


class Graph:
    """A function from tensors to tensors.

    A graph inside a node (a branch, the body of a loop) may read the values of the graphs around it, as in ONNX; what
    it returns is its own. Names are unique in a graph with all that is inside it.

    Attributes:
        name: the model's name.
        inputs: the inputs in calling order.
        outputs: what the graph returns, by the name under which a user gets it; a value may be returned more than once.
        constants: the constants by name.
        verified: the moment of the last check by `verify`; 0 if there was none.
    """

    def __init__(self, name: str = "main", outer: "Graph | None" = None) -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: dict[str, Value] = {}
        self.constants: dict[str, Constant] = {}
        self._names: set[str] = set() if outer is None else outer._names
        # the last number given to a hint, so that finding the next is O(1)
        self._numbers: dict[str, int] = {} if outer is None else outer._numbers
        self._first: Node | None = None
        self._last: Node | None = None
        self._count = 0
        self._edited = 0
        self.verified = 0
        self._is_numbered = True  # the nodes' positions ascend

    # -- what is there

    def __repr__(self) -> str:
        inputs = ", ".join(f"{value.name}: {value.type}" for value in self.inputs)
        outputs = ", ".join(f"{name}: {value.type}" for name, value in self.outputs.items())
        return f"<Graph {self.name}: {self._count} nodes, {inputs or 'no inputs'} -> {outputs or 'no outputs'}>"

    def __str__(self) -> str:
        return import_module(".text", __package__).print_graph(self)  # which stands on this

    def _repr_html_(self) -> str:
        parts = (escape(repr(self)), escape(str(self)))
        page = '<details><summary><code>{}</code></summary><pre style="font-family: monospace">{}</pre></details>'
        return page.format(*parts)

    def show(self) -> Any:
        """The graph as an `analysis.picture.Picture`, which notebooks show, and which `save("graph.svg")` writes.

        Raises:
            ValueError: it has so many nodes that a picture shows nothing.
        """
        return import_module(".analysis.picture", __package__).draw(self)  # which stands on this

    @property
    def nodes(self) -> Iterator[Node]:
        """The nodes in topological order; the graph may be edited meanwhile."""
        node = self._first
        while node is not None:
            if node._alive:
                yield node
            node = node._next

    @property
    def nodes_backwards(self) -> Iterator[Node]:
        """The nodes from the last to the first; the graph may be edited meanwhile."""
        node = self._last
        while node is not None:
            if node._alive:
                yield node
            node = node._previous

    def __len__(self) -> int:
        """The number of nodes."""
        return self._count

    def is_edited_since(self, moment: int) -> bool:
        """Whether nodes, constants or inputs came, went or changed after a moment; what is returned doesn't count."""
        if _moment == moment:
            return False
        if self._edited > moment or any(constant.edited > moment for constant in self.constants.values()):
            return True
        return any(
            node.edited > moment or any(inner.is_edited_since(moment) for inner in node.graphs) for node in self.nodes
        )

    def position(self, node: Node) -> float:
        """A number that is the higher the later a node comes, until the graph is edited.

        It costs O(1), but for the first time after very many nodes were inserted at one place.
        """
        if not self._is_numbered:
            for position, each in enumerate(self.nodes):
                each._position = float(position)
            self._is_numbered = True
        return node._position

    def defines(self, value: Value) -> bool:
        """Whether a value is an input or a constant of this graph, or an output of one of its nodes."""
        node = value.producer
        if node is None:
            return self.constants.get(value.name) is value or value in self.inputs
        return node.owner is self and node._alive

    def is_ordered(self, node: Node) -> bool:
        """Whether all that a node reads is defined before it, and all that it computes names it as its producer."""
        position = self.position(node)
        for value in node._inputs:
            if value is None:
                continue
            producer = value.producer
            if producer is None:
                if not self.defines(value):
                    return False
            elif producer.owner is not self or not producer._alive or producer._position >= position:
                return False
        return all(output.producer is node for output in node.outputs)

    def is_output(self, value: Value) -> bool:
        """Whether the graph returns a value."""
        return value in self.outputs.values()

    def values(self) -> Iterator[Value]:
        """Every value: inputs, constants, and the nodes' outputs in order."""
        yield from self.inputs
        yield from self.constants.values()
        for node in self.nodes:
            yield from node.outputs

    def unique_name(self, hint: str) -> str:
        """A name that no value has yet: the hint itself, or the hint with a number."""
        name, number = hint, self._numbers.get(hint, 0)
        while name in self._names:
            number += 1
            name = f"{hint}_{number}"
        self._numbers[hint] = number
        return name

    # -- building

    def add_input(self, name: str, type: TensorType) -> Value:
        """A new input, behind those that there are."""
        value = Value(self._claim(name), type, index=len(self.inputs))
        self.inputs.append(value)
        self._edited = _next_moment()
        return value

    def add_constant(self, data: np.ndarray | np.generic, name: str = "constant") -> Constant:
        """A new constant; the array is shared, not copied. What numpy makes of arrays without axes may be a number."""
        constant = Constant(self._claim(self.unique_name(name)), np.asanyarray(data))
        self.constants[constant.name] = constant
        self._edited = _next_moment()
        return constant

    def add_node(
        self,
        operator: str,
        inputs: Iterable[Value | None],
        types: Iterable[TensorType],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        names: Iterable[str] = (),
        location: Location = Location(),
        before: Node | None = None,
    ) -> Node:
        """A new node at the end, or before another.

        Args:
            operator: the operator's name.
            inputs: values of this graph that are defined earlier.
            types: the types of the outputs; their number is the number of outputs.
            attributes: the attributes that are set.
            names: the names wished for the outputs; they are numbered where they are taken.
            location: the user's layer that this node belongs to.
            before: the node to insert in front of; None for the end.
        """
        node = Node(self, operator, tuple(inputs), attributes or {}, location)
        hints = list(names)
        outputs: list[Value] = []
        for index, type in enumerate(types):
            hint = hints[index] if index < len(hints) else operator.rpartition("::")[2].lower()
            outputs.append(Value(self._claim(self.unique_name(hint)), type, node, index))
        node.outputs = tuple(outputs)
        for index, value in enumerate(node._inputs):
            if value is not None:
                value._uses[Use(node, index)] = None
        self._link(node, before)
        return node

    # -- editing

    def set_input(self, node: Node, index: int, value: Value | None) -> None:
        """Make a node read another value at one position, or none; trailing absent inputs are dropped."""
        inputs = list(node._inputs) + [None] * (index + 1 - len(node._inputs))
        old = inputs[index]
        if old is not None:
            del old._uses[Use(node, index)]
        inputs[index] = value
        if value is not None:
            value._uses[Use(node, index)] = None
        if old is None or value is None or old.type is not value.type:
            node.conforms = False
        while inputs and inputs[-1] is None:
            inputs.pop()
        node._inputs = tuple(inputs)

    def replace_uses(self, old: Value, new: Value) -> None:
        """Make every reader of a value, and what the graph returns, take another one instead."""
        for node, index in old.uses:
            self.set_input(node, index, new)
        for name, value in self.outputs.items():
            if value is old:
                self.outputs[name] = new

    def erase(self, node: Node) -> None:
        """Remove a node whose outputs nobody reads.

        Raises:
            ValueError: an output is still read, or returned by the graph.
        """
        for output in node.outputs:
            if output._uses or self.is_output(output):
                raise ValueError(f"%{output.name} of {node!r} is still used")
        _release(node)
        self._unlink(node)
        self._edited = _next_moment()
        self._names.difference_update(output.name for output in node.outputs)

    def erase_constant(self, constant: Constant) -> None:
        """Remove a constant that nobody reads.

        Raises:
            ValueError: it is still read, or returned by the graph.
        """
        if constant._uses or self.is_output(constant):
            raise ValueError(f"%{constant.name} is still used")
        del self.constants[constant.name]
        self._edited = _next_moment()
        self._names.discard(constant.name)

    def rename(self, value: Value, name: str) -> None:
        """Give a value another name; it is numbered where it is taken."""
        self._names.discard(value.name)
        old, value.name = value.name, self._claim(self.unique_name(name))
        if isinstance(value, Constant):
            self.constants = {value.name if key == old else key: held for key, held in self.constants.items()}

    def splice(self, inner: "Graph", before: Node) -> None:
        """Move all that is in a graph inside a node in front of that node; what it returned is computed here then."""
        self.constants |= inner.constants
        inner.constants, inner.outputs = {}, {}
        for node in tuple(inner.nodes):
            inner._unlink(node)
            node.owner, node._alive = self, True
            node.attributes = node.attributes  # so that it is checked in its new place
            self._link(node, before)
        self._edited = _next_moment()

    def clone(self) -> "Graph":
        """An equal graph that can be edited apart; the constants' arrays are shared."""
        copy = self._copy_into(Graph(self.name), {})
        if self.verified and not self.is_edited_since(self.verified):
            copy.verified = now()
        return copy

    def become(self, other: "Graph") -> None:
        """Take over all that is in another graph, which is left as it is."""
        Graph.__init__(self, other.name)
        other._copy_into(self, {})

    def _copy_into(self, copy: "Graph", values: dict[Value, Value]) -> "Graph":
        """Copy everything into an empty graph; `values` maps those of the graphs around it to their copies."""
        values |= {value: copy.add_input(value.name, value.type) for value in self.inputs}
        for constant in self.constants.values():
            values[constant] = copy.add_constant(constant.data, constant.name)
        for node in self.nodes:
            twin = copy.add_node(
                node.operator,
                [None if value is None else values[value] for value in node._inputs],
                [output.type for output in node.outputs],
                {
                    name: attribute._copy_into(Graph(attribute.name, copy), values)
                    if isinstance(attribute, Graph)
                    else attribute
                    for name, attribute in node.attributes.items()
                },
                names=[output.name for output in node.outputs],
                location=node.location,
            )
            twin.conforms = node.conforms
            values.update(zip(node.outputs, twin.outputs, strict=True))
        copy.outputs = {name: values[value] for name, value in self.outputs.items()}
        return copy

    def discard(self) -> None:
        """Give up a graph that is in no node: it stops reading the graphs around it, and its names become free."""
        for node in self.nodes:
            _release(node)
        for part in nested(self):
            self._names.difference_update(value.name for value in part.values())

    # -- links and names

    def _claim(self, name: str) -> str:
        if name in self._names:
            raise ValueError(f"the graph already has a value %{name}")
        self._names.add(name)
        return name

    def _link(self, node: Node, before: Node | None) -> None:
        node._next = before
        node._previous = self._last if before is None else before._previous
        if node._previous is None:
            self._first = node
        else:
            node._previous._next = node
        if before is None:
            self._last = node
        else:
            before._previous = node
        self._number(node)
        self._count += 1

    def _number(self, node: Node) -> None:
        """Give a node a position between its neighbours', as long as floats have one."""
        previous, following = node._previous, node._next
        if previous is None or following is None:
            node._position = previous._position + 1 if previous else following._position - 1 if following else 0.0
            return
        node._position = (previous._position + following._position) / 2
        if not previous._position < node._position < following._position:
            self._is_numbered = False

    def _unlink(self, node: Node) -> None:
        """Take a node out of the list; it keeps its own links, so that an iteration standing on it finds its way on."""
        if node._previous is None:
            self._first = node._next
        else:
            node._previous._next = node._next
        if node._next is None:
            self._last = node._previous
        else:
            node._next._previous = node._previous
        node._alive = False
        self._count -= 1


def nested(graph: Graph) -> Iterator[Graph]:
    """A graph and all graphs inside its nodes, outer ones first."""
    yield graph
    for inner in (inner for node in graph.nodes for inner in node.graphs):
        yield from nested(inner)


def nested_nodes(graph: Graph) -> Iterator[Node]:
    """The nodes of a graph and of all graphs inside them, those of outer graphs first."""
    return (node for part in nested(graph) for node in part.nodes)


def _release(node: Node) -> None:
    """Forget the uses of a node, and of the nodes inside it."""
    for index, value in enumerate(node._inputs):
        if value is not None:
            del value._uses[Use(node, index)]
    for graph in node.graphs:
        for inner in graph.nodes:
            _release(inner)
