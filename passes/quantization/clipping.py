"""The part of their input that activation functions tell apart: a grid need not reach beyond it."""

from collections.abc import Iterable
from math import inf

from ...ir.graph import Graph, Node, Value

Bounds = tuple[float, float]
UNBOUNDED = (-inf, inf)
"""Bounds that bound nothing."""

STEPS = 255
"""How many steps a grid of 8 bits has from end to end."""


def clipping_range(readers: Iterable[Node]) -> Bounds:
    """The range outside of which none of a value's readers sees a difference; unbounded where nobody reads it."""
    bounds = [bounds_of(node) for node in readers] or [UNBOUNDED]
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def seen_of(graph: Graph, value: Value) -> Bounds:
    """The range outside of which no reader of a value sees a difference; unbounded where the graph returns it."""
    return clipping_range([] if graph.is_output(value) else [use.node for use in value.uses])


def bounds_of(node: Node) -> Bounds:
    """The range outside of which a node's result is that of the nearest end."""
    match node.operator:
        case "Relu":
            return 0.0, inf
        case "Clip":
            return _number(node, 1, -inf), _number(node, 2, inf)
        case "HardSwish":
            return -3.0, inf
        case "HardSigmoid":
            slope, offset = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
            return -offset / slope, (1 - offset) / slope
        case _:
            return UNBOUNDED


def widen(range: Bounds, bounds: Bounds) -> Bounds:
    """A range within bounds, a step longer where it ends at a bound: rounding must not move the grid's end inside."""
    low, high = range
    step = (high - low) / STEPS
    return low - step if low == bounds[0] else low, high + step if high == bounds[1] else high


def _number(node: Node, index: int, default: float) -> float:
    """An input that is a constant number; the default where it is left out or computed."""
    data = node.constant(index)
    return default if data is None else float(data.item())
