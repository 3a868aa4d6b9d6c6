"""A graph on its way to a compiler's process: its text, and its weights as they lie in memory.

A `.planish` file would have all weights in the order of their axes, and turning those of a language model takes longer than to
compile it from the cache.
"""

import json
from pathlib import Path

import numpy as np

from ...ir.graph import Graph
from ...ir.text import print_graph, read_graph, weights
from ...ir.types import TensorType

_TEXT, _WEIGHTS, _PLACES = "graph.txt", "weights.bin", "weights.json"
_ALIGNMENT = 64


def hand_over(graph: Graph, folder: Path) -> None:
    """Write a graph into a folder."""
    places: dict[str, tuple[int, list[int]]] = {}
    with (folder / _WEIGHTS).open("wb") as file:
        for name, data in weights(graph).items():
            axes = sorted(range(data.ndim), key=lambda axis: -abs(data.strides[axis]))
            lying = np.ascontiguousarray(data.transpose(axes))
            file.write(bytes(-file.tell() % _ALIGNMENT))
            places[name] = file.tell(), axes
            file.write(lying.reshape(-1).view(np.uint8).data)
        file.write(b"\0")  # a file without content couldn't be mapped
    (folder / _TEXT).write_text(print_graph(graph), encoding="utf-8")
    (folder / _PLACES).write_text(json.dumps(places), encoding="utf-8")


def taken_over(folder: Path) -> Graph:
    """The graph in a folder; its weights are memory-mapped."""
    mapped = np.memmap(folder / _WEIGHTS, np.uint8, mode="c").view(np.ndarray)
    places = json.loads((folder / _PLACES).read_text(encoding="utf-8"))

    def fetch(name: str, type: TensorType) -> np.ndarray:
        begin, axes = places[name]
        shape = [type.static_shape[axis] for axis in axes]
        size = int(np.prod(shape, dtype=np.int64)) * type.dtype.numpy.itemsize
        lying = mapped[begin : begin + size].view(type.dtype.numpy).reshape(shape)
        return lying.transpose(np.argsort(axes))

    return read_graph((folder / _TEXT).read_text(encoding="utf-8"), fetch)
