"""A hash of what a graph computes: the key of the cache, and the proof that a build is reproducible."""

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from .blocks import blocks
from .elements import format_elements
from .graph import Attribute, Constant, Graph, Value
from .text import format_attribute
from .types import DType


def structural_hash(graph: Graph) -> str:
    """SHA-256 over operators, attributes, types, edges and the constants' bytes, in the order of the nodes.

    The names of inputs and outputs count, since callers use them; other names, locations, and constants that nobody
    reads don't.
    """
    return _Hash(graph).digest.hexdigest()


class _Hash:
    """Values are numbered as they are met; a constant's bytes are taken in when it is first read."""

    def __init__(self, graph: Graph, around: Mapping[Value, int] | None = None) -> None:
        self.digest = hashlib.sha256()
        self._numbers: dict[Value, int] = dict(around or {})
        for value in graph.inputs:
            self._note("input", value.name, str(value.type))
            self._number(value)
        for node in graph.nodes:
            inputs = [self._reference(value) for value in (*node.inputs, *node.captured)]
            attributes = [(name, self._attribute(value)) for name, value in sorted(node.attributes.items())]
            self._note("node", node.operator, inputs, attributes, [str(output.type) for output in node.outputs])
            for output in node.outputs:
                self._number(output)
        for name, value in graph.outputs.items():
            self._note("output", name, self._reference(value))

    def _note(self, *fields: object) -> None:
        self.digest.update(json.dumps(fields).encode())

    def _number(self, value: Value) -> int:
        return self._numbers.setdefault(value, len(self._numbers))

    def _reference(self, value: Value | None) -> int | None:
        if isinstance(value, Constant) and value not in self._numbers:
            self._note("constant", str(value.type))
            self._data(value.data)
        return None if value is None else self._number(value)

    def _data(self, array: np.ndarray) -> None:
        if DType.of(array.dtype) is DType.string:
            self._note(format_elements(array))
        else:
            for block in blocks(array):
                self.digest.update(block)

    def _attribute(self, attribute: Attribute) -> str:
        if not isinstance(attribute, Graph):
            return format_attribute(attribute)
        return _Hash(attribute, self._numbers).digest.hexdigest()
