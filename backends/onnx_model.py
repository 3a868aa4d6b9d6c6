"""A graph as an ONNX model: what ONNX Runtime reads, and what TVM's importer reads."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType

import numpy as np
import onnx
import onnx_ir
from onnx_ir import AttributeType

from ..ir.errors import ModelError, TargetError
from ..ir.graph import Attribute, Constant, Graph, Location, Node, Value, nested_nodes
from ..ir.opset import MODULE_KEY, SOURCE_KEY
from ..ir.types import Container, DType, TensorType
from ..ir.verify import lowest_opset, schema_of

IR_VERSION = 10
"""The version of the file format: the lowest that is written, so that the most runtimes read it."""

_IR_VERSIONS = {
    DType.float4_e2m1fn: 11,
    DType.float8_e8m0fnu: 12,
    DType.uint2: 13,
    DType.int2: 13,
    DType.float6_e2m3fn: 14,
    DType.float6_e3m2fn: 14,
}
"""The versions of the format that brought element types later."""

_KEYS = {Container.MAPS_OF_NUMBERS: DType.int64, Container.MAPS_OF_TEXTS: DType.string}
_HELD = "planish.type"
"""The key under which an output keeps its type."""


def to_onnx(graph: Graph, metadata: Mapping[str, str] = MappingProxyType({})) -> onnx_ir.Model:
    """Convert a graph to a model, at the lowest opset that expresses it, sharing the memory of its constants.

    Inputs and outputs keep their promised names. A value that is returned under two names, or that is an input of the
    graph, reaches its output through an Identity; a constant that is returned under two names is two initializers.

    Args:
        graph: the graph to convert.
        metadata: the model's metadata, by key.

    Raises:
        TargetError: an operator that ONNX can't express, by name and layer.
        ModelError: an output has the name of an input but is another value.
    """
    body = _Writer(graph).graph(graph, list(graph.outputs))
    body.opset_imports.update({"": lowest_opset(graph), **_versions(graph)})
    return onnx_ir.Model(
        body,
        ir_version=_ir_version(graph),
        producer_name="planish",
        producer_version=version("planish"),
        metadata_props=dict(sorted(metadata.items())),
    )


def _ir_version(graph: Graph) -> int:
    """Return the lowest version of the format that has every element type of a graph."""
    inner = (inner for node in graph.nodes for inner in node.graphs)
    own = (_IR_VERSIONS.get(value.dtype, IR_VERSION) for value in graph.values())
    return max(IR_VERSION, *own, *map(_ir_version, inner))


def to_proto(model: onnx_ir.Model) -> onnx.ModelProto:
    """Convert what `to_onnx` makes to protobuf, where outputs that are maps have their types."""
    proto = onnx_ir.to_proto(model)
    for value, info in zip(model.graph.outputs, proto.graph.output, strict=True):
        type = value.meta[_HELD]
        if type.container in _KEYS:
            element = onnx.helper.make_tensor_type_proto(type.dtype.value, type.dims)
            entries = onnx.helper.make_map_type_proto(_KEYS[type.container].value, element)
            info.type.CopyFrom(onnx.helper.make_sequence_type_proto(entries))
    return proto


class _Names:
    """A pool of names, which are numbered where they are taken."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def claim(self, hint: str) -> str:
        name = hint
        while name in self.taken:
            self._counts[hint] = self._counts.get(hint, 0) + 1
            name = f"{hint}_{self._counts[hint]}"
        self.taken.add(name)
        return name


class _Writer:
    """A writer of a graph and the graphs inside it; each value has one name in all of them."""

    def __init__(self, graph: Graph) -> None:
        self._names = {value: value.name for value in graph.inputs}
        self._supply = _Names()
        self._supply.taken.update(self._names.values(), graph.outputs)
        self._values: dict[Value, onnx_ir.Value] = {}
        self._node_names = _Names()
        for name, value in graph.outputs.items():
            if name in self._names.values() and self._names.get(value) != name:
                raise ModelError(f"output {name!r} has the name of an input but is another value: rename one of them")
            self._names.setdefault(value, name)

    def graph(self, graph: Graph, promised: Sequence[str] = ()) -> onnx_ir.Graph:
        """Convert a graph; where its outputs have promised names, it returns them under these."""
        inputs = [self._define(value) for value in graph.inputs]
        initializers = [
            self._define(constant)
            for constant in graph.constants.values()
            if constant.use_count or graph.is_output(constant)
        ]
        nodes = [self._node(node) for node in graph.nodes]
        names = promised or [self._name(value) for value in graph.outputs.values()]
        outputs: list[onnx_ir.Value] = []
        for name, value in zip(names, graph.outputs.values(), strict=True):
            output = self._values[value]
            if promised and isinstance(value, Constant) and output.name != name:  # few bits have no Identity
                output = self._initializer(value, name)
                initializers.append(output)
            elif output.name != name or output in outputs or (not promised and value.producer is None):
                output = _value(name if promised else self._supply.claim(name), value.type)
                node_name = self._node_names.claim(output.name or "")
                nodes.append(onnx_ir.Node("", "Identity", [self._values[value]], outputs=[output], name=node_name))
            output.type, output.shape = _type(value.type)
            output.meta[_HELD] = value.type
            outputs.append(output)
        return onnx_ir.Graph(inputs, outputs, nodes=nodes, initializers=initializers, name=graph.name)

    def _name(self, value: Value) -> str:
        """Return a value's name in the file: the promised one, or that of the graph if it is free."""
        if value not in self._names:
            self._names[value] = self._supply.claim(value.name)
        return self._names[value]

    def _define(self, value: Value) -> onnx_ir.Value:
        name = self._name(value)
        made = self._initializer(value, name) if isinstance(value, Constant) else _value(name, value.type)
        self._values[value] = made
        return made

    def _initializer(self, constant: Constant, name: str) -> onnx_ir.Value:
        made = _value(name, constant.type)
        made.const_value = _tensor(constant.data, name)
        return made

    def _node(self, node: Node) -> onnx_ir.Node:
        domain, _, operator = node.operator.rpartition("::")
        if domain == "aten":
            raise TargetError(
                f"{node.location}: {node.operator} has no counterpart in ONNX, and no runtime here can run it; "
                "write it in other operators, or compute it outside of the model"
            )
        attributes = [self._attribute(node, name, value) for name, value in sorted(node.attributes.items())]
        outputs = [onnx_ir.Value(name=self._name(output)) for output in node.outputs]
        self._values.update(zip(node.outputs, outputs, strict=True))
        places = ((MODULE_KEY, node.location.module), (SOURCE_KEY, node.location.source))
        return onnx_ir.Node(
            domain,
            operator,
            [None if value is None else self._values[value] for value in node.inputs],
            attributes,
            outputs=outputs,
            name=self._node_names.claim(_node_name(operator, node.location)),
            metadata_props={key: text for key, text in places if text},
        )

    def _attribute(self, node: Node, name: str, value: Attribute) -> onnx_ir.Attr:
        if isinstance(value, Graph):
            return onnx_ir.AttrGraph(name, self.graph(value))
        return _attribute(node, name, value)


def _versions(graph: Graph) -> dict[str, int]:
    """Return the versions of further domains: the newest in which an operator of the graph has changed."""
    versions: dict[str, int] = {}
    for node in (node for node in nested_nodes(graph) if node.domain):
        schema = schema_of(node.operator)
        versions[node.domain] = max(schema.since_version if schema else 1, versions.get(node.domain, 1))
    return dict(sorted(versions.items()))


def _node_name(operator: str, location: Location) -> str:
    """Return a node's name: it says which layer and which operator, since runtimes' errors speak of nodes by name."""
    if not location.module or location.module.endswith(operator):
        return location.module or operator
    return f"{location.module}/{operator}"


def _attribute(node: Node, name: str, value: Attribute) -> onnx_ir.Attr:
    kind = _schema_kind(node.operator, name) or _kind(value)
    if isinstance(value, TensorType):
        return onnx_ir.AttrTypeProto(name, onnx_ir.TypeAndShape(*_type(value)))
    if kind is None:
        raise TargetError(f"{node.location}: attribute {name!r} of {node.operator} can't be written to ONNX")
    if kind is AttributeType.TENSOR:
        return onnx_ir.AttrTensor(name, _tensor(np.asarray(value), name))
    if kind is AttributeType.FLOAT and isinstance(value, int | float):
        return onnx_ir.AttrFloat32(name, float(value))
    return onnx_ir.Attr(name, kind, list(value) if isinstance(value, tuple) else value)


def _schema_kind(operator: str, attribute: str) -> AttributeType | None:
    """Return the type that the schema gives an attribute, as the value doesn't tell for `()` or `alpha=1`."""
    schema = schema_of(operator)
    if schema is None or attribute not in schema.attributes:
        return None
    kind = schema.attributes[attribute].type  # its stub forgets the enum
    return AttributeType(kind.value)  # pyright: ignore[reportAttributeAccessIssue]


def _kind(value: Attribute) -> AttributeType | None:
    match value:
        case int():
            return AttributeType.INT
        case float():
            return AttributeType.FLOAT
        case str():
            return AttributeType.STRING
        case np.ndarray():
            return AttributeType.TENSOR
        case (str(), *_):
            return AttributeType.STRINGS
        case tuple() as row:
            return AttributeType.FLOATS if any(isinstance(item, float) for item in row) else AttributeType.INTS
        case _:
            return None


def _type(type: TensorType) -> tuple[onnx_ir.TypeProtocol | None, onnx_ir.Shape | None]:
    """Return the type as onnx_ir has it: none for maps, which it doesn't know."""
    if type.container in _KEYS:
        return None, None
    held: onnx_ir.TypeProtocol = onnx_ir.TensorType(onnx_ir.DataType(type.dtype.value))
    for word in reversed(type.container.value.split()):
        held = onnx_ir.SequenceType(held) if word == "sequence" else onnx_ir.OptionalType(held)
    return held, None if type.dims is None else onnx_ir.Shape(type.dims)


def _value(name: str, type: TensorType) -> onnx_ir.Value:
    tensor_type, shape = _type(type)
    return onnx_ir.Value(name=name, type=tensor_type, shape=shape)


def _tensor(data: np.ndarray, name: str) -> onnx_ir.TensorProtocol:
    if DType.of(data.dtype) is DType.string:
        return onnx_ir.StringTensor(
            [str(text).encode() for text in data.reshape(-1)], shape=onnx_ir.Shape(data.shape), name=name
        )
    return onnx_ir.Tensor(data, onnx_ir.DataType(DType.of(data.dtype).value), name=name)
