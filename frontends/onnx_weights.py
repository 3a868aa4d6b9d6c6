"""The tensors of ONNX files, wherever they stand: in the file, or memory-mapped from files beside it.

All of them are read here, before any library sees the model, so that none opens a file that a model names. Large ones
are lifted out meanwhile: conversions copy no weights.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from onnx import AttributeProto

from ..ir.errors import ModelError
from ..ir.files import RefusedFileError, open_within
from ..ir.limits import MOST_AXES
from ..ir.types import DType

_SMALL_BYTES = 1024  # constants up to this size may steer a version conversion: axes, shapes, scales of a resize
_MARK = "planish-lifted-"


@dataclass(frozen=True, slots=True)
class Weights:
    """What was taken out of a model.

    Attributes:
        outermost: the initializers of the model's own graph by name.
        lifted: large tensors of attributes, branches and functions; what stands in their places names them by number.
    """

    outermost: Mapping[str, np.ndarray]
    lifted: tuple[np.ndarray, ...]

    def array(self, tensor: onnx_ir.TensorProtocol) -> np.ndarray:
        """The data of a tensor of the model that is left."""
        if isinstance(tensor, onnx_ir.ExternalTensor):
            return self.lifted[int(str(tensor.location).removeprefix(_MARK))]
        return _decoded(tensor)


def take_weights(proto: onnx.ModelProto, file: Path) -> Weights:
    """Move the large tensors out of a model; initializers leave inputs of their types.

    Raises:
        ModelError: one is damaged, of an unknown type, or lies in a file that can't be read or is beyond the model's
            folder.
    """
    store = _Store(file)
    outermost: dict[str, np.ndarray] = {}
    kept: list[onnx.TensorProto] = []
    inputs = {value.name for value in proto.graph.input}
    for tensor in proto.graph.initializer:
        array = store.array(tensor, f"weight {tensor.name!r}")
        outermost[tensor.name] = array
        if array.nbytes <= _SMALL_BYTES:
            kept.append(onnx.numpy_helper.from_array(array, tensor.name))
        elif tensor.name not in inputs:
            proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    lifted: list[np.ndarray] = []
    for tensor, where in _inner_tensors(proto):
        array = store.array(tensor, where)
        if array.nbytes > _SMALL_BYTES and array.dtype != object:
            _mark(tensor, len(lifted))
            lifted.append(array)
        elif tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return Weights(outermost, tuple(lifted))


def _mark(tensor: onnx.TensorProto, number: int) -> None:
    """Leave the type of a tensor and a number in place of its data."""
    bare = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    bare.data_location = onnx.TensorProto.EXTERNAL
    bare.external_data.add(key="location", value=f"{_MARK}{number}")
    tensor.CopyFrom(bare)


def _inner_tensors(proto: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, str]]:
    """The tensors of attributes, branches and functions, and what to call each in messages."""
    nodes = list(proto.graph.node)
    for function in proto.functions:
        nodes += function.node
    while nodes:
        node = nodes.pop()
        for attribute in node.attribute:
            where = f"attribute {attribute.name!r} of node {node.name or ', '.join(node.output)!r}"
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t, where
            yield from ((tensor, where) for tensor in attribute.tensors)
            graphs = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
            for graph in graphs:
                nodes += graph.node
                yield from ((tensor, f"weight {tensor.name!r} in {where}") for tensor in graph.initializer)


class _Store:
    """The arrays of tensors; those in files beside the model are memory-mapped, each file once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._maps: dict[str, np.memmap] = {}

    def array(self, tensor: onnx.TensorProto, where: str) -> np.ndarray:
        """The data of a tensor, which is called `where` in messages."""
        where = f"{self._file}: {where}"
        dtype = dtype_of(tensor.data_type, where)
        dims = tuple(tensor.dims)
        if len(dims) > MOST_AXES or any(dim < 0 for dim in dims):
            raise ModelError(f"{where} has {len(dims)} axes or a negative size, as no tensor has: {list(dims)[:8]}")
        try:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                return _decoded(onnx_ir.serde.deserialize_tensor(tensor))
            raw = self._bytes(tensor, dtype, where)
            if dtype.bits < 8:
                packed = onnx.TensorProto(
                    name=tensor.name, data_type=tensor.data_type, dims=dims, raw_data=raw.tobytes()
                )
                return _decoded(onnx_ir.serde.deserialize_tensor(packed))
            return np.frombuffer(raw, dtype.numpy).reshape(dims)
        except (
            ValueError,
            TypeError,
            OverflowError,
            AssertionError,
        ) as error:  # the last from onnx_ir, for a wrong field
            raise ModelError(f"{where} is damaged: {error}") from error

    def _bytes(self, tensor: onnx.TensorProto, dtype: DType, where: str) -> np.ndarray:
        """The bytes of a tensor that lies in another file."""
        if dtype is DType.string:
            raise ModelError(f"{where} has texts in another file, which the standard doesn't allow")
        entries = {  # others than these three mean nothing here
            text_of(entry.key): text_of(entry.value) for entry in tensor.external_data
        }
        mapped, path = self._mapped(entries.get("location", ""), where)
        needed = (prod(tensor.dims) * dtype.bits + 7) // 8
        offset, length = (
            _count(entries.get(key, str(usual)), f"{where} has the {key}")
            for key, usual in (("offset", 0), ("length", needed))
        )
        if length != needed:
            raise ModelError(f"{where} takes {needed} bytes, but {length} are given for it in {path}")
        if offset + length > len(mapped):
            raise ModelError(f"{where} ends beyond {path}, which is truncated")
        return mapped[offset : offset + length]

    def _mapped(self, location: str, where: str) -> tuple[np.ndarray, Path]:
        path = self._file.parent / location
        if location not in self._maps:
            if not location or location.startswith("/") or ".." in Path(location).parts:
                raise ModelError(f"{where} lies outside the model's folder: {location!r}")
            try:
                with open_within(self._file.parent, location) as file:
                    self._maps[location] = np.memmap(file, np.uint8, mode="r")
            except (RefusedFileError, OSError, ValueError) as error:
                raise ModelError(f"{where}: its weights in {path} can't be read: {error}") from error
        return self._maps[location], path


def text_of(field: str | bytes) -> str:
    """The text of a field, of which protobuf gives the bytes where they are no UTF-8, as names of files are decoded."""
    return os.fsdecode(field)


def _count(text: str, what: str) -> int:
    """A number of bytes as a file spells it."""
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ModelError(f"{what} {text[:40]!r}, which is no number of bytes")
    return int(text)


def dtype_of(code: int, where: str) -> DType:
    """The element type of ONNX's number for it.

    Raises:
        ModelError: planish doesn't know it; `where` begins the message.
    """
    try:
        return DType(code)
    except ValueError as error:
        names = {kind.value: kind.name for kind in onnx_ir.DataType}
        raise ModelError(f"{where} has element type {names.get(code, code)}, which planish doesn't know") from error


def _decoded(tensor: onnx_ir.TensorProtocol) -> np.ndarray:
    """A tensor's data; texts, which come as bytes, decoded."""
    array = tensor.numpy()
    if array.dtype.kind not in "OS":
        return array
    texts = np.empty(array.size, dtype=object)
    texts[:] = [item.decode() if isinstance(item, bytes) else item for item in array.reshape(-1)]
    return texts.reshape(array.shape)
