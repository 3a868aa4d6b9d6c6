"""Sizes of symbolic dimensions of a graph's inputs, and values of inputs, for what is compiled better by them."""

from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from typing import Any

import numpy as np

from .dims import Dim, evaluate, symbols
from .errors import UsageError
from .graph import Graph, Value
from .reinfer import reinfer
from .suggestion import nearest
from .types import DType


def fix_inputs(graph: Graph, values: Mapping[str, Any]) -> None:
    """Give symbolic dimensions their sizes, and inputs of one number their values, and infer all that follows.

    An input that has a value becomes a constant, as which it may decide which branch of an If is left.

    Args:
        graph: the graph whose inputs change.
        values: the size of each dimension by its symbol, and the value of each input by its name; others stay.

    Raises:
        UsageError: there is no such dimension or input, a size is no whole number from 1, a value is not of the
            input's type, or a dimension is computed from another symbol, too.
        ModelError: the model can't have these sizes; the layer is named.
    """
    dims = frozenset[str]().union(*(value.type.symbols for value in graph.inputs))
    numbers = {value.name: value for value in graph.inputs if _is_number(value)}
    sizes: dict[str, int] = {}
    for name, given in values.items():
        if name in dims:
            sizes[name] = _size(name, given)
        elif name in numbers:
            _fix(graph, numbers[name], given)
        else:
            raise UsageError(
                f"the model has no input with a symbolic dimension {name!r}, and no such input of one number"
                f"{nearest(name, dims | numbers.keys())}"
            )
    for value in graph.inputs:
        if value.type.dims is not None:
            value.type = value.type.resized(tuple(_sized(dim, sizes) for dim in value.type.dims))
    reinfer(graph)


def _is_number(value: Value) -> bool:
    return value.type.is_static and set(value.shape) <= {1} and value.dtype is not DType.string


def _fix(graph: Graph, value: Value, given: object) -> None:
    number = _number(given, value.dtype)
    if number is None:
        raise UsageError(f"the input {value.name!r} of type {value.type} can't be {given!r}")
    graph.replace_uses(value, graph.add_constant(number.reshape(value.type.static_shape), value.name))
    graph.inputs.remove(value)
    for index, other in enumerate(graph.inputs):
        other.index = index


def _number(given: Any, dtype: DType) -> np.ndarray | None:
    """A value as an array without axes; None where it is none of the type, or beyond its range."""
    kinds = {bool} if dtype is DType.bool else {int, float} if dtype.is_float else {int}
    if type(given) not in kinds:
        return None
    with suppress(OverflowError), np.errstate(over="ignore"):
        number = np.array(given, dtype.numpy)
        return number if np.isfinite(number.astype(np.float64)) or not isfinite(given) else None
    return None


def _size(name: str, given: object) -> int:
    if type(given) is not int or given < 1:
        raise UsageError(f"the size of {name!r} must be a whole number from 1, not {given!r}")
    return given


def _sized(dim: Dim, sizes: Mapping[str, int]) -> Dim:
    if not symbols(dim) & sizes.keys():
        return dim
    if missing := sorted(symbols(dim) - sizes.keys()):
        raise UsageError(f"the dimension {dim} takes a size for {', '.join(missing)} as well")
    return evaluate(dim, sizes)
