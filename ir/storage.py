"""`.planish` files: one safetensors file that holds a graph's text as metadata, and its large constants by name."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .errors import ModelError
from .graph import Graph
from .text import print_graph, read_graph, weights
from .tokens import ParseError
from .types import DType, TensorType

_KEY = "planish"


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a graph, the same bytes for an equal graph; the file appears whole or not at all.

    Raises:
        OSError: the folder can't be written, or the disk is full.
    """
    path = Path(path)
    tensors = {name: _storable(data) for name, data in weights(graph).items()}
    with TemporaryDirectory(prefix=".planish-", dir=path.parent) as folder:
        file = Path(folder, path.name)
        file.touch()
        mode = file.stat().st_mode
        try:
            save_file(tensors, file, {_KEY: print_graph(graph)})
        except SafetensorError as error:
            raise OSError(f"{path} can't be written: {error}") from error
        file.chmod(mode)  # safetensors makes files that only their owner can read
        with file.open("r+b") as written:
            os.fsync(written.fileno())
        file.replace(path)


def load(path: str | os.PathLike[str]) -> Graph:
    """The graph in a file; its weights are read when they are touched, and writing into them leaves the file alone.

    Raises:
        ModelError: the file is missing, truncated, broken, or holds no graph.
    """
    try:
        with safe_open(path, framework="np") as file:  # checks the header against the file's size
            text = (file.metadata() or {})[_KEY]
        mapped = np.memmap(path, np.uint8, mode="c")
    except KeyError as error:
        raise ModelError(f"{path} is a safetensors file without a planish graph") from error
    except SafetensorError as error:
        raise ModelError(f"{path} is no planish graph, or a broken one: {error}") from error
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror or error}") from error
    start = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
    header = json.loads(mapped[8:start].tobytes())

    def fetch(name: str, type: TensorType) -> np.ndarray:
        begin, end = header[name]["data_offsets"]
        return mapped[start + begin : start + end].view(np.ndarray).view(type.dtype.numpy).reshape(type.static_shape)

    try:
        return read_graph(text, fetch)
    except ParseError as error:
        raise ModelError(f"{path}: {error}") from error


def _storable(array: np.ndarray) -> np.ndarray:
    """An array as safetensors takes it: a type that it lacks as bytes."""
    array = np.ascontiguousarray(array)
    dtype = DType.of(array.dtype)
    return array.view(np.uint8) if dtype.bits < 8 or dtype is DType.complex128 else array
