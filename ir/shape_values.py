"""The elements of small tensors that are computed from shapes: `Shape`, `Gather`, `Concat` and their kin.

Elements are whatever arithmetic the caller brings: `size` turns a dimension into an int, a symbolic int, or a node.
Those that depend on data are `UNKNOWN`, each by itself: the others in the same row are still known.
"""

from collections.abc import Callable, Hashable, Mapping
from functools import partial, reduce
from math import isfinite, prod
from operator import add, mod, mul, sub
from typing import Any

import numpy as np

from .dims import Dim
from .graph import Attribute, Constant, Node, Value
from .operators import has_trait
from .traits import Trait
from .types import DType
from .unknown import UNKNOWN

Elements = np.ndarray
"""An array of dtype object: ints, symbolic ints, and `UNKNOWN`."""

_MAX_ELEMENTS = 64


def symbols(value: Value) -> frozenset[str]:
    """The symbols that the elements may speak of."""
    sources = [node.inputs[0] for node in _chain(value) if has_trait(node.operator, Trait.SHAPE_ONLY)]
    return frozenset().union(*(source.type.symbols for source in sources if source is not None))


def signature(value: Value) -> Hashable:
    """What a value's symbols and elements follow from: those of the same signature are the same."""
    places: dict[Node, int] = {}
    rows: list[Hashable] = []
    for node in _chain(value):
        is_source = has_trait(node.operator, Trait.SHAPE_ONLY)
        operands = [operand if is_source else _origin(operand, places) for operand in node.inputs]
        attributes = tuple([(name, hashable(node.attributes[name])) for name in sorted(node.attributes)])
        read = tuple([operand.type if isinstance(operand, Value) else operand for operand in operands])
        rows.append((node.operator, attributes, read, node.output.type))
        places[node] = len(places)
    return _origin(value, places), tuple(rows)


def _origin(value: Value | None, places: Mapping[Node, int]) -> Hashable:
    """The origin of an operand: the place of its producer, or the bytes of a small constant, or else the type."""
    if value is None:
        return None
    if value.producer is not None and value.producer in places:
        return places[value.producer]
    if isinstance(value, Constant) and _is_small(value) and value.data.dtype.kind in "iubf":
        return value.type, value.data.tobytes()
    return value.type


def hashable(attribute: Attribute) -> Hashable:
    """What an attribute has in common with equal ones alone: an array's type, shape and bytes, or else itself."""
    return (attribute.dtype, attribute.shape, attribute.tobytes()) if isinstance(attribute, np.ndarray) else attribute


def elements(value: Value, size: Callable[[Dim], Any]) -> Elements | None:
    """The elements in the tensor's own shape, or None where even their number isn't known, or is large."""
    known: dict[Value, Elements | None] = {}
    for node in _chain(value):
        operands = () if has_trait(node.operator, Trait.SHAPE_ONLY) else node.inputs
        found = [None if operand is None else _found(operand, known) for operand in operands]
        missing = any(row is None and operand is not None for row, operand in zip(found, operands, strict=True))
        try:
            known[node.output] = None if missing else _held(_RULES[node.operator](node, found, size), node.output.dtype)
        except (ArithmeticError, IndexError):  # a place that isn't there, a division by zero: it fails where it runs
            known[node.output] = None
    return _found(value, known)


def _found(value: Value, known: Mapping[Value, Elements | None]) -> Elements | None:
    if not _is_small(value):
        return None
    row = _constant(value) if isinstance(value, Constant) else known.get(value)
    return np.full(value.type.static_shape, UNKNOWN, dtype=object) if row is None else row


def _held(row: Elements | None, dtype: DType) -> Elements | None:
    """Elements as a type holds them: floats rounded to it, and integers that are beyond it unknown."""
    if row is None or not (dtype.is_integer or dtype.is_float):
        return row
    return _each(lambda element: _one_held(element, dtype), row)


def _one_held(element: Any, dtype: DType) -> Any:
    if isinstance(element, float) and dtype.is_float:
        return float(np.asarray(element).astype(dtype.numpy))
    if isinstance(element, int) and dtype.is_integer:
        least, greatest = dtype.limits
        return element if least <= element <= greatest else UNKNOWN
    return element


def _chain(value: Value) -> list[Node]:
    """The nodes with rules that a value is computed by, producers first, each once however often it is read."""
    order: dict[Node, None] = {}
    pending = [(value.producer, False)]
    while pending:
        node, is_ready = pending.pop()
        if node is None or node in order or node.operator not in _RULES or not _is_small(node.output):
            continue
        if is_ready or has_trait(node.operator, Trait.SHAPE_ONLY):
            order[node] = None
            continue
        pending.append((node, True))
        pending += [(operand.producer, False) for operand in node.inputs if operand is not None]
    return list(order)


def _is_small(value: Value) -> bool:
    return value.type.is_static and prod(value.type.static_shape) <= _MAX_ELEMENTS


def _constant(constant: Constant) -> Elements | None:
    return _objects(constant.data) if constant.data.dtype.kind in "iubf" else None


def _objects(values: Any) -> Elements:
    """An array of Python objects; numpy would try to look into symbolic ints."""
    array = np.empty(np.shape(values), dtype=object)
    array[...] = np.asarray(values).astype(object)
    return array


def _each(function: Callable[[Any], Any], elements: Elements) -> Elements:
    return _row(list(map(function, elements.reshape(-1)))).reshape(elements.shape)


def _row(values: list[Any]) -> Elements:
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array


def _shape(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    source = node.inputs[0]
    if source is None or not source.type.is_ranked:
        return None
    dims = source.shape[node.attributes.get("start", 0) : node.attributes.get("end", None)]
    return _row([size(dim) for dim in dims])


def _size(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    source = node.inputs[0]
    if source is None or not source.type.is_ranked:
        return None
    return _row([reduce(mul, map(size, source.shape), 1)]).reshape(())


def _gather(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    data, indices = operands
    if not _is_concrete(indices):
        return None
    return _array(np.take(data, indices.astype(np.int64), axis=node.attributes.get("axis", 0)))


def _slice(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    data, *bounds = operands
    if not all(bound is None or _is_concrete(bound) for bound in bounds):
        return None
    rows: list[Any] = [None if bound is None else bound.reshape(-1) for bound in bounds]
    starts, ends, *rest = rows
    axes = rest[0] if rest and rest[0] is not None else range(len(starts))
    steps = rest[1] if len(rest) == 2 else [1] * len(starts)
    places = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        places[axis] = slice(start, end, step)
    return data[tuple(places)]


def _cast(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    converted = {DType.int64: _integer, DType.int32: _integer, DType.bool: _truth}.get(node.output.dtype)
    return None if converted is None else _each(converted, operands[0])


def _integer(element: Any) -> Any:
    if not isinstance(element, float):
        return element
    return int(element) if isfinite(element) else UNKNOWN


def _truth(element: Any) -> Any:
    return bool(element) if isinstance(element, int | float) else UNKNOWN


def _negated(element: Any) -> Any:
    return not element if isinstance(element, bool) else UNKNOWN


def _reshaped(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    return operands[0].reshape(node.output.type.static_shape) if node.output.type.is_static else None


def _expanded(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    return np.broadcast_to(operands[0], node.output.type.static_shape) if node.output.type.is_static else None


def _concat(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    return np.concatenate(operands, axis=node.attributes["axis"])


def _is_concrete(elements: Elements) -> bool:
    return all(isinstance(element, int) for element in elements.reshape(-1))


def _array(value: Any) -> Elements:
    """A scalar that fell out of an object array, put back into one."""
    return value if isinstance(value, np.ndarray) else _row([value]).reshape(())


def _elementwise(operation: Callable[[Any, Any], Any]) -> Callable[..., Elements | None]:
    def pair(left: Elements, right: Elements) -> Elements:
        left, right = np.broadcast_arrays(left, right)
        results = [operation(a, b) for a, b in zip(left.reshape(-1), right.reshape(-1), strict=True)]
        return _row(results).reshape(left.shape)

    return lambda node, operands, size: reduce(pair, operands)


def _quotient(a: Any, b: Any) -> Any:
    """Divide integers towards zero, whereas Python's operator and torch's symbolic integers round down."""
    if isinstance(a, float):
        return a / b
    if isinstance(b, int) and b < 0:
        return _quotient(-a, -b)
    if isinstance(a, int) and a < 0:
        return -(-a // b)
    if isinstance(a, int) or a is UNKNOWN:
        return a // b
    from .scope import is_never_negative  # which brings torch; the integer is one of torch's

    if is_never_negative(a):
        return a // b
    return _picked(max, a, 0) // b - _picked(max, -a, 0) // b


def _picked(pick: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    """Return max or min; torch's symbolic integers have a method for it, since a comparison would fix them."""
    method = f"__sym_{pick.__name__}__"
    if hasattr(a, method):
        return getattr(a, method)(b)
    return getattr(b, method)(a) if hasattr(b, method) else pick(a, b)


def _mod(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    return None if node.attributes.get("fmod") else _elementwise(mod)(node, operands, size)


def _where(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    condition, chosen, other = np.broadcast_arrays(*operands)
    flat = zip(condition.reshape(-1), chosen.reshape(-1), other.reshape(-1), strict=True)
    chosen = [UNKNOWN if test is UNKNOWN else a if test else b for test, a, b in flat]
    return _row(chosen).reshape(condition.shape)


def _is_equal(a: Any, b: Any) -> Any:
    """Whether elements are equal whatever the sizes are that they speak of; unknown where it depends on these."""
    if a is UNKNOWN or b is UNKNOWN or (isinstance(a, int | float) and isinstance(b, int | float)):
        return UNKNOWN if a is UNKNOWN or b is UNKNOWN else a == b
    difference = (a - b).node.expr  # torch would answer for the one size that it has in mind
    if difference.is_zero:
        return True
    return False if difference.is_positive or difference.is_negative else UNKNOWN


def _product(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    shape = node.output.type.static_shape
    return _row([reduce(mul, operands[0].reshape(-1), 1)]).reshape(shape) if prod(shape) == 1 else None


def _filled(node: Node, operands: list[Any], size: Callable[[Dim], Any]) -> Elements | None:
    fill = node.attributes.get("value")
    if not node.output.type.is_static or not isinstance(fill, np.ndarray) or fill.dtype.kind not in "iu":
        return None
    return _objects(np.full(node.output.type.static_shape, fill.reshape(-1)[0]))


_RULES: dict[str, Callable[[Node, list[Any], Callable[[Dim], Any]], Elements | None]] = {
    "Add": _elementwise(add),
    "Cast": _cast,
    "CastLike": _cast,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _elementwise(_quotient),
    "Equal": _elementwise(_is_equal),
    "Expand": _expanded,
    "Gather": _gather,
    "Identity": lambda node, operands, size: operands[0],
    "Max": _elementwise(partial(_picked, max)),
    "Min": _elementwise(partial(_picked, min)),
    "Mod": _mod,
    "Mul": _elementwise(mul),
    "Neg": lambda node, operands, size: _array(-operands[0]),
    "Not": lambda node, operands, size: _each(_negated, operands[0]),
    "ReduceProd": _product,
    "Reshape": _reshaped,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _reshaped,
    "Sub": _elementwise(sub),
    "Transpose": lambda node, operands, size: operands[0].transpose(node.attributes.get("perm")),
    "Unsqueeze": _reshaped,
    "Where": _where,
}
