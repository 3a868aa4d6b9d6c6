"""What there is: passes and targets, as `planish passes` and `planish targets` print them."""

import inspect
from typing import Any

from ..passes.base import Pass
from ..passes.options import Option, format_value, options_of
from ..passes.pipeline import PRESETS, find_pass, pass_classes

_CONTRACT = ("needs", "establishes", "destroys")


def passes() -> dict[str, str]:
    """One line for each pass and preset."""
    lines = {name: _summary(kind) for name, kind in pass_classes().items()}
    return lines | {name: f"preset: {text}" for name, text in PRESETS.items()}


def describe_pass(name: str) -> dict[str, Any]:
    """A pass's contract, options with their defaults, and documentation.

    Raises:
        UsageError: there is none of that name; the nearest is suggested.
    """
    if name in PRESETS:
        return {"name": name, "passes": PRESETS[name].split(",")}
    kind = find_pass(name)
    return {
        "name": kind.name,
        "effect": kind.effect.value,
        "after": list(kind.after),
        **{word: sorted(words) for word in _CONTRACT if (words := getattr(kind, word))},
        "options": {option.name: _describe(option) for option in options_of(kind).values()},
        "documentation": inspect.getdoc(kind) or "",
    }


def targets() -> dict[str, str]:
    """One line for each target, `native` first."""
    from ..targets.load import load_target, target_names

    return {name: load_target(name).description for name in ("native", *target_names())}


def describe_target(name: str) -> dict[str, Any]:
    """What a target can do.

    Raises:
        UsageError: there is none of that name; the nearest is suggested.
    """
    from ..targets.load import load_target  # looks at the machine, which listing the passes needn't

    target = load_target(name)
    return {
        "name": target.name,
        "description": target.description,
        "architecture": target.architecture,
        "mcpu": target.mcpu,
        "features": sorted(target.features),
        "threads": target.threads,
        "int8": None
        if target.int8 is None
        else {
            "activation": target.int8.activation,
            "weight_bits": target.int8.weight_bits,
            "operators": {backend: sorted(names) for backend, names in target.int8.operators.items()},
            "dynamic_operators": {backend: sorted(names) for backend, names in target.int8.dynamic_operators.items()},
        },
    }


def _summary(kind: type[Pass]) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def _describe(option: Option) -> str:
    """The default, and what else there may be: `0.5 (above 0 and below 1)`."""
    default = format_value(option.default) or "none"
    limits = "|".join(option.choices) or option.range
    return f"{default} ({limits})" if limits else default
