"""Types of what is computed from tensors of unknown rank: the element type by the schema, and seldom more."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from .dims import Dim
from .errors import ModelError
from .graph import Attribute, Constant, Value
from .types import DType, TensorType
from .unknown import size_called
from .verify import schema_of

if TYPE_CHECKING:
    from onnx.defs import OpSchema

Inputs = Sequence[Value | None]


def infer_unranked(
    operator: str, inputs: Inputs, attributes: Mapping[str, Attribute], outputs: int
) -> list[TensorType]:
    """The types of a node's outputs where the rank of some input isn't known.

    Raises:
        ModelError: the operator is of no standard, or its schema leaves the element type open.
    """
    schema = _schema(operator)
    bound = {
        formal.type_str: value.dtype
        for formal, value in zip(_repeated(schema.inputs, len(inputs)), inputs, strict=True)
        if value is not None
    }
    dims = _DIMS.get(operator, lambda inputs: None)(inputs)
    results = _repeated(schema.outputs, outputs)
    return [TensorType(_dtype(operator, formal, bound, attributes), dims) for formal in results]


@cache
def _schema(operator: str) -> "OpSchema":
    schema = schema_of(operator)
    if schema is None:
        raise ModelError(f"{operator} has no schema, so that tensors of an unknown rank can't go through it")
    return schema


def _repeated(formals: "Sequence[OpSchema.FormalParameter]", count: int) -> "list[OpSchema.FormalParameter]":
    """The parameters for so many values: the last one, if it is variadic, for all the rest."""
    return [formals[min(index, len(formals) - 1)] for index in range(count)]


def _dtype(
    operator: str,
    formal: "OpSchema.FormalParameter",
    bound: Mapping[str, DType],
    attributes: Mapping[str, Attribute],
) -> DType:
    if formal.type_str in bound:
        return bound[formal.type_str]
    if operator == "ConstantOfShape":
        return DType.of(attributes["value"].dtype) if "value" in attributes else DType.float32
    for name in ("to", "dtype", "output_dtype"):
        if attributes.get(name):
            return DType(attributes[name])
    if formal.type_str == "tensor(bool)" or formal.types == {"tensor(bool)"}:
        return DType.bool
    if formal.type_str == "tensor(int64)" or formal.types == {"tensor(int64)"}:
        return DType.int64
    raise ModelError(f"the element type of {operator}'s {formal.name} isn't known without the rank of its inputs")


def _row(inputs: Inputs) -> tuple[Dim, ...]:
    source = inputs[0]
    assert source is not None
    return (size_called(source.name, "rank"),)


def _reshaped(inputs: Inputs) -> tuple[Dim, ...] | None:
    """A reshape to plain numbers has them for its dimensions; what copies or deduces one has a new symbol there."""
    source, shape = inputs[0], inputs[1]
    assert source is not None
    assert shape is not None
    if isinstance(shape, Constant):
        sizes = [int(size) for size in shape.data]
        return tuple(
            size if size > 0 else size_called(source.name, f"reshaped_{axis}") for axis, size in enumerate(sizes)
        )
    rank = shape.shape[0] if shape.type.is_ranked else None
    if not isinstance(rank, int):
        return None
    return tuple(size_called(shape.name, axis) for axis in range(rank))


_DIMS: dict[str, Callable[[Inputs], tuple[Dim, ...] | None]] = {
    "Reshape": _reshaped,
    "Shape": _row,
    "Size": lambda inputs: (),
}
"""What is known of a result's dimensions whatever the rank of the input."""
