"""Where two graphs differ."""

from collections.abc import Iterable, Iterator
from itertools import zip_longest

import numpy as np

from .graph import Graph
from .text import format_constant, format_node, weights


def differences(a: Graph, b: Graph) -> list[str]:
    """What is not the same in two graphs, down to names, locations and the bits of constants; empty if they are equal.

    The order of constants means nothing and is not compared.
    """
    found = list(_unequal("graph", [a.name], [b.name]))
    found += _unequal("input", map(repr, a.inputs), map(repr, b.inputs))
    for name in a.constants | b.constants:
        found += _unequal("constant", _constant(a, name), _constant(b, name))
    found += _unequal("node", map(format_node, a.nodes), map(format_node, b.nodes))
    found += _unequal("output", _outputs(a), _outputs(b))
    data, other = weights(a), weights(b)
    return found + [f"data of {name}" for name in data.keys() & other.keys() if not _same_bits(data[name], other[name])]


def _unequal(what: str, left: Iterable[str], right: Iterable[str]) -> Iterator[str]:
    for one, other in zip_longest(left, right, fillvalue="nothing"):
        if one != other:
            yield f"{what}: {one} against {other}"


def _constant(graph: Graph, name: str) -> list[str]:
    return [format_constant(graph.constants[name])] if name in graph.constants else []


def _outputs(graph: Graph) -> Iterator[str]:
    return (f"{name} = %{value.name}" for name, value in graph.outputs.items())


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a is b or np.array_equal(_bytes(a), _bytes(b))


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
