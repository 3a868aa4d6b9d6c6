"""What an expansion is: a function that spells a node out in simpler operators."""

from collections.abc import Callable
from typing import Any, TypeAlias

from ...ir.builder import Builder
from ...ir.errors import TargetError
from ...ir.graph import Node, Value

Expansion: TypeAlias = Callable[[Builder, Node], Value | tuple[Value, ...]]
"""Writes the replacement of a node in front of it; returns what stands for its outputs, or for the first ones of them."""


class RefusedError(TargetError):
    """An expansion's reason why this node can't be spelled out, without the layer and the operator."""


def operand(node: Node, index: int) -> Value:
    """An input that the schema demands."""
    value = node.inputs[index]
    assert value is not None
    return value


def attribute(node: Node, name: str, default: Any) -> Any:
    """An attribute, or the schema's default."""
    return node.attributes.get(name, default)


def size_of(op: Builder, value: Value, axis: int) -> Value:
    """The size along an axis, as a scalar of int64."""
    return op.Gather(op.Shape(value), op.constant(axis % value.type.rank))


def axes_from(node: Node, value: Value, default: int = -1) -> tuple[int, ...]:
    """The axes from the node's `axis` to the last, which are what normalizations normalize over."""
    rank = value.type.rank
    return tuple(range(attribute(node, "axis", default) % rank, rank))
