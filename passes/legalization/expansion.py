"""What an expansion is: a function that spells a node out in simpler operators."""

from collections.abc import Callable
from typing import Any, TypeAlias

from ...ir.builder import Builder
from ...ir.errors import TargetError
from ...ir.graph import Node, Value
from ...ir.types import DType

Expansion: TypeAlias = Callable[[Builder, Node], Value | tuple[Value, ...]]
"""A function that writes a node's replacement in front of it, and returns what stands for all or the first outputs."""


class RefusedError(TargetError):
    """An expansion's reason why this node can't be spelled out, without the layer and the operator."""


def attribute(node: Node, name: str, default: Any) -> Any:
    """An attribute, or the schema's default."""
    return node.attributes.get(name, default)


def cast(op: Builder, value: Value, to: DType) -> Value:
    """A value in another element type, or itself where it has that."""
    return value if value.dtype is to else op.Cast(value, to=to)


def size_of(op: Builder, value: Value, axis: int) -> Value:
    """The size along an axis, as a scalar of int64."""
    return op.Gather(op.Shape(value), op.constant(axis % value.type.rank))


def known_size(value: Value, axis: int) -> int:
    """The size along an axis.

    Raises:
        RefusedError: it isn't known before the model runs.
    """
    size = value.shape[axis]
    if not isinstance(size, int):
        raise RefusedError(f"rewriting it in simpler operators takes the size {size}, which is known only at run time")
    return size


def axes_from(node: Node, value: Value) -> tuple[int, ...]:
    """The axes from the node's `axis` to the last, which are what normalizations normalize over."""
    rank = value.type.rank
    return tuple(range(attribute(node, "axis", -1) % rank, rank))


def widened(op: Builder, node: Node) -> tuple[Value, ...]:
    """A node on half-precision floats, computed in float32 and rounded once, at the end."""
    inputs = [
        op.Cast(value, to=DType.float32) if value is not None and value.dtype.is_half else value
        for value in node.inputs
    ]
    made = op(node.operator, *inputs, outputs=len(node.outputs), **node.attributes)
    results = made if isinstance(made, tuple) else (made,)
    return tuple(cast(op, value, output.dtype) for value, output in zip(results, node.outputs, strict=True))
