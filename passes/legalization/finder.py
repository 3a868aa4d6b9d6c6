"""Where legalization learns what backends run: passes know no backend, so that those who do say it here."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...ir.errors import UsageError

if TYPE_CHECKING:  # whoever loads an artifact imports this, and no torch
    from .support import Support

_finders: "list[Callable[[str], Support]]" = []


def find_support_with(finder: "Callable[[str], Support]") -> None:
    """Let a function find the abilities of a backend by its name; it raises a UsageError where there is none."""
    _finders[:] = [finder]


def support_of(backend: str) -> "Support":
    """Return the abilities of a backend.

    Raises:
        UsageError: there is no such backend.
    """
    if not _finders:
        raise UsageError(f"nobody knows the backend {backend!r}: import planish.backends")
    return _finders[0](backend)
