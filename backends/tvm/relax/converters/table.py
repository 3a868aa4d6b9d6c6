"""The whole table of converters, gathered from the files of their families."""

from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

from ..emitter import Converter
from ..fusion import FusedKernel

Kind = TypeVar("Kind")

CONVERTERS: dict[str, Converter] = {}
"""What writes an operator in Relax, where TVM's own importer is wrong or knows less than the graph."""
FUSED_KERNELS: dict[str, FusedKernel] = {}
"""Kernels with epilogues, by operator: each computes as many of the operators that follow as it can."""


def _gather(into: dict[str, Kind], found: dict[str, Kind], family: str) -> None:
    if twice := into.keys() & found:
        raise AssertionError(f"{family} converts {', '.join(sorted(twice))} a second time")
    into |= found


for _module in iter_modules(import_module(__package__ or "").__path__):
    if _module.name != "table":
        _family = vars(import_module(f"{__package__}.{_module.name}"))
        _gather(CONVERTERS, _family.get("CONVERTERS", {}), _module.name)
        _gather(FUSED_KERNELS, _family.get("FUSED_KERNELS", {}), _module.name)
