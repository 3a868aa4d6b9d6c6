"""What there is: passes and targets, as `planish passes` and `planish targets` print them."""

import math
import sys
from collections.abc import Iterator, Mapping
from textwrap import fill
from typing import TYPE_CHECKING, Any

from ..ir.errors import UsageError
from ..ir.plugins import plugins
from ..passes.base import Effect
from ..passes.options import Option, format_value, options_of
from ..passes.pipeline import PRESETS, find_pass, pass_classes, plugged_pass
from .docstrings import attributes_of, summary_of, text_of

if TYPE_CHECKING:
    from ..targets import Target
    from ..targets.load import Detection

_CONTRACT = ("after", "needs", "establishes", "destroys")
_UNITS = {"B": "in bytes, or as in 64KiB", "s": "in seconds, or as in 5ms", "1": "or as in 30%"}
_WIDTH = 100


def passes() -> dict[str, str]:
    """One line for each pass and preset; those of other packages say which."""
    lines = {name: summary_of(kind) for name, kind in pass_classes().items()}
    for name, plugin in plugins("passes").items():
        if name in lines:
            continue
        try:
            lines[name] = f"{summary_of(plugged_pass(plugin))} (of {plugin.package})"
        except UsageError as error:  # one package that is broken shouldn't hide the others
            lines[name] = f"error: {error}"
    return dict(sorted(lines.items())) | {name: f"preset: {text}" for name, text in PRESETS.items()}


def describe_pass(name: str) -> dict[str, Any]:
    """A pass's contract, its options, and what its class and module say.

    Raises:
        UsageError: there is none of that name; the nearest is suggested.
    """
    if name in PRESETS:
        return {"name": name, "passes": PRESETS[name].split(",")}
    kind = find_pass(name)
    plugin = None if name in pass_classes() else plugins("passes").get(name)
    described = attributes_of(kind)
    return {
        "name": kind.name,
        "documentation": text_of(kind),
        "effect": kind.effect.value,
        **({"max_drift": kind.max_drift} if kind.effect is Effect.LOSSY and math.isfinite(kind.max_drift) else {}),
        **{word: sorted(words) for word in _CONTRACT if (words := getattr(kind, word))},
        "module": kind.__module__,
        "about": (sys.modules[kind.__module__].__doc__ or "").strip(),
        **({} if plugin is None else {"package": plugin.package}),
        "options": {
            option.name: {
                "default": option.default,
                "values": _values(option),
                "description": described.get(option.name, ""),
            }
            for option in options_of(kind).values()
        },
    }


def _values(option: Option) -> str:
    """What an option may be: `a number above 0 and below 1, or as in 30%`."""
    if option.choices:
        return "|".join(option.choices)
    words = (f"{option.kind} {option.range}".strip(), _UNITS.get(option.unit, ""))
    return ", ".join(filter(None, words))


def explain_pass(name: str) -> str:
    """Describe a pass or a preset as text.

    Raises:
        UsageError: there is none of that name; the nearest is suggested.
    """
    described = describe_pass(name)
    return "\n".join(_preset(described) if "passes" in described else _page(described))


def _preset(described: Mapping[str, Any]) -> Iterator[str]:
    yield f"{described['name']} is short for"
    yield from (f"  {step}" for step in described["passes"])


def _page(described: Mapping[str, Any]) -> Iterator[str]:
    yield from (described["name"], "", *_paragraphs(described["documentation"]), "")
    for word in ("effect", "max_drift", *_CONTRACT, "module", "package"):
        if word in described:
            value = described[word]
            yield f"{word:13}{', '.join(value) if isinstance(value, list) else value}"
    yield from ("", *_paragraphs(described["about"]), "", "options")
    for name, option in described["options"].items():
        default = format_value(option["default"]) if option["default"] not in ("", ()) else ""
        yield f"  {name}{default and f'={default}'}  {option['values']}"
        yield from _paragraphs(option["description"], "      ")


def _paragraphs(text: str, indent: str = "") -> Iterator[str]:
    """Text that is wrapped anew; indented lines stay as they are."""
    for number, paragraph in enumerate(filter(None, text.split("\n\n"))):
        if number:
            yield ""
        as_it_is = paragraph.startswith(" ")
        yield paragraph if as_it_is else fill(paragraph, _WIDTH, initial_indent=indent, subsequent_indent=indent)


def targets() -> dict[str, str]:
    """One line for each target, `native` first; those of other packages say which."""
    from ..targets.load import load_target, target_names

    lines = {name: load_target(name).description for name in ("native", *target_names())}
    for name, plugin in plugins("targets").items():
        if name in lines:
            continue
        try:
            lines[name] = f"{load_target(name).description} (of {plugin.package})"
        except UsageError as error:  # as above
            lines[name] = f"error: {error}"
    return lines


def _detected(found: "Detection", target: "Target") -> dict[str, Any]:
    from ..backends import backend_names, find_backend
    from ..targets.features import FEATURES, closed

    usable = {name for name in found.hidden if name in FEATURES[target.architecture]}
    dead = sorted(found.unfounded)
    cut = {name: sorted(closed(target.architecture, [name]) - found.cpu.features) for name in dead}
    backends = [backend for backend in map(find_backend, backend_names()) if backend.available() is None]
    return {
        "detected": f"{found.cpu.vendor or 'unknown vendor'}, the most like {found.nearest}",
        "masked": sorted(usable),
        "masked without effect": sorted(found.hidden - usable),
        **({"shown but without foundation": cut} if cut else {}),
        **{f"kernels of {backend.name}": dict(backend.kernels(target)) for backend in backends if backend.native},
    }


def describe_target(name: str) -> dict[str, Any]:
    """What a target can do; of one that was made from a CPU's description, also what was detected and what follows.

    Raises:
        UsageError: there is none of that name; the nearest is suggested.
    """
    from ..targets.load import (
        detection,
        load_target,
        target_names,
    )  # look at the machine, which listing the passes needn't

    target = load_target(name)
    plugin = None if name in ("native", *target_names()) else plugins("targets").get(name)
    found = detection(name)
    return {
        "name": target.name,
        "description": target.description,
        **({} if plugin is None else {"package": plugin.package}),
        "architecture": target.architecture,
        **({} if found is None else _detected(found, target)),
        "mcpu": target.mcpu,
        "features": sorted(target.features),
        "threads": target.threads,
        "fused": {backend: sorted(names) for backend, names in target.fused.items()},
        "int8": None
        if target.int8 is None
        else {
            "activation": target.int8.activation,
            "weight_bits": target.int8.weight_bits,
            "operators": {backend: sorted(names) for backend, names in target.int8.operators.items()},
            "dynamic_operators": {backend: sorted(names) for backend, names in target.int8.dynamic_operators.items()},
        },
        "weights": {
            str(bits): {backend: sorted(names) for backend, names in kernels.items()}
            for bits, kernels in target.weights.items()
        },
    }
