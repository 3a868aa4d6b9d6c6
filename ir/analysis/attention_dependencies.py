"""What attention ties: heads of queries with those of keys and values, which several of them may share."""

from collections.abc import Iterator, Mapping

import numpy as np

from ..graph import Node, Value
from .dependency import Axis, Dependency, Rule, along, given, known, number, run, spread


def _attention(node: Node) -> Iterator[Dependency]:
    q, k, v = (node.operand(index) for index in range(3))
    y, mask = node.outputs[0], node.input(3)
    if any(node.input(index) is not None for index in (4, 5)) or len(node.outputs) > 1:
        return  # a cache, whose heads others hold
    yield from along(q, y, [0])
    yield from along(k, y, [0])
    yield from along(v, y, [0])
    if mask is not None and mask.type.rank == 4 and q.type.rank == 4:
        yield from along(mask, q, [0, 1])
    if q.type.rank == 3:
        yield from _flat_heads(node, q, k, v, y)
        return
    if not all(isinstance(value.shape[1], int) and value.shape[1] for value in (q, k, v)):
        return
    yield spread(Axis(k, 1), Axis(q, 1), known(q.shape[1]) // known(k.shape[1]))
    yield Dependency(Axis(k, 1), Axis(v, 1))
    yield Dependency(Axis(q, 1), Axis(y, 1))
    yield Dependency(Axis(v, 3), Axis(y, 3))
    if node.attributes.get("scale") is not None:  # or else it is taken from the size of a head
        yield Dependency(Axis(q, 3), Axis(k, 3))


def _flat_heads(node: Node, q: Value, k: Value, v: Value, y: Value) -> Iterator[Dependency]:
    """Heads that lie side by side along the last axis go as wholes."""
    heads = number(node, "kv_num_heads", 0)
    axes = [Axis(value, 2) for value in (q, k, v, y)]
    if not heads or not all(isinstance(axis.size, int) and axis.size % heads == 0 for axis in axes):
        return
    first, *others = axes
    yield run(first, known(first.size) // heads)
    for axis in others:
        yield run(axis, known(axis.size) // heads)
        starts = np.arange(heads)
        yield Dependency(first, axis, starts * (known(first.size) // heads), starts * (known(axis.size) // heads))


def _rotary(node: Node) -> Iterator[Dependency]:
    x, y = given(node)[0], node.output
    if x.type.rank == 4:
        yield from along(x, y, [0, 1, 2])
        return
    yield from along(x, y, range(3))
    yield run(Axis(x, 2), known(x.shape[2]) // max(number(node, "num_heads", 1), 1))


RULES: Mapping[str, Rule] = {"Attention": _attention, "RotaryEmbedding": _rotary}
