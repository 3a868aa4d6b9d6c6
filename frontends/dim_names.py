"""Symbols for the dynamic dimensions of a model's inputs, out of whatever its exporter called them."""

import keyword
import re
from collections.abc import Iterable
from contextlib import suppress

from ..ir.dims import Dim, is_dim, symbols
from ..ir.errors import ModelError

_LABEL, _LONGEST = 64, 255
"""Characters of a symbol that is made of an exporter's text, and of one that is taken as it is."""


class DimNames:
    """Names each dynamic dimension: equal texts get the same symbol, unnamed ones a symbol of their own."""

    def __init__(self, declared: Iterable[int | str | None]) -> None:
        """Note every dimension that will come, so that symbols which are made up collide with none of them."""
        self._named: dict[str, Dim] = {}
        self._plain = {dim for dim in declared if isinstance(dim, str) and _is_symbol(dim)}
        self._taken = set(self._plain)

    def dim(self, text: str | int | None, hint: str) -> Dim:
        """The dimension for an exporter's text.

        A symbol stays as it is, and so does an expression over symbols that other dimensions are; anything else (`?`,
        nothing, `p2o.DynamicDimension.0`, a size below 1) gets a fresh symbol, called after the text or the hint.
        """
        if isinstance(text, int) and text > 0:
            return text
        if not isinstance(text, str) or text in ("", "?"):
            return self._fresh(hint)
        if text not in self._named:
            self._named[text] = self._read(text)
        return self._named[text]

    def _read(self, text: str) -> Dim:
        if text in self._plain:
            return text
        if is_dim(text) and symbols(text) and symbols(text) <= self._plain:
            from ..ir.scope import scope  # brings torch's compiler, which takes as long to import as torch

            within = scope(tuple(sorted(symbols(text))))
            with suppress(ModelError, ValueError, TypeError, ArithmeticError):  # of which torch makes no size
                return within.dim(within.size(text))
        return self._fresh(text)

    def _fresh(self, hint: str) -> str:
        stem = re.sub(r"\W+", "_", hint[:_LABEL], flags=re.ASCII).strip("_")
        stem = stem if _is_symbol(stem) else f"dim_{stem}".rstrip("_")
        name, number = stem, 0
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name


def _is_symbol(text: str) -> bool:
    """Whether a text can stand as a symbol: an identifier that means nothing else in a dimension."""
    if len(text) > _LONGEST:
        return False
    return text.isidentifier() and text.isascii() and not keyword.iskeyword(text) and symbols(text) == frozenset({text})
