"""What only data tells: elements that are not known at compile time, and symbols for the sizes that follow from them.

Such a symbol is named after what decides the size, with a digest of it: a node that is inferred anew, or an equal one,
gets the same symbol, and two sizes that may differ never share one.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from .dims import Dim, symbols
from .graph import Attribute, Constant, Value
from .text import format_attribute

_LABEL = 24
"""Characters of a name that are kept for the reader."""
_MARK = re.compile(r"__[0-9a-f]{10}_\d+", re.ASCII)


class Unknown:
    """An element, or a row of elements, that only data tells; whatever is computed with it is unknown too."""

    def _absorb(self, *others: Any) -> "Unknown":
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = _absorb
    __floordiv__ = __rfloordiv__ = __truediv__ = __rtruediv__ = __mod__ = __rmod__ = _absorb
    __sym_max__ = __sym_min__ = _absorb

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Any = Unknown()
"""Stands among ints, and for a whole row of them."""


def is_unknown(row: Any) -> bool:
    """Whether a row of elements, or one of them, is unknown."""
    return row is UNKNOWN or (isinstance(row, list) and any(element is UNKNOWN for element in row))


def size_of_element(value: Value, index: int) -> Dim:
    """The symbol for a size that is an element of a tensor: the same wherever that element is taken for a size."""
    return _symbol(value.name, [identity(value)], index)


def size_called(name: str, what: int | str) -> str:
    """The symbol for a size, named by how it came about, such as an axis on which two branches don't agree."""
    return _symbol(name, [name, what], what if isinstance(what, int) else 0)


def size_of_result(
    operator: str, inputs: Sequence[Value | None], attributes: Mapping[str, Attribute], cause: str, number: int
) -> Dim:
    """The symbol for a size of a node's result.

    Args:
        operator: the node's operator.
        inputs: the node's inputs.
        attributes: the node's attributes.
        cause: what decides the size, such as the name of an input.
        number: the number that tells the sizes with this cause apart.
    """
    held = [(name, format_attribute(value)) for name, value in sorted(attributes.items())]
    key = [operator, [value and identity(value) for value in inputs], held, cause]
    return _symbol(f"{operator.rpartition('::')[2].lower()}_{cause}", key, number)


@lru_cache(maxsize=1 << 9)
def is_from_data(symbol: str) -> bool:
    """Whether a symbol stands for a size that only data tells, which may be 0 or 1 as well."""
    return _MARK.search(symbol) is not None


def is_of_data(dim: Dim) -> bool:
    """Whether a size speaks of one that only data tells."""
    return any(map(is_from_data, symbols(dim)))


def is_expression_of_data(dim: Dim) -> bool:
    """Whether a size is an expression over sizes that only data tells."""
    return isinstance(dim, str) and not dim.isidentifier() and all(map(is_from_data, symbols(dim)))


def _symbol(label: str, key: object, number: int) -> str:
    stem = re.sub(r"\W+", "_", label, flags=re.ASCII).strip("_")[:_LABEL].rstrip("_")
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:10]
    return f"{stem if stem[:1].isalpha() else f'd{stem}'}__{digest}_{number}"


def identity(value: Value) -> str:
    """What equal values share: a name, or a small constant's content."""
    if isinstance(value, Constant) and value.data.size <= _LABEL:
        return format_attribute(value.data)
    return value.name
