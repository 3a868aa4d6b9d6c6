"""The elements of small integer tensors that are computed from shapes: `Shape`, `Gather`, `Concat` and their kin.

Elements are whatever arithmetic the caller brings: `size` turns a dimension into an int, a symbolic int, or a node.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .dims import Dim
from .graph import Constant, Node, Value
from .types import DType

Elements = np.ndarray
"""An array of dtype object: ints and symbolic ints."""

_MAX_ELEMENTS = 64
_MAX_DEPTH = 64


def symbols(value: Value, depth: int = _MAX_DEPTH) -> frozenset[str]:
    """The symbols that the elements may speak of."""
    node = value.producer
    if node is None or depth == 0 or value.dtype not in (DType.int64, DType.int32, DType.bool):
        return frozenset()
    if node.operator in ("Shape", "Size"):
        source = node.input(0)
        return frozenset() if source is None else source.type.symbols
    if node.operator not in _RULES:
        return frozenset()
    return frozenset().union(*(symbols(operand, depth - 1) for operand in node.inputs if operand is not None))


def elements(value: Value, size: Callable[[Dim], Any], depth: int = _MAX_DEPTH) -> Elements | None:
    """The elements in the tensor's own shape, or None where they depend on data."""
    if isinstance(value, Constant):
        small = value.data.size <= _MAX_ELEMENTS and value.data.dtype.kind in "iubf"
        return _objects(value.data) if small else None
    node = value.producer
    if node is None or depth == 0 or node.operator not in _RULES:
        return None
    if node.operator in ("Shape", "Size"):
        return _RULES[node.operator](node, [], size)
    operands = [None if operand is None else elements(operand, size, depth - 1) for operand in node.inputs]
    missing = any(known is None and operand is not None for known, operand in zip(operands, node.inputs, strict=True))
    return None if missing else _RULES[node.operator](node, operands, size)


def _objects(values: Any) -> Elements:
    """An array of Python objects; numpy would try to look into symbolic ints."""
    array = np.empty(np.shape(values), dtype=object)
    array[...] = np.asarray(values).astype(object)
    return array


def _row(values: list[Any]) -> Elements:
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array


def _shape(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    source = node.inputs[0]
    if source is None:
        return None
    dims = source.shape[node.attributes.get("start", 0) : node.attributes.get("end", None)]
    return _row([size(dim) for dim in dims])


def _size(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    source = node.inputs[0]
    if source is None:
        return None
    product: Any = 1
    for dim in source.shape:
        product = product * size(dim)
    return _row([product]).reshape(())


def _gather(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    data, indices = operands
    return _array(data[indices.astype(np.int64)]) if data.ndim == 1 else None


def _slice(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    data, starts, ends, *rest = operands
    step = int(rest[1][0]) if len(rest) == 2 else 1
    if data.ndim != 1 or not all(isinstance(bound[0], int) for bound in (starts, ends)):
        return None
    return data[starts[0] : ends[0] : step]


def _cast(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    to = node.attributes["to"]
    return operands[0] if to in (DType.int64.value, DType.int32.value) else None


def _reshaped(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    return operands[0].reshape(node.output.type.static_shape) if node.output.type.is_static else None


def _concat(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    return np.concatenate(operands)


def _array(value: Any) -> Elements:
    """A scalar that fell out of an object array, put back into one."""
    return value if isinstance(value, np.ndarray) else _row([value]).reshape(())


def _binary(operation: Callable[[Any, Any], Any]) -> Callable[..., Elements | None]:
    def rule(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
        left, right = np.broadcast_arrays(*operands)
        results = [operation(a, b) for a, b in zip(left.reshape(-1), right.reshape(-1), strict=True)]
        return _row(results).reshape(left.shape)

    return rule


def _where(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    condition, chosen, other = np.broadcast_arrays(*operands)
    flat = zip(condition.reshape(-1), chosen.reshape(-1), other.reshape(-1), strict=True)
    return _row([a if test else b for test, a, b in flat]).reshape(condition.shape)


def _product(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    product: Any = 1
    for element in operands[0].reshape(-1):
        product = product * element
    return _row([product]).reshape(node.output.type.static_shape)


def _filled(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    fill = node.attributes.get("value")
    if not node.output.type.is_static or not isinstance(fill, np.ndarray) or fill.dtype.kind not in "iu":
        return None
    return _objects(np.full(node.output.type.static_shape, fill.reshape(-1)[0]))


_RULES: dict[str, Callable[[Node, list[Any], Callable[[Dim], Any]], Elements | None]] = {
    "Add": _binary(lambda a, b: a + b),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _binary(lambda a, b: a // b),
    "Equal": _binary(lambda a, b: bool(a == b)),
    "Gather": _gather,
    "Identity": lambda node, operands, size: operands[0],
    "Mul": _binary(lambda a, b: a * b),
    "ReduceProd": _product,
    "Reshape": _reshaped,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _reshaped,
    "Sub": _binary(lambda a, b: a - b),
    "Unsqueeze": _reshaped,
    "Where": _where,
}
