"""The instruments that a user asks for by name or by flags."""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from ..ir.errors import UsageError
from ..ir.plugins import plugins
from ..ir.suggestion import nearest
from ..passes import instruments as package
from ..passes.instrument import Instrument
from ..passes.instruments.dump import Dump
from .user_code import call, resolve


def make_instruments(names: Sequence[str], dump_dir: Path | None = None) -> list[Instrument]:
    """The instruments that watch the passes, besides those that the command itself needs.

    Args:
        names: the names of planish's own instruments or other packages', or `module:Class` and `file.py:Class`.
        dump_dir: folder for the graph after each pass; None for none.

    Raises:
        UsageError: there is no instrument of a name; the nearest is suggested.
        ModelError: the user's class fails when it is made.
    """
    made = [_make(name) for name in dict.fromkeys(names)]
    return made if dump_dir is None else [Dump(dump_dir), *made]


@cache
def instrument_classes() -> dict[str, type[Instrument]]:
    """Every instrument of planish's own that has a name, by name."""
    modules = [import_module(f"{package.__name__}.{module.name}") for module in iter_modules(package.__path__)]
    kinds = [kind for module in modules for kind in vars(module).values() if _is_instrument(kind)]
    return {kind.name: kind for kind in kinds if kind.name}


def _make(name: str) -> Instrument:
    own, others = instrument_classes(), plugins("instruments")
    if name in own:
        return own[name]()
    if ":" in name:
        kind = resolve(name, Path())
        if not _is_instrument(kind):
            raise UsageError(f"the instrument {name} is no subclass of planish.Instrument")
    elif name in others:
        kind = others[name].load()
        if not _is_instrument(kind):
            raise others[name].fault("is no subclass of planish.Instrument")
    else:
        raise UsageError(f"unknown instrument {name!r}{nearest(name, (*own, *others))}")
    return call(name, kind)


def _is_instrument(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Instrument)
