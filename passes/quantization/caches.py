"""Caches of keys and values: what a decoder has computed of earlier tokens, takes in, and returns for later ones.

    joined = Concat(past, new)      past is an input of the model; joined is returned, and read by attention

`quantize-caches` rounds what is joined. The model then takes and returns floats still, as it must for a pass's numeric
check; `integer_caches` lets it take and return the integers themselves.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...ir.builder import Builder
from ...ir.errors import UsageError
from ...ir.graph import Graph, Node, Value
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ...ir.types import DType, TensorType
from ...ir.unused import drop_unused


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache as it is in a graph.

    Attributes:
        past: the input that holds what earlier calls returned.
        join: the Concat that joins this call's own to it.
        returned: what the graph returns: what was joined, or that on a grid.
    """

    past: Value
    join: Node
    returned: Value

    @property
    def axis(self) -> int:
        """The axis along which the cache grows."""
        return int(self.join.attributes["axis"]) % self.join.output.type.rank

    @property
    def is_rounded(self) -> bool:
        """Whether what was joined is on a grid."""
        return self.returned is not self.join.output


def find_caches(graph: Graph) -> Iterator[Cache]:
    """The caches of a graph, rounded or not."""
    for returned in dict.fromkeys(graph.outputs.values()):
        quantize = _quantized(returned)
        join = (returned if quantize is None else quantize.operand(0)).producer
        if join is None or join.operator != "Concat" or len(join.inputs) != 2:
            continue
        past = join.operand(0)
        if past in graph.inputs and past.type.is_ranked and past.dtype is DType.float32:
            yield Cache(past, join, returned)


def _quantized(value: Value) -> Node | None:
    """The node that quantizes to int8 what a value dequantizes by the same constants; None where there is none."""
    node = value.producer
    quantize = node.operand(0).producer if node is not None and node.operator == "DequantizeLinear" else None
    if node is None or quantize is None or quantize.operator != "QuantizeLinear":
        return None
    grids = [(it.constant(1), it.constant(2), it.attributes.get("axis", 1)) for it in (node, quantize)]
    if any(scale is None or zero_point is None or zero_point.dtype != np.int8 for scale, zero_point, _ in grids):
        return None
    return quantize if all(np.array_equal(one, other) for one, other in zip(*grids, strict=True)) else None


def other_readers(cache: Cache) -> list[Node]:
    """The nodes that read more of a cache's input than its shape, beside the one that joins it."""
    readers = [use.node for use in cache.past.uses if use.node is not cache.join]
    return [node for node in readers if not has_trait(node.operator, Trait.SHAPE_ONLY)]


def integer_caches(graph: Graph) -> Graph:
    """A copy of a graph that takes and returns its caches in int8, a quarter of the bytes.

    It computes what the graph computes, where all that a call takes in was returned by earlier ones, or holds no tokens
    yet. In the place of floats it takes what it returned, as int8 of the same shape and name. Caches that
    `quantize-caches` has left in float stay in float.

    Raises:
        UsageError: no cache of the graph is rounded.
    """
    copy = graph.clone()
    caches = [cache for cache in find_caches(copy) if cache.is_rounded and not other_readers(cache)]
    if not caches:
        raise UsageError("the graph has no caches in integers: round them with `quantize-caches`")
    for cache in caches:
        join, quantize = cache.join, _quantized(cache.returned)
        assert quantize is not None
        grid, axis = quantize.inputs[1:], quantize.attributes.get("axis")
        op = Builder(copy, join, join.location)
        new = op.QuantizeLinear(join.operand(1), *grid, axis=axis)
        cache.past.type = TensorType(DType.int8, cache.past.shape)
        codes, both = quantize.output, cache.returned
        joined = op.Concat(cache.past, new, axis=cache.axis)
        copy.outputs.update((name, joined) for name, value in copy.outputs.items() if value is both)
        copy.replace_uses(both, real := op.DequantizeLinear(joined, *grid, axis=axis))
        drop_unused(copy, (both, codes, join.output))
        copy.rename(joined, codes.name)
        copy.rename(real, both.name)
    return copy
