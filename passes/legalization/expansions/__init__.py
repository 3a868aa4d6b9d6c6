"""How operators are spelled out in simpler ones, one file for each family; the table is gathered from them."""

from importlib import import_module
from pkgutil import iter_modules

from ..expansion import Expansion

EXPANSIONS: dict[str, Expansion] = {}
"""Expansions by the names of operators."""

for _module in iter_modules(__path__):
    EXPANSIONS.update(import_module(f"{__name__}.{_module.name}").EXPANSIONS)
