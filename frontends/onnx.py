"""Reads ONNX files: any opset that the standard's converter knows, weights in the file or memory-mapped beside it."""

import re
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from google.protobuf.message import DecodeError
from onnx_ir import AttributeType

from ..ir.applying import applying
from ..ir.builder import Builder
from ..ir.containers import body_inputs, widened_inputs
from ..ir.contents import contents
from ..ir.errors import CheckError, ModelError, printable
from ..ir.files import RefusedFileError, open_regular
from ..ir.finite import check_finite
from ..ir.graph import Attribute, Graph, Location, Value
from ..ir.infer import find_operator, infer
from ..ir.opset import MODULE_KEY, SOURCE_KEY
from ..ir.types import Container, TensorType
from ..ir.unused import drop_unused
from ..ir.verify import verify
from .dim_names import DimNames
from .onnx_check import check_model, graphs_of, nodes_of
from .onnx_convert import normalized, renewed
from .onnx_weights import Weights, dtype_of, take_weights, text_of


def read_onnx(path: str | Path) -> Graph:
    """Read an ONNX file.

    Raises:
        ModelError: the file is missing, truncated or not ONNX, or the model holds what planish doesn't know: the node,
            its operator and the nearest known name are given.
    """
    file = Path(path)
    proto = _parse(file)
    check_model(proto, file)
    weights = take_weights(proto, file)
    metadata = {  # version conversion drops it
        name: {text_of(entry.key): text_of(entry.value) for entry in node.metadata_props}
        for node in nodes_of(proto.graph)
        for name in node.output[:1]
    }
    model = _model(normalized(proto, file), file)
    inputs = [value for value in model.graph.inputs if value.name not in weights.outermost]
    dims = DimNames(dim for value in inputs for dim in _declared(value.shape))
    graph = Graph(model.graph.name or file.stem)
    _Reader(_Context(file, metadata, dims, weights), graph, ChainMap()).read(model.graph, inputs)
    try:
        verify(graph)
        check_finite(graph)
    except (CheckError, ModelError) as error:
        raise ModelError(f"{file}: {error}") from error
    return graph


def _parse(file: Path) -> onnx.ModelProto:
    try:
        with open_regular(file) as opened:
            proto = onnx.load(opened, format="protobuf", load_external_data=False)
    except RefusedFileError as error:
        raise ModelError(f"{file} can't be read: {error}") from error
    except DecodeError as error:
        raise ModelError(f"{file} is not an ONNX file, or is truncated") from error
    if not proto.graph.output or not proto.opset_import:
        raise ModelError(f"{file} is not an ONNX model: it has no outputs or no operator set")
    return proto


def _model(proto: onnx.ModelProto, file: Path) -> onnx_ir.Model:
    """The model with what is read of it alone; types are inferred anew, from those of its inputs."""
    for graph in graphs_of(proto.graph):
        del graph.value_info[:], graph.quantization_annotation[:], graph.metadata_props[:]
        for value in (*graph.output, *([] if graph is proto.graph else graph.input)):
            value.ClearField("type")
    bare = onnx.ModelProto(ir_version=proto.ir_version, graph=proto.graph, opset_import=proto.opset_import)
    try:
        return onnx_ir.serde.deserialize_model(bare)
    except Exception as error:  # it checks little by itself, and stumbles where Python does
        raise ModelError(f"{file} is not an ONNX model: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Context:
    """What all readers of one file share: the file, the metadata of nodes by their first output, symbols, weights."""

    file: Path
    metadata: Mapping[str, Mapping[str, str]]
    dims: DimNames
    weights: Weights


class _Reader:
    """One walk over an ONNX graph, building ours; graphs inside its nodes have readers of their own."""

    def __init__(self, context: _Context, graph: Graph, values: ChainMap[str, Value]) -> None:
        self._context = context
        self._file = context.file
        self._graph = graph
        self._values = values

    def read(self, source: onnx_ir.Graph, inputs: Sequence[onnx_ir.Value]) -> None:
        """Read the graph of a model."""
        for value in inputs:
            name = value.name or "input"
            self._values[name] = self._graph.add_input(name, self._input_type(value))
        for name, data in self._context.weights.outermost.items():
            self._values[name] = self._graph.add_constant(data, name)
        self._read_nodes(source)
        for output in source.outputs:
            self._graph.outputs[output.name or ""] = self._find(output, "the graph's outputs")
        drop_unused(self._graph, self._graph.constants.values())

    def read_inner(self, source: onnx_ir.Graph, types: Sequence[TensorType]) -> None:
        """Read a graph inside a node, which is given inputs of these types."""
        if len(source.inputs) != len(types):
            raise ModelError(f"its graph {source.name!r} takes {len(source.inputs)} inputs, and is given {len(types)}")
        for value, type in zip(source.inputs, types, strict=True):
            name = value.name or "input"
            self._values[name] = self._graph.add_input(self._graph.unique_name(name), type)
        self._read_nodes(source)
        own = set(self._graph.values())
        for index, output in enumerate(source.outputs):
            value = self._find(output, f"the outputs of {source.name!r}")
            value = value if value in own else Builder(self._graph).Identity(value)
            name = output.name or f"output_{index}"
            self._graph.outputs[name if name not in self._graph.outputs else f"{name}_{index}"] = value
        drop_unused(self._graph, self._graph.constants.values())

    def read_branch(self, source: onnx_ir.Graph) -> list[Value]:
        """Read the branch that is known to be taken as a part of the graph around it; returns its outputs."""
        self._read_nodes(source)
        return [self._find(output, f"the outputs of {source.name!r}") for output in source.outputs]

    def _read_nodes(self, source: onnx_ir.Graph) -> None:
        for name, value in source.initializers.items():
            if name not in self._values.maps[0] and value.const_value is not None:
                self._values[name] = self._graph.add_constant(self._context.weights.array(value.const_value), name)
        if not _is_sorted(source):
            try:
                source.sort()
            except ValueError as error:
                raise ModelError(f"{self._file}: the graph has a cycle") from error
        for node in source:
            self._read_node(node)

    def _input_type(self, value: onnx_ir.Value) -> TensorType:
        where = f"{self._file}: input {value.name!r}"
        if value.type is None:
            raise ModelError(f"{where} has no type")
        return self._type(value.type, value.shape, value.name or "input", where)

    def _type(self, type: onnx_ir.TypeProtocol, shape: onnx_ir.Shape | None, name: str, where: str) -> TensorType:
        words: list[str] = []
        while isinstance(type, onnx_ir.SequenceType | onnx_ir.OptionalType):
            words.append("sequence" if isinstance(type, onnx_ir.SequenceType) else "optional")
            type = type.elem_type
        if not isinstance(type, onnx_ir.TensorType) or " ".join(words) not in {kind.value for kind in Container}:
            raise ModelError(f"{where} has type {type}, which is beyond tensors, sequences and optionals of them")
        dims = None
        if shape is not None:
            declared = enumerate(_declared(shape))
            dims = tuple(self._context.dims.dim(dim, f"{name}_{axis}") for axis, dim in declared)
        return TensorType(dtype_of(type.dtype.value, where), dims, Container(" ".join(words)))

    def _read_node(self, node: onnx_ir.Node) -> None:
        location = self._location(node)
        if node.op_type == "Constant" and node.domain == "":
            self._read_constant(node)
            return
        operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        outputs = list(node.outputs)
        while outputs and not outputs[-1].name:
            outputs.pop()
        try:
            find_operator(operator)
            inputs = [value and self._find(value, f"node {location}") for value in node.inputs]
            while inputs and inputs[-1] is None:
                inputs.pop()
            taken = self._taken_branch(node, inputs)
            if taken is not None:
                self._values.update(zip((output.name or "" for output in outputs), taken, strict=False))
                return
            attributes = renewed(operator, inputs, self._attributes(node, operator, inputs))
            types = infer(operator, inputs, attributes, len(outputs))
            if not len(outputs) <= len(types) <= len(node.outputs):
                raise ModelError(f"it has {len(node.outputs)} outputs, and {len(types)} results")
        except ModelError as error:
            raise self._refusal(node, str(error).removeprefix(f"{self._file}: ")) from error
        names = [output.name or node.op_type.lower() for output in outputs]
        made = self._graph.add_node(operator, inputs, types[: len(names)], attributes, names=names, location=location)
        self._values.update(zip(names, made.outputs, strict=True))

    def _taken_branch(self, node: onnx_ir.Node, inputs: Sequence[Value | None]) -> list[Value] | None:
        """The outputs of an If whose condition is known already, read as a part of this graph; None for others."""
        if node.op_type != "If" or node.domain or inputs[0] is None:
            return None
        condition = contents(inputs[0])
        if condition is None or not isinstance(condition[0], int | bool):
            return None
        branch = node.attributes["then_branch" if condition[0] else "else_branch"].as_graph()
        return _Reader(self._context, self._graph, self._values.new_child()).read_branch(branch)

    def _attributes(self, node: onnx_ir.Node, operator: str, inputs: Sequence[Value | None]) -> dict[str, Attribute]:
        graphs = {name: value for name, value in node.attributes.items() if value.type is AttributeType.GRAPH}
        attributes = {
            name: self._attribute(node, attribute) for name, attribute in node.attributes.items() if name not in graphs
        }
        if not graphs:
            return attributes
        with applying(operator, inputs):
            types = body_inputs(operator, inputs, attributes)
        for name, attribute in graphs.items():
            with applying(operator, inputs):
                attributes[name] = self._read_graph(attribute.as_graph(), operator, types, attributes)
        return attributes

    def _read_graph(
        self, source: onnx_ir.Graph, operator: str, types: Sequence[TensorType], attributes: Mapping[str, Attribute]
    ) -> Graph:
        """A graph inside a node, read until what it is given has a type that holds in every step of a loop."""
        names = [value.name or "input" for value in source.inputs]
        while True:
            graph = Graph(source.name or "body", self._graph)
            _Reader(self._context, graph, self._values.new_child()).read_inner(source, types)
            wider = widened_inputs(operator, graph, attributes, names)
            if wider == types:
                return graph
            graph.discard()
            types = wider

    def _read_constant(self, node: onnx_ir.Node) -> None:
        name = node.outputs[0].name or "constant"
        if len(node.attributes) != 1:
            raise self._refusal(node, f"it has {len(node.attributes)} values")
        (attribute,) = node.attributes.values()
        value = self._attribute(node, attribute)
        if isinstance(value, str) or not isinstance(value, int | float | tuple | np.ndarray):
            raise self._refusal(node, f"its {attribute.name} is not a tensor of numbers")
        floats = attribute.type in (AttributeType.FLOAT, AttributeType.FLOATS)
        array = value if isinstance(value, np.ndarray) else np.asarray(value, np.float32 if floats else np.int64)
        self._values[name] = self._graph.add_constant(array, name)

    def _find(self, value: onnx_ir.Value, reader: str) -> Value:
        name = value.name or ""
        if name not in self._values:
            raise ModelError(f"{self._file}: {name!r} is read by {reader}, but nothing defines it")
        return self._values[name]

    def _attribute(self, node: onnx_ir.Node, attribute: onnx_ir.Attr) -> Attribute:
        match attribute.type:
            case AttributeType.INT | AttributeType.FLOAT | AttributeType.STRING:
                return attribute.value
            case AttributeType.INTS | AttributeType.FLOATS | AttributeType.STRINGS:
                return tuple(attribute.value)
            case AttributeType.TENSOR:
                return self._context.weights.array(attribute.as_tensor())
            case AttributeType.TYPE_PROTO:
                type = attribute.value
                return self._type(type.type, type.shape, attribute.name, f"attribute {attribute.name!r}")
            case kind:
                raise self._refusal(node, f"attribute {attribute.name!r} is a {kind.name.lower()}")

    def _location(self, node: onnx_ir.Node) -> Location:
        """The layer: as planish or torch's exporter noted it, or the node's name, or that of its first output."""
        first = node.outputs[0].name or ""
        noted = self._context.metadata.get(first, {})
        if MODULE_KEY in noted or SOURCE_KEY in noted:
            return Location(printable(noted.get(MODULE_KEY, "")), printable(noted.get(SOURCE_KEY, "")))
        scopes = re.findall(r"'([^']*)'", noted.get("pkg.torch.onnx.name_scopes", ""))
        return Location(printable(scopes[-2]) if len(scopes) > 1 and scopes[-2] else node.name or first)

    def _refusal(self, node: onnx_ir.Node, reason: str) -> ModelError:
        return ModelError(f"{self._file}: node {(node.name or node.outputs[0].name)!r} ({node.op_type}): {reason}")


def _is_sorted(graph: onnx_ir.Graph) -> bool:
    """Whether every value is computed before it is read, also inside nodes, as the standard asks; some files differ."""
    later = {output for node in graph for output in node.outputs}
    for node in graph:
        inner = (value for attribute in node.attributes.values() for value in _read_in(attribute))
        if not later.isdisjoint((*node.inputs, *inner)):
            return False
        later.difference_update(node.outputs)
    return True


def _read_in(attribute: onnx_ir.Attr) -> Iterator[onnx_ir.Value | None]:
    if attribute.type is AttributeType.GRAPH:
        graph = attribute.as_graph()
        yield from graph.outputs
        for node in graph:
            yield from node.inputs
            yield from (value for inner in node.attributes.values() for value in _read_in(inner))


def _declared(shape: onnx_ir.Shape | None) -> list[int | str | None]:
    """The dimensions as the file states them."""
    return [dim if isinstance(dim, int) else dim.value for dim in shape or ()]
