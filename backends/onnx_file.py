"""Writing of ONNX files weight by weight: none is copied, however large the model."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir

from ..ir.blocks import blocks
from ..ir.drafts import beside
from ..ir.files import writing
from ..ir.graph import Graph
from .onnx_model import to_onnx, to_proto

Tensor: TypeAlias = onnx_ir.Tensor[np.ndarray]

_SMALL = 256
"""Bytes up to which a weight is written with the nodes."""
_ALIGNMENT = 4096
"""The alignment of weights in a file of their own: a page, so that a runtime can map them."""


def write_onnx(
    graph: Graph,
    path: Path,
    inline_bytes: int = 1_800_000_000,
    *,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the graph as an ONNX file, whole or not at all; equal graphs give equal bytes.

    Args:
        graph: the graph to write.
        path: the file.
        inline_bytes: the most bytes of weights in the model's own file; if there are more, they go into a file beside
            it, named like it with `.data` appended. The default is near the 2 GiB at which a protobuf ends.
        metadata: the model's metadata, by key.

    Raises:
        TargetError: an operator that ONNX can't express, by name and layer.
        UsageError: the disk is full, or nothing may be written there.
    """
    model = to_onnx(graph, metadata)
    size = sum(weight.nbytes for part in model.graphs() for weight in _large(part).values())
    write = _write_apart if size > inline_bytes else _write_inline
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as folder, writing(path):
        write(model, folder / path.name)
        for file in sorted(folder.iterdir(), reverse=True):  # the data first: a model never lacks its weights
            file.replace(path.parent / file.name)


def _large(graph: onnx_ir.Graph) -> dict[onnx_ir.Value, Tensor]:
    """Return the weights of a graph that are worth a place of their own."""
    weights = {value: value.const_value for value in graph.initializers.values()}
    return {
        value: tensor
        for value, tensor in weights.items()
        if isinstance(tensor, onnx_ir.Tensor) and tensor.nbytes > _SMALL
    }


def _write_apart(model: onnx_ir.Model, path: Path) -> None:
    """Write the model, and its weights into a file beside it."""
    data = path.with_name(f"{path.name}.data")
    weights = [item for part in model.graphs() for item in _large(part).items()]
    with data.open("wb") as file:
        for value, weight in weights:
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            value.const_value = onnx_ir.ExternalTensor(
                data.name, file.tell(), weight.nbytes, weight.dtype, shape=weight.shape, name=weight.name or ""
            )
            file.writelines(_raw(weight))
    path.write_bytes(to_proto(model).SerializeToString())


def _write_inline(model: onnx_ir.Model, path: Path) -> None:
    """Write one file: what precedes the weights, then each weight as in protobuf.

    Protobuf would hold all of them in memory, twice. But a message is its fields in a row, in any order, each behind
    its number and length, so the last field can be the graph, and the last fields of the graph its weights.
    """
    heads: dict[Tensor, bytes] = {}
    for value, weight in _large(model.graph).items():
        del model.graph.initializers[value.name or ""]
        head = onnx.TensorProto(name=weight.name, data_type=weight.dtype.value, dims=weight.shape.numpy())
        fields = head.SerializeToString() + _prefix(head.RAW_DATA_FIELD_NUMBER, weight.nbytes)
        heads[weight] = _prefix(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, len(fields) + weight.nbytes) + fields
    proto = to_proto(model)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    size = len(graph) + sum(len(head) + weight.nbytes for weight, head in heads.items())
    with path.open("wb") as file:
        file.write(proto.SerializeToString() + _prefix(proto.GRAPH_FIELD_NUMBER, size) + graph)
        for weight, head in heads.items():
            file.write(head)
            file.writelines(_raw(weight))


def _prefix(field: int, size: int) -> bytes:
    """Return what stands before a field of so many bytes."""
    return _varint(field << 3 | 2) + _varint(size)


def _varint(number: int) -> bytes:
    """Encode an integer for protobuf: seven bits to a byte, the lowest first, the top bit set on all but the last."""
    count = max(1, -(-number.bit_length() // 7))
    groups = [number >> 7 * index & 127 for index in range(count)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def _raw(weight: Tensor) -> Iterator[bytes | memoryview]:
    """Return the bytes of a weight in a file; 4-bit integers are packed in pairs there."""
    if weight.dtype.bitwidth < 8:
        yield weight.tobytes()
    else:
        yield from blocks(weight.numpy())
