"""The handover of a graph to a compiler's process: its text, and its weights as they lie in memory.

A `.planish` file would hold all weights in the order of their axes, and transposing those of a language model takes
longer than compiling it from the cache. The weights wait in memory where the system lends a file in memory: on a disk
they would compete with what is written into the artifact.
"""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from ....ir.files import file_in_memory, writing
from ....ir.graph import Graph
from ....ir.text import print_graph, read_graph, weights
from ....ir.types import TensorType

_TEXT, _WEIGHTS, _PLACES = "graph.txt", "weights.bin", "weights.json"
_ALIGNMENT = 64
_MOST_IN_MEMORY = 1 << 30
"""The most bytes of weights that wait in memory: larger files can be written to disk when memory gets short."""


@contextmanager
def handed_over(graph: Graph, folder: Path) -> Generator[Path]:
    """Make a folder from which another process can take over the graph while this lasts.

    Raises:
        UsageError: the disk is full, or nothing may be written there.
    """
    found = weights(graph)
    with writing(folder):
        folder.mkdir()
        file = _weights_file(folder / _WEIGHTS, sum(data.nbytes for data in found.values()))
    with file:
        with writing(folder):
            places = _write(found, file)
            (folder / _TEXT).write_text(print_graph(graph), encoding="utf-8")
            (folder / _PLACES).write_text(json.dumps(places), encoding="utf-8")
        yield folder


def _write(found: Mapping[str, np.ndarray], file: IO[bytes]) -> dict[str, tuple[int, list[int]]]:
    """Write weights as they lie in memory; return where each begins, and its axes in the order of their strides."""
    places = dict[str, tuple[int, list[int]]]()
    for name, data in found.items():
        axes = sorted(range(data.ndim), key=lambda axis: -abs(data.strides[axis]))
        lying = np.ascontiguousarray(data.transpose(axes))
        file.write(bytes(-file.tell() % _ALIGNMENT))
        places[name] = file.tell(), axes
        file.write(lying.reshape(-1).view(np.uint8).data)
    file.write(b"\0")  # a file without content couldn't be mapped
    file.flush()
    return places


def _weights_file(path: Path, size: int) -> IO[bytes]:
    """Return a file that a path leads to; one in memory is gone with the process that has opened it."""
    if size <= _MOST_IN_MEMORY and (lent := file_in_memory(path.name)):
        path.symlink_to(lent[1])
        return lent[0]
    return path.open("wb")


def taken_over(folder: Path) -> Graph:
    """Read the graph in a folder; its weights are memory-mapped."""
    mapped = np.memmap(folder / _WEIGHTS, np.uint8, mode="c").view(np.ndarray)
    places = json.loads((folder / _PLACES).read_text(encoding="utf-8"))

    def fetch(name: str, type: TensorType) -> np.ndarray:
        begin, axes = places[name]
        shape = [type.static_shape[axis] for axis in axes]
        size = int(np.prod(shape, dtype=np.int64)) * type.dtype.numpy.itemsize
        lying = mapped[begin : begin + size].view(type.dtype.numpy).reshape(shape)
        return lying.transpose(np.argsort(axes))

    return read_graph((folder / _TEXT).read_text(encoding="utf-8"), fetch)
