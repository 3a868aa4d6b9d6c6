"""Reads ONNX files: any opset that the standard's converter knows, weights in the file or memory-mapped beside it."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from google.protobuf.message import DecodeError
from onnx import inliner, version_converter
from onnx_ir import AttributeType

from ..ir.errors import ModelError
from ..ir.finite import check_finite
from ..ir.graph import Attribute, Graph, Location, Value
from ..ir.infer import find_operator, infer
from ..ir.opset import LOWEST_OPSET, MODULE_KEY, OPSET, SOURCE_KEY
from ..ir.types import DType, TensorType
from .dim_names import DimNames

_SMALL_BYTES = 1024  # constants up to this size may steer a version conversion: axes, shapes, scales of a resize


def read_onnx(path: str | Path) -> Graph:
    """Read an ONNX file.

    Raises:
        ModelError: the file is missing, truncated or not ONNX, or the model holds what planish doesn't know: the node,
            its operator and the nearest known name are given.
    """
    file = Path(path)
    proto = _parse(file)
    weights = _take_weights(proto, file)
    metadata = {  # version conversion drops it
        name: {entry.key: entry.value for entry in node.metadata_props}
        for node in proto.graph.node
        for name in node.output[:1]
    }
    _check_operators(proto, file)
    model = onnx_ir.serde.deserialize_model(_normalized(proto, file))
    graph = _Reader(file, model.graph, weights, metadata).read()
    check_finite(graph)
    return graph


def _parse(file: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load(file, format="protobuf", load_external_data=False)
    except OSError as error:
        raise ModelError(f"{file} can't be read: {error.strerror}") from error
    except DecodeError as error:
        raise ModelError(f"{file} is not an ONNX file, or is truncated") from error
    if not proto.graph.output or not any(entry.domain in ("", "ai.onnx") for entry in proto.opset_import):
        raise ModelError(f"{file} is not an ONNX model: it has no outputs or no operator set")
    return proto


def _check_operators(proto: onnx.ModelProto, file: Path) -> None:
    """Refuse operators that are in no version of the standard: the converter would, without a word of help."""
    for node in proto.graph.node:
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type):
            try:
                find_operator(node.op_type)
            except ModelError as error:
                raise ModelError(f"{file}: node {node.name or node.output[0]!r} ({node.op_type}): {error}") from error


def _normalized(proto: onnx.ModelProto, file: Path) -> onnx.ModelProto:
    """The model without functions of its own, at an opset whose nodes mean the same at the pinned one.

    From `LOWEST_OPSET` on, operators only gained types and attributes.
    """
    version = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if version > OPSET:
        raise ModelError(
            f"{file}: it is of opset {version}, and planish knows operators up to {OPSET}: export it at that"
        )
    try:
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
        return proto if version >= LOWEST_OPSET else version_converter.convert_version(proto, LOWEST_OPSET)
    except Exception as error:  # both are C++ and raise whatever pybind makes of it
        reason = " ".join(str(error).split())
        raise ModelError(f"{file}: it can't be converted from opset {version} to {LOWEST_OPSET}: {reason}") from error


def _take_weights(proto: onnx.ModelProto, file: Path) -> dict[str, np.ndarray]:
    """Move the large initializers out, leaving inputs of their types, so that conversions copy no weights."""
    store = _ExternalData(file)
    weights: dict[str, np.ndarray] = {}
    kept: list[onnx.TensorProto] = []
    inputs = {value.name for value in proto.graph.input}
    for tensor in proto.graph.initializer:
        array = store.array(tensor)
        weights[tensor.name] = array
        if array.nbytes <= _SMALL_BYTES:
            kept.append(onnx.numpy_helper.from_array(array, tensor.name))
        elif tensor.name not in inputs:
            proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return weights


class _ExternalData:
    """The arrays of initializers; those in files beside the model are memory-mapped, each file once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._maps: dict[str, np.memmap] = {}

    def array(self, tensor: onnx.TensorProto) -> np.ndarray:
        dtype = _dtype(tensor.data_type, f"{self._file}: weight {tensor.name!r}")
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return self._decoded(tensor)
        raw = self._bytes(tensor, dtype)
        if dtype.bits < 8:
            packed = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            packed.raw_data = raw.tobytes()
            return self._decoded(packed)
        return np.frombuffer(raw, dtype.numpy).reshape(tensor.dims)

    def _decoded(self, tensor: onnx.TensorProto) -> np.ndarray:
        try:
            return onnx_ir.serde.deserialize_tensor(tensor).numpy()
        except (ValueError, TypeError) as error:
            raise ModelError(f"{self._file}: weight {tensor.name!r} is damaged: {error}") from error

    def _bytes(self, tensor: onnx.TensorProto, dtype: DType) -> np.ndarray:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if not location or Path(location).is_absolute() or ".." in Path(location).parts:
            raise ModelError(f"{self._file}: weight {tensor.name!r} lies outside the model's folder: {location!r}")
        path = self._file.parent / location
        if location not in self._maps:
            try:
                self._maps[location] = np.memmap(path, np.uint8, mode="r")
            except (OSError, ValueError) as error:
                raise ModelError(f"{self._file}: its weights in {path} can't be read: {error}") from error
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", (int(np.prod(tensor.dims)) * dtype.bits + 7) // 8))
        raw = self._maps[location][offset : offset + length]
        if len(raw) != length:
            raise ModelError(f"{self._file}: weight {tensor.name!r} ends beyond {path}, which is truncated")
        return raw


class _Reader:
    """One walk over an ONNX graph, building ours."""

    def __init__(
        self,
        file: Path,
        source: onnx_ir.Graph,
        weights: Mapping[str, np.ndarray],
        metadata: Mapping[str, Mapping[str, str]],
    ) -> None:
        self._file = file
        self._source = source
        self._weights = weights
        self._metadata = metadata
        self._graph = Graph(source.name or file.stem)
        self._values: dict[str, Value] = {}
        self._inputs = [value for value in source.inputs if value.name not in weights]
        self._dims = DimNames(dim for value in self._inputs for dim in _declared(value))

    def read(self) -> Graph:
        for value in self._inputs:
            name = value.name or "input"
            self._values[name] = self._graph.add_input(name, self._input_type(value))
        for name, data in self._weights.items():
            self._values[name] = self._graph.add_constant(data, name)
        self._add_new_constants()
        try:
            self._source.sort()
        except ValueError as error:
            raise ModelError(f"{self._file}: the graph has a cycle") from error
        for node in self._source:
            self._read_node(node)
        for output in self._source.outputs:
            self._graph.outputs[output.name or ""] = self._find(output, "the graph's outputs")
        for constant in list(self._graph.constants.values()):
            if not constant.uses and not self._graph.is_output(constant):
                self._graph.erase_constant(constant)
        return self._graph

    def _add_new_constants(self) -> None:
        """Those that the version conversion made."""
        for name, value in self._source.initializers.items():
            if name not in self._values and value.const_value is not None:
                self._values[name] = self._graph.add_constant(value.const_value.numpy(), name)

    def _input_type(self, value: onnx_ir.Value) -> TensorType:
        where = f"{self._file}: input {value.name!r}"
        if value.shape is None or value.dtype is None:
            raise ModelError(f"{where} has no tensor type with a known rank")
        shape = tuple(self._dims.dim(dim, f"{value.name}_{axis}") for axis, dim in enumerate(_declared(value)))
        return TensorType(_dtype(value.dtype.value, where), shape)

    def _read_node(self, node: onnx_ir.Node) -> None:
        location = self._location(node)
        if node.op_type == "Constant" and node.domain == "":
            self._read_constant(node, location)
            return
        operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        attributes = {name: self._attribute(node, attribute) for name, attribute in node.attributes.items()}
        outputs = list(node.outputs)
        while outputs and not outputs[-1].name:
            outputs.pop()
        try:
            find_operator(operator)
            inputs = [value and self._find(value, f"node {location}") for value in node.inputs]
            while inputs and inputs[-1] is None:
                inputs.pop()
            types = infer(operator, inputs, attributes, len(outputs))
        except ModelError as error:
            raise self._refusal(node, str(error).removeprefix(f"{self._file}: ")) from error
        names = [output.name or node.op_type.lower() for output in outputs]
        made = self._graph.add_node(operator, inputs, types, attributes, names=names, location=location)
        self._values.update(zip(names, made.outputs, strict=True))

    def _read_constant(self, node: onnx_ir.Node, location: Location) -> None:
        name = node.outputs[0].name or "constant"
        attribute = next(iter(node.attributes.values()))
        value = self._attribute(node, attribute)
        if isinstance(value, str) or not isinstance(value, int | float | tuple | np.ndarray):
            raise self._refusal(node, f"its {attribute.name} is not a tensor of numbers")
        floats = attribute.type in (AttributeType.FLOAT, AttributeType.FLOATS)
        array = value if isinstance(value, np.ndarray) else np.asarray(value, np.float32 if floats else np.int64)
        self._values[name] = self._graph.add_constant(array, name)

    def _find(self, value: onnx_ir.Value, reader: str) -> Value:
        if value.name not in self._values:
            raise ModelError(f"{self._file}: {value.name!r} is read by {reader}, but nothing defines it")
        return self._values[value.name]

    def _attribute(self, node: onnx_ir.Node, attribute: onnx_ir.Attr) -> Attribute:
        match attribute.type:
            case AttributeType.INT | AttributeType.FLOAT | AttributeType.STRING:
                return attribute.value
            case AttributeType.INTS | AttributeType.FLOATS | AttributeType.STRINGS:
                return tuple(attribute.value)
            case AttributeType.TENSOR:
                return attribute.as_tensor().numpy()
            case AttributeType.GRAPH | AttributeType.GRAPHS:
                raise self._refusal(node, "operators with sub-graphs can't be read yet")
            case kind:
                raise self._refusal(node, f"attribute {attribute.name!r} is a {kind.name.lower()}")

    def _location(self, node: onnx_ir.Node) -> Location:
        """The layer: as planish or torch's exporter noted it, or the node's name, or that of its first output."""
        first = node.outputs[0].name or ""
        noted = self._metadata.get(first, {})
        if MODULE_KEY in noted or SOURCE_KEY in noted:
            return Location(noted.get(MODULE_KEY, ""), noted.get(SOURCE_KEY, ""))
        scopes = re.findall(r"'([^']*)'", noted.get("pkg.torch.onnx.name_scopes", ""))
        return Location(scopes[-2] if len(scopes) > 1 and scopes[-2] else node.name or first)

    def _refusal(self, node: onnx_ir.Node, reason: str) -> ModelError:
        return ModelError(f"{self._file}: node {(node.name or node.outputs[0].name)!r} ({node.op_type}): {reason}")


def _declared(value: onnx_ir.Value) -> list[int | str | None]:
    """The dimensions as the file states them."""
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape or ()]


def _dtype(code: int, where: str) -> DType:
    try:
        return DType(code)
    except ValueError as error:
        raise ModelError(
            f"{where} has element type {onnx_ir.DataType(code).name}, which planish doesn't know"
        ) from error
