"""`.planish` files: one safetensors file that holds a graph's text as metadata, and its large constants by name."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from .blocks import blocks
from .drafts import replacing
from .errors import CheckError, ModelError
from .files import RefusedFileError, open_regular
from .graph import Graph
from .text import print_graph, read_graph, weights
from .tokens import ParseError
from .types import DType, TensorType
from .verify import verify

_KEY = "planish"


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a graph, the same bytes for an equal graph; the file appears whole or not at all.

    Raises:
        UsageError: the folder can't be written, or the disk is full.
    """
    path = Path(path)
    tensors = dict(sorted(weights(graph).items(), key=lambda item: (-item[1].itemsize, item[0])))
    with replacing(path) as draft, draft.open("wb") as file:
        file.write(_header(tensors, {_KEY: print_graph(graph)}))
        for data in tensors.values():
            file.writelines(blocks(data))
        file.flush()
        os.fsync(file.fileno())


def _header(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """What a safetensors file begins with; it is padded so that the tensors, the widest first, are aligned."""
    entries: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, data in tensors.items():
        start, end = end, end + data.nbytes
        code = _code(DType.of(data.dtype))
        shape = data.shape if code else (data.nbytes,)
        entries[name] = {"dtype": code or "U8", "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _code(dtype: DType) -> str:
    """The element type's name in safetensors; nothing for what it lacks, which is kept as bytes."""
    if dtype is DType.bool:
        return "BOOL"
    named = re.fullmatch(r"([a-z]+)(\d+)_?(\w*?)(fnu?)?", dtype.name)
    if named is None or dtype.bits < 8 or dtype is DType.complex128:
        return ""
    family, width, form, _ = named.groups()
    letter = "BF" if family == "bfloat" else family[0].upper()
    return "_".join(filter(None, (f"{letter}{width}", form.upper())))


def load(path: str | os.PathLike[str]) -> Graph:
    """The graph in a file; its weights are read when they are touched, and writing into them leaves the file alone.

    Raises:
        ModelError: the file is missing, truncated, broken, or holds no graph.
    """
    try:
        open_regular(path).close()
        with safe_open(path, framework="np") as file:  # checks the header against the file's size
            text = (file.metadata() or {})[_KEY]
        mapped = np.memmap(path, np.uint8, mode="c")
    except RefusedFileError as error:
        raise ModelError(f"{path} can't be read: {error}") from error
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
        graph = read_graph(text, fetch)
        verify(graph)
    except (ParseError, CheckError) as error:
        raise ModelError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ModelError(f"{path}: its graphs lie too deep inside one another") from error
    return graph
