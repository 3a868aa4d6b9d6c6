"""What small integer tensors hold, where it follows from sizes."""

from collections.abc import Hashable

from . import shape_values
from .dims import Dim, evaluate
from .graph import Value
from .kept import keep
from .sample_sizes import Run, holds, plain_shape, plain_sizes, sample_sizes
from .unknown import is_from_data, is_unknown

_CONTENTS: dict[Hashable, tuple[Dim, ...] | None] = {}
"""Elements by what they follow from."""


def contents(value: Value) -> tuple[Dim, ...] | None:
    """The elements of a small integer tensor, where they are known: ints and symbolic dimensions, in one row."""
    if value.dtype.is_float:
        return None
    key = shape_values.signature(value)
    return _CONTENTS[key] if key in _CONTENTS else keep(_CONTENTS, key, _contents(value))


def _contents(value: Value) -> tuple[Dim, ...] | None:
    names = shape_values.symbols(value)
    if names and not any(map(is_from_data, names)) and (plain := _plain_contents(value, names)) is not None:
        return plain
    if names:
        from .scope import scope, symbols_kept  # brings torch's compiler, which takes as long to import as torch

        within = scope(tuple(sorted(names)))
        with symbols_kept(within):
            elements, dim = shape_values.elements(value, within.size), within.dim
    else:
        elements, dim = shape_values.elements(value, int), int
    if elements is None or is_unknown(list(elements.reshape(-1))):
        return None
    dims = tuple(map(dim, elements.reshape(-1)))
    return dims if _holds_at_any_size(value, dims, names) else None


def _plain_contents(value: Value, names: frozenset[str]) -> tuple[Dim, ...] | None:
    """The elements where all are plain sizes."""
    runs: list[Run] = []
    for sizes in plain_sizes(names, are_numbers=True):
        elements = shape_values.elements(value, lambda dim, sizes=sizes: evaluate(dim, sizes))
        if elements is None:
            return None
        runs.append((sizes, list(elements.reshape(-1))))
    return plain_shape(runs)


def _holds_at_any_size(value: Value, dims: tuple[Dim, ...], names: frozenset[str]) -> bool:
    """Whether elements are right at sizes that only data tells, where they speak of such."""
    if not any(map(is_from_data, names)):
        return True
    for sizes in sample_sizes(names, [dim for dim in dims if isinstance(dim, int)]):
        elements = shape_values.elements(value, lambda dim, sizes=sizes: evaluate(dim, sizes))
        if elements is None or not all(
            holds(dim, axis, [(sizes, list(elements.reshape(-1)))]) for axis, dim in enumerate(dims)
        ):
            return False
    return True
