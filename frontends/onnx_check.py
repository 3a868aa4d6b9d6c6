"""Checks before anything else looks at an ONNX file: names, attributes and operands must fit the operators' schemas.

Libraries that read the file afterwards take this for granted, and crash where it isn't so.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, TypeVar, cast

import onnx
from onnx import AttributeProto
from onnx.defs import OpSchema

from ..ir.errors import ModelError
from ..ir.infer import find_operator
from ..ir.opset import OPSET
from .onnx_weights import dtype_of

MOST_NODES = 100_000
"""The most nodes that a model's functions may become when they are put in place of their calls."""

DEEPEST, DEEPEST_LOOPS = 24, 6
"""The most graphs, and the most bodies of loops among them, that may lie inside one another."""

LONGEST_NAME = 4096
"""Characters of a name: names are part of messages, of other names, and of files' text."""

_FIELDS = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.TYPE_PROTO: "tp",
}
_LOOPS = ("Loop", "Scan", "SequenceMap")

Name = TypeVar("Name", bound=Hashable)


def check_model(proto: onnx.ModelProto, file: Path) -> None:
    """Hold a model to what every ONNX model is.

    Raises:
        ModelError: what is wrong, and where.
    """
    try:
        _Check(proto).model()
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs_of(attribute.g)


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of those inside them."""
    for part in graphs_of(graph):
        yield from part.node


def called(node: onnx.NodeProto) -> str:
    """What messages call a node."""
    name = node.name or next(filter(None, node.output), "")
    return f"node {name!r} ({node.op_type})" if name else f"a node without a name ({node.op_type})"


def version_of(proto: onnx.ModelProto) -> int:
    """The version of the standard's operators that a model is written in."""
    return next((entry.version for entry in proto.opset_import if not _domain(entry.domain)), OPSET)


class _Check:
    """The walk over one model."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._proto = proto
        self._versions: dict[str, int] = {}
        self._own = {(function.domain, function.name, function.overload) for function in proto.functions}

    def model(self) -> None:
        proto = self._proto
        for entry in proto.opset_import:
            domain = _domain(entry.domain)
            whose = f"it names the operators of {domain or 'the standard'} in"
            if not 0 < entry.version < 1 << 31:
                raise ModelError(f"{whose} version {entry.version}")
            if self._versions.get(domain, entry.version) != entry.version:  # some converters write the same twice
                raise ModelError(f"{whose} two versions, {self._versions[domain]} and {entry.version}")
            self._versions[domain] = entry.version
        self._functions()
        self._graph(proto.graph, "the graph", is_function=False, depth=0, loops=0)

    def _functions(self) -> None:
        keys = [(function.domain, function.name, function.overload) for function in self._proto.functions]
        if twice := _repeated(keys):
            raise ModelError(f"it defines the function {twice[0][1]!r} twice")
        for function in self._proto.functions:
            where = f"function {function.name!r}"
            _check_names([*function.input, *function.output, function.name, function.domain], where)
            own = _defined_once(function.input, [], where)
            self._nodes(function.node, own, where, is_function=True, depth=0, loops=0)
        self._expanded(dict(zip(keys, self._proto.functions, strict=True)))

    def _expanded(self, functions: Mapping[tuple[str, str, str], onnx.FunctionProto]) -> None:
        """Refuse functions that call themselves, or become too many nodes in place of their calls."""
        calls = {
            key: [_key(node) for node in _nodes_in(function.node) if _key(node) in functions]
            for key, function in functions.items()
        }
        try:
            order = list(TopologicalSorter(calls).static_order())
        except CycleError as error:
            raise ModelError(f"the function {error.args[1][0][1]!r} calls itself") from error
        sizes: dict[tuple[str, str, str], int] = {}
        for key in order:
            sizes[key] = sum(sizes.get(_key(node), 1) for node in _nodes_in(functions[key].node))
        size = sum(sizes.get(_key(node), 0) for node in nodes_of(self._proto.graph))
        if size > MOST_NODES:
            raise ModelError(f"its functions would become {size:,} nodes, more than {MOST_NODES:,}")

    def _graph(self, graph: onnx.GraphProto, where: str, *, is_function: bool, depth: int, loops: int) -> None:
        if depth > DEEPEST or loops > DEEPEST_LOOPS:
            raise ModelError(
                f"{where} lies inside {depth} others, {loops} of them bodies of loops; "
                f"{DEEPEST} and {DEEPEST_LOOPS} are the most"
            )
        if graph.sparse_initializer:
            raise ModelError(
                f"{where} has the sparse weight {graph.sparse_initializer[0].values.name!r}; give it as a dense one"
            )
        inputs, weights = [value.name for value in graph.input], [tensor.name for tensor in graph.initializer]
        _check_names([*inputs, *weights, *(value.name for value in graph.output), graph.name], where)
        if not all((*inputs, *weights, *(value.name for value in graph.output))):
            raise ModelError(f"{where} has an input, an output or a weight without a name")
        own = _defined_once(inputs, weights, where)
        if depth == 0:
            for value in graph.input:
                _check_type(value.type, f"input {value.name!r}")
        self._nodes(graph.node, own, where, is_function=is_function, depth=depth, loops=loops)
        if depth == 0 and (twice := _repeated(value.name for value in graph.output)):
            raise ModelError(f"{where} returns {twice[0]!r} twice")

    def _nodes(
        self, nodes: Iterable[onnx.NodeProto], own: set[str], where: str, *, is_function: bool, depth: int, loops: int
    ) -> None:
        for node in nodes:
            try:
                self._node(node, is_function=is_function)
            except ModelError as error:
                raise ModelError(f"{called(node)}: {error}") from error
            for name in filter(None, node.output):
                if name in own:
                    raise ModelError(f"{called(node)}: {where} defines {name!r} twice")
                own.add(name)
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    inner = f"{attribute.name!r} of {called(node)}"
                    deeper = loops + (node.op_type in _LOOPS)
                    self._graph(attribute.g, inner, is_function=is_function, depth=depth + 1, loops=deeper)

    def _node(self, node: onnx.NodeProto, *, is_function: bool) -> None:
        texts = [*node.input, *node.output, node.op_type, node.domain, node.name, node.overload]
        _check_names([*texts, *(attribute.name for attribute in node.attribute)], "it")
        if not node.op_type:
            raise ModelError("it has no operator")
        if not any(node.output):
            raise ModelError("it has no outputs")
        if twice := _repeated(attribute.name for attribute in node.attribute):
            raise ModelError(f"it has the attribute {twice[0]!r} twice")
        for attribute in node.attribute:
            _check_attribute(attribute, is_function=is_function)
        domain = _domain(node.domain)
        if domain == "" and _key(node) not in self._own and not onnx.defs.has(node.op_type):
            find_operator(node.op_type)  # which suggests the nearest
        schema = _schema(node.op_type, self._versions.get(domain, OPSET if domain == "" else 1), domain)
        if schema is not None and _key(node) not in self._own:
            _check_schema(node, schema)


def _key(node: onnx.NodeProto) -> tuple[str, str, str]:
    """What a node calls, if that is a function of the model."""
    return node.domain, node.op_type, node.overload


def _nodes_in(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes with those inside them."""
    return nodes_of(onnx.GraphProto(node=nodes))


def _domain(name: str) -> str:
    """The name of a domain, empty for the standard's own also where a file spells it out."""
    return "" if name == "ai.onnx" else name


def _repeated(names: Iterable[Name]) -> list[Name]:
    """The names that occur more than once, in the order of their first occurrences."""
    return [name for name, count in Counter(names).items() if count > 1]


def _check_names(names: Iterable[str], where: str) -> None:
    """Refuse names that are no text, too long, or can't be printed."""
    for name in names:
        if not isinstance(name, str):  # what protobuf makes of bytes that are no text
            raise ModelError(f"{where} has the name {name[:40]!r}, which is not UTF-8")
        if len(name) > LONGEST_NAME:
            raise ModelError(
                f"{where} has a name of {len(name):,} characters, {name[:40]!r}...; {LONGEST_NAME} are the most"
            )
        if not name.isprintable():
            raise ModelError(f"{where} has the name {name[:40]!r}, with characters that can't be printed")


def _defined_once(inputs: Sequence[str], weights: Sequence[str], where: str) -> set[str]:
    """The names of inputs and weights; a weight may be the usual value of an input."""
    for names, what in ((inputs, "input"), (weights, "weight")):
        if twice := _repeated(names):
            raise ModelError(f"{where} has the {what} {twice[0]!r} twice")
    return {*inputs, *weights}


def _check_type(type: onnx.TypeProto, where: str) -> None:
    """Refuse what is no tensor, sequence or optional, and elements that nobody knows."""
    kind = type.WhichOneof("value")
    while kind in ("sequence_type", "optional_type"):
        type = getattr(type, kind).elem_type
        kind = type.WhichOneof("value")
    if kind is None:
        raise ModelError(f"{where} has no type")
    if kind != "tensor_type":
        raise ModelError(
            f"{where} is a {kind.removesuffix('_type')}, and planish knows tensors, sequences and optionals"
        )
    dtype_of(type.tensor_type.elem_type, where)


def _check_attribute(attribute: onnx.AttributeProto, *, is_function: bool) -> None:
    """Hold an attribute to its own type."""
    if attribute.ref_attr_name:
        if not is_function:
            raise ModelError(f"attribute {attribute.name!r} is that of a function, but the node is in none")
        return
    kinds = AttributeProto.AttributeType
    if attribute.type not in kinds.values() or attribute.type == AttributeProto.UNDEFINED:
        raise ModelError(f"attribute {attribute.name!r} has no type")
    field = _FIELDS.get(attribute.type)
    held = [name for name in _FIELDS.values() if attribute.HasField(name)]
    if any(name != field for name in held):
        raise ModelError(
            f"attribute {attribute.name!r} holds something other than a {kinds.Name(attribute.type).lower()}"
        )
    if not held and attribute.type in (AttributeProto.TENSOR, AttributeProto.GRAPH, AttributeProto.TYPE_PROTO):
        raise ModelError(f"attribute {attribute.name!r} holds nothing")
    for text in [attribute.s] if attribute.type == AttributeProto.STRING else attribute.strings:
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise ModelError(f"attribute {attribute.name!r} holds {text[:40]!r}, which is not UTF-8") from error


@cache
def _schema(operator: str, version: int, domain: str) -> OpSchema | None:
    try:
        return onnx.defs.get_schema(operator, version, domain)
    except onnx.defs.SchemaError:  # another domain's, or one of a later version, as some exporters write it
        return None


def _check_schema(node: onnx.NodeProto, schema: OpSchema) -> None:
    """Hold a node to its operator's schema."""
    given = {attribute.name: attribute for attribute in node.attribute}
    spelt = lambda code: AttributeProto.AttributeType.Name(code).lower()  # noqa: E731 -- three times below
    for name, wanted in schema.attributes.items():
        kind: int = cast("Any", wanted.type).value
        if name not in given:
            if wanted.required and name != "consumed_inputs":  # which meant nothing to anybody
                raise ModelError(f"attribute {name!r}, a {spelt(kind)}, is missing")
        elif given[name].type != kind:
            raise ModelError(f"attribute {name!r} must be a {spelt(kind)}, not a {spelt(given[name].type)}")
    for what, names, least, most in (
        ("input", node.input, schema.min_input, schema.max_input),
        ("output", node.output, schema.min_output, schema.max_output),
    ):
        count = len(names)
        while count and not names[count - 1]:
            count -= 1
        if not least <= count <= most:
            raise ModelError(f"it has {count} {what}s, and should have {least if count < least else most}")
    for parameter, name in zip(schema.inputs, node.input, strict=False):
        if not name and parameter.option == OpSchema.FormalParameterOption.Single:
            raise ModelError(f"its input {parameter.name!r} is missing")
