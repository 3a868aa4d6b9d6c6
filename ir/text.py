"""Graphs as text that parses back to an equal graph.

    graph "main"(%x: float32[batch, 3, 32, 32]) {
      const %conv1.weight: float32[16, 3, 3, 3]
      const %shape: int64[2] = [0, -1]
      %conv: float32[batch, 16, 30, 30] = Conv(%x, %conv1.weight, none) {strides = [1, 1]} @ "features.0" "model.py:12"
      %flat: float32[batch, 14400] = Reshape(%conv, %shape)
      return logits = %flat
    }

A constant of more than 16 elements has no `=`: its data lies beside the text, under its name. Names with unusual
characters are JSON strings, as in `%"a name"`; so are operators, attributes and outputs that need it. `//` starts a
comment. A graph inside a node (a branch, a loop's body) is an attribute like any other, and may read the values around
it. A tensor whose rank isn't known is `float32[...]`; `sequence(float32[n])` and `optional(float32[n])` hold tensors.
"""

import json
import re
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import TypeAlias, cast

import numpy as np

from .elements import format_elements
from .graph import Attribute, Constant, Graph, Location, Node, Value
from .suggestion import did_you_mean
from .tokens import Token, Tokens, format_name, format_word
from .types import DType, TensorType

IN_LINE = 16
"""The most elements that a constant's line shows."""

Fetch: TypeAlias = Callable[[str, TensorType], np.ndarray]


# -- printing


def print_graph(graph: Graph) -> str:
    """The text of a graph, without the data of large constants (see `weights`)."""
    return _format_graph(graph, "") + "\n"


def weights(graph: Graph, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays that the text leaves out, under the names that `parse_graph` looks for."""
    found = {prefix + constant.name: constant.data for constant in graph.constants.values() if not _in_line(constant)}
    for node in graph.nodes:
        for name, attribute in node.attributes.items():
            if isinstance(attribute, Graph):
                found |= weights(attribute, _inside(prefix, node.outputs[0].name, name))
    return found


def format_node(node: Node, indent: str = "") -> str:
    """The line of a node."""
    inputs = ", ".join("none" if value is None else format_name(value.name) for value in node.inputs)
    line = f"{', '.join(map(_format_value, node.outputs))} = {format_word(node.operator)}({inputs})"
    if node.attributes:
        pairs = [
            f"{format_word(name)} = {format_attribute(value, indent)}"
            for name, value in sorted(node.attributes.items())
        ]
        line += f" {{{', '.join(pairs)}}}"
    if node.location != Location():
        line += f" @ {json.dumps(node.location.module)}"
    if node.location.source:
        line += f" {json.dumps(node.location.source)}"
    return line


def format_constant(constant: Constant) -> str:
    """The line of a constant."""
    line = f"const {_format_value(constant)}"
    return f"{line} = {_format_elements(constant.data)}" if _in_line(constant) else line


def format_attribute(attribute: Attribute, indent: str = "") -> str:
    """An attribute's value: ints and floats look different, a tensor shows all its elements."""
    match attribute:
        case str():
            return json.dumps(attribute)
        case int():
            return str(int(attribute))
        case float():
            return repr(float(attribute))
        case tuple():
            return f"[{', '.join(map(format_attribute, attribute))}]"
        case np.ndarray():
            return f"{TensorType.of(attribute)} {_format_elements(attribute)}"
        case TensorType():
            return str(attribute)
        case Graph():
            return _format_graph(attribute, indent)
        case _:
            raise TypeError(f"{attribute!r} is no attribute of a node")


def _format_graph(graph: Graph, indent: str) -> str:
    inner = indent + "  "
    returned = ", ".join(f"{format_word(name)} = {format_name(value.name)}" for name, value in graph.outputs.items())
    lines = [
        f"graph {json.dumps(graph.name)}({', '.join(map(_format_value, graph.inputs))}) {{",
        *(inner + format_constant(constant) for constant in graph.constants.values()),
        *(inner + format_node(node, inner) for node in graph.nodes),
        f"{inner}return {returned}".rstrip(),
        indent + "}",
    ]
    return "\n".join(lines)


def _format_value(value: Value) -> str:
    return f"{format_name(value.name)}: {value.type}"


def _format_elements(array: np.ndarray) -> str:
    elements = format_elements(array)
    return elements[0] if array.ndim == 0 and len(elements) == 1 else f"[{', '.join(elements)}]"


def _in_line(constant: Constant) -> bool:
    return constant.dtype is DType.string or constant.data.size <= IN_LINE


def _inside(prefix: str, output: str, attribute: str) -> str:
    """What the names of weights inside a node's graph begin with."""
    return f"{prefix}{output}>{attribute}>"


# -- parsing


def parse_graph(text: str, weights: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph that a text describes.

    Args:
        text: the text, as `print_graph` writes it.
        weights: the data of constants that have none in the text.

    Raises:
        ParseError: a syntax error, an unknown value, a weight that is missing or of another type.
    """
    held = weights or {}
    return read_graph(text, lambda name, type: held[name])


def read_graph(text: str, fetch: Fetch) -> Graph:
    """Parse a graph as `parse_graph` does; `fetch` gives a constant's data by name and type, or raises KeyError."""
    tokens = Tokens(text)
    graph = _Parser(tokens, fetch).parse()
    tokens.take("end")
    return graph


class _Parser:
    """Reads one graph; graphs inside its nodes have parsers of their own, which know the values around them."""

    def __init__(self, tokens: Tokens, fetch: Fetch, prefix: str = "", around: "_Parser | None" = None) -> None:
        self._tokens = tokens
        self._fetch = fetch
        self._prefix = prefix
        self._graph = Graph(outer=None if around is None else around._graph)
        self._values: ChainMap[str, Value] = ChainMap() if around is None else around._values.new_child()
        self._declared: set[str] = set() if around is None else around._declared

    def parse(self) -> Graph:
        tokens = self._tokens
        tokens.expect("graph")
        self._graph.name = tokens.string()
        tokens.expect("(")
        for name, type in tokens.sequence(")", self._declaration):
            self._values[name] = self._graph.add_input(name, type)
        tokens.expect("{")
        while not tokens.accept("return"):
            self._statement()
        while not tokens.accept("}"):
            self._output()
        return self._graph

    def _declaration(self) -> tuple[str, TensorType]:
        """A new value's name and type."""
        token, name = self._tokens.name()
        if name in self._declared:
            self._tokens.fail(f"{token.text} is defined twice", token.offset)
        self._declared.add(name)
        self._tokens.expect(":")
        return name, self._tokens.type()

    def _statement(self) -> None:
        if self._tokens.accept("const"):
            self._constant()
        else:
            self._node()

    def _constant(self) -> None:
        token = self._tokens.next
        name, type = self._declaration()
        data = self._tokens.tensor(type) if self._tokens.accept("=") else self._weight(token, name, type)
        self._values[name] = self._graph.add_constant(data, name)

    def _weight(self, token: Token, name: str, type: TensorType) -> np.ndarray:
        try:
            data = self._tokens.convert(token, lambda: self._fetch(self._prefix + name, type))
        except KeyError:
            self._tokens.fail(f"there is no data for {token.text}", token.offset)
        if TensorType.of(data) != type:
            self._tokens.fail(f"the data for {token.text} is {TensorType.of(data)}, not {type}", token.offset)
        return data

    def _node(self) -> None:
        tokens = self._tokens
        outputs = [self._declaration()]
        while tokens.accept(","):
            outputs.append(self._declaration())
        tokens.expect("=")
        operator = tokens.word()
        tokens.expect("(")
        inputs = tokens.sequence(")", self._input)
        attributes: dict[str, Attribute] = {}
        if tokens.accept("{"):
            attributes.update(tokens.sequence("}", lambda: self._attribute(outputs[0][0])))
        location = Location()
        if tokens.accept("@"):
            location = Location(tokens.string(), tokens.string() if tokens.next.kind == "string" else "")
        names, types = zip(*outputs, strict=True)
        node = self._graph.add_node(operator, inputs, types, attributes, names=names, location=location)
        self._values.update(zip(names, node.outputs, strict=True))

    def _input(self) -> Value | None:
        return None if self._tokens.accept("none") else self._known()

    def _known(self) -> Value:
        token, name = self._tokens.name()
        if name not in self._values:
            hint = did_you_mean(name, self._values, spell=format_name)
            self._tokens.fail(f"no value {token.text} is defined before this{hint}", token.offset)
        return self._values[name]

    def _attribute(self, output: str) -> tuple[str, Attribute]:
        name = self._tokens.word()
        self._tokens.expect("=")
        return name, self._attribute_value(_inside(self._prefix, output, name))

    def _attribute_value(self, prefix: str) -> Attribute:
        tokens = self._tokens
        if tokens.next.text == "graph":
            return _Parser(tokens, self._fetch, prefix, self).parse()
        if tokens.next.kind == "type":
            type = tokens.type()
            return type if tokens.next.text in (",", "}") else tokens.tensor(type)
        if tokens.accept("["):
            return self._tuple()
        return self._scalar()

    def _tuple(self) -> Attribute:
        start = self._tokens.next
        items = self._tokens.sequence("]", self._scalar)
        if len(set(map(type, items))) > 1:
            self._tokens.fail("a list holds ints, floats or strings, not a mixture", start.offset)
        return cast("Attribute", tuple(items))

    def _scalar(self) -> int | float | str:
        tokens = self._tokens
        if tokens.next.kind == "string":
            return tokens.string()
        token = tokens.take("word" if tokens.next.text in ("inf", "nan") else "number")
        whole = re.fullmatch(r"[-+]?\d+", token.text)
        return tokens.convert(token, lambda: int(token.text) if whole else float(token.text))

    def _output(self) -> None:
        if self._graph.outputs:
            self._tokens.expect(",")
        token = self._tokens.next
        name = self._tokens.word()
        if name in self._graph.outputs:
            self._tokens.fail(f"{token.text} is returned twice", token.offset)
        self._tokens.expect("=")
        token, returned = self._tokens.next, self._known()
        if returned.name not in self._values.maps[0]:
            self._tokens.fail(
                f"{token.text} belongs to a graph around this one; return it through an Identity", token.offset
            )
        self._graph.outputs[name] = returned
