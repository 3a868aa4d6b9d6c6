"""The whole table of lowerings, gathered from the files of its families."""

from importlib import import_module
from pkgutil import iter_modules

from .lowering import LOWERINGS

__all__ = ["LOWERINGS"]

_PACKAGE = __package__ or ""

for _module in iter_modules(import_module(_PACKAGE).__path__):
    if _module.name.startswith("lower_"):
        import_module(f"{_PACKAGE}.{_module.name}")
