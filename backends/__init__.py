"""Runtimes that graphs are lowered to, one package each, imported when it is asked for."""

from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules

from ..ir.errors import UsageError
from .base import Backend, Executable, Port

__all__ = ["Backend", "Executable", "Port", "backend_names", "find_backend"]


def backend_names() -> tuple[str, ...]:
    """The backends there are: every package in this folder is one."""
    return tuple(sorted(module.name for module in iter_modules(__path__) if module.ispkg))


def find_backend(name: str) -> Backend:
    """The backend of a name; its runtime is not imported yet.

    Raises:
        UsageError: there is none of that name.
    """
    names = backend_names()
    if name not in names:
        near = get_close_matches(name, names, n=1)
        raise UsageError(
            f"unknown backend {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"use one of {names}")
        )
    return import_module(f"{__name__}.{name}").BACKEND
