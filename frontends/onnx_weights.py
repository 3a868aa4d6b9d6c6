"""The tensors of ONNX files: in the file, or memory-mapped from files beside it."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir

from ..ir.errors import ModelError
from ..ir.types import DType

_SMALL_BYTES = 1024  # constants up to this size may steer a version conversion: axes, shapes, scales of a resize


def take_weights(proto: onnx.ModelProto, file: Path) -> dict[str, np.ndarray]:
    """Move the large initializers out, leaving inputs of their types, so that conversions copy no weights.

    Raises:
        ModelError: one is damaged, of an unknown type, or lies in a file that can't be read or is beyond the model's folder.
    """
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
        dtype = dtype_of(tensor.data_type, f"{self._file}: weight {tensor.name!r}")
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
            return array_of(onnx_ir.serde.deserialize_tensor(tensor))
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


def dtype_of(code: int, where: str) -> DType:
    """The element type of ONNX's number for it.

    Raises:
        ModelError: planish doesn't know it; `where` begins the message.
    """
    try:
        return DType(code)
    except ValueError as error:
        raise ModelError(
            f"{where} has element type {onnx_ir.DataType(code).name}, which planish doesn't know"
        ) from error


def array_of(tensor: onnx_ir.TensorProtocol) -> np.ndarray:
    """A tensor's data; strings, which come as bytes, decoded."""
    array = tensor.numpy()
    if array.dtype.kind not in "OS":
        return array
    texts = np.empty(array.size, dtype=object)
    texts[:] = [item.decode() if isinstance(item, bytes) else item for item in array.reshape(-1)]
    return texts.reshape(array.shape)
