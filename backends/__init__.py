"""Backends: runtimes that graphs are lowered to, one package each, imported when it is asked for."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from ..ir.errors import UsageError
from ..ir.plugins import plugins
from ..ir.suggestion import nearest
from ..passes.legalization.finder import find_support_with
from .base import Backend, Executable, Port

__all__ = ["Backend", "Executable", "Port", "backend_names", "find_backend"]


def backend_names() -> tuple[str, ...]:
    """Return the names of all backends: the packages in this folder, and those that other packages bring."""
    return (*_own_names(), *(name for name in plugins("backends") if name not in _own_names()))


def find_backend(name: str) -> Backend:
    """Return the backend of a name; its runtime is not imported yet.

    Raises:
        UsageError: there is none of that name.
    """
    if name in _own_names():
        return import_module(f"{__name__}.{name}").BACKEND
    if name not in plugins("backends"):
        raise UsageError(f"unknown backend {name!r}{nearest(name, backend_names())}")
    plugin = plugins("backends")[name]
    backend = plugin.load()
    if not isinstance(backend, Backend) or backend.name != name:
        raise plugin.fault(f"is no Backend object whose name is {name!r}")
    return backend


find_support_with(lambda name: find_backend(name).support())


@cache
def _own_names() -> tuple[str, ...]:
    return tuple(sorted(module.name for module in iter_modules(__path__) if module.ispkg))
