"""The table of layers: the nodes of a graph taken together by the modules that they came from."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from .nodes import Row

_MOST = 1500
"""Layers that a table has at the most; modules are taken together from the innermost outwards until they fit."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The nodes of one module.

    Attributes:
        module: the path of the module.
        operators: the operators of its nodes, most frequent first, with their numbers.
        nodes: how many nodes there are.
        weights: the element type of the weights in most of its bytes; empty without any.
        elements: the number of elements in its weights, as far as zeros can be told in them.
        zeros: how many of these elements are zero.
        parameters: the number of parameters in its constants.
        bytes: the bytes of its constants.
        flops: the FLOPs of one run.
    """

    module: str
    operators: str
    nodes: int
    weights: str
    elements: int
    zeros: int
    parameters: int
    bytes: int
    flops: int


def layers(rows: Iterable[Row]) -> list[Layer]:
    """The layers of a graph, in the order of their first nodes."""
    nodes = [row for row in rows if row.operator not in ("input", "output")]
    paths = {row.module: re.findall(r"[./]*[^./]+", row.module) for row in nodes}
    depth = max(map(len, paths.values()), default=0)
    while depth > 1 and len({tuple(path[:depth]) for path in paths.values()}) > _MOST:
        depth -= 1
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in nodes:
        found["".join(paths[row.module][:depth])].append(row)
    return [_layer(module, part) for module, part in found.items()]


def _layer(module: str, rows: list[Row]) -> Layer:
    weights: Counter[str] = Counter()
    for row in rows:
        if row.weights:
            weights[row.weights] += row.bytes
    operators = Counter(row.operator for row in rows).most_common()
    return Layer(
        module=module,
        operators=", ".join(name if count == 1 else f"{name} x{count}" for name, count in operators),
        nodes=len(rows),
        weights=weights.most_common(1)[0][0] if weights else "",
        elements=sum(row.elements for row in rows),
        zeros=sum(row.zeros for row in rows),
        parameters=sum(row.parameters for row in rows),
        bytes=sum(row.bytes for row in rows),
        flops=sum(row.flops for row in rows),
    )
