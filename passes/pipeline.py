"""Pipelines as text: `fold-constants,fuse,prune-channels{ratio=0.3},quantize{scheme=int8}`.

A step is a pass's name, a preset's, or `module:Name` for a pass class or a rewrite rule of the user's own; options in
braces are the fields of the pass. A tuple's items are separated by `|`. Values with unusual characters are quoted.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import walk_packages
from typing import Any, get_type_hints

from ..ir.errors import UsageError
from .base import Pass
from .rewrite import RewriteRule, RulePass

PRESETS: dict[str, str] = {
    "cleanup": "fold-constants,simplify-shapes,remove-identities,cse,dce",
    "fuse": "fuse-batch-norm,fuse-bias,fuse-activations,fuse-gelu,fuse-layer-norm,fold-constants,dce",
}
"""Pipelines that have a name of their own."""

_TOKEN = re.compile(r'\s*(?:([{}=,|])|("(?:[^"\\]|\\.)*")|([^\s{}=,|"]+))')
_ITEM = re.compile(r'"(?:[^"\\]|\\.)*"|[^|]+')
_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", tuple[str, ...]: "texts"}
Options = Mapping[str, Any]


@cache
def pass_classes() -> dict[str, type[Pass]]:
    """Every pass by name: ours, found by importing this package, and those that other packages register."""
    package = __package__ or ""
    for module in walk_packages(import_module(package).__path__, f"{package}."):
        import_module(module.name)
    found = {kind.name: kind for kind in _concrete(Pass) if kind.__module__.startswith(f"{package}.")}
    for entry in entry_points(group="planish.passes"):
        kind = entry.load()
        found[kind.name] = kind
    return dict(sorted(found.items()))


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """The passes that a pipeline's text stands for, with presets spelled out.

    Raises:
        UsageError: the text is malformed, or a pass or option is unknown; the nearest name is suggested.
    """
    return tuple(step for name, options in _steps(text) for step in make_passes(name, options))


def format_pipeline(passes: tuple[Pass, ...]) -> str:
    """The text of some passes; options at their defaults are left out. `parse_pipeline` reads it back."""
    return ",".join(format_pass(step) for step in passes)


def format_pass(step: Pass) -> str:
    """The text of one pass, such as `quantize{scheme=int8}`."""
    options = [
        f"{option.name}={_format(getattr(step, option.name))}"
        for option in options_of(type(step))
        if getattr(step, option.name) != option.default
    ]
    name = step.name if _is_ours(type(step)) else f"{type(step).__module__}:{type(step).__qualname__}"
    name = step.reference if isinstance(step, RulePass) else name
    return name + ("{" + ",".join(options) + "}" if options else "")


def make_passes(name: str, options: Options) -> tuple[Pass, ...]:
    """The passes of one step; option values are texts, or values already of the right type.

    Raises:
        UsageError: the name or an option is unknown, or a value doesn't fit.
    """
    if name in PRESETS:
        if options:
            raise UsageError(f"the preset {name} takes no options; write out its passes instead: {PRESETS[name]}")
        return parse_pipeline(PRESETS[name])
    found = find_pass(name)
    kind = type(found) if isinstance(found, Pass) else found
    types = get_type_hints(kind)
    known = {option.name for option in options_of(kind)}
    for key in options:
        if key not in known:
            raise UsageError(f"pass {name} has no option {key!r}" + _nearest(key, known))
    values = {key: _value(name, key, value, types[key]) for key, value in options.items()}
    return (found if isinstance(found, Pass) else found(**values),)


def find_pass(name: str) -> type[Pass] | Pass:
    """The pass class of a name or of `module:Class`; a rewrite rule comes back as a pass that applies it.

    Raises:
        UsageError: there is none.
    """
    if ":" not in name:
        classes = pass_classes()
        if name not in classes:
            raise UsageError(f"unknown pass {name!r}" + _nearest(name, {*classes, *PRESETS}))
        return classes[name]
    module_name, _, attribute = name.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"pass {name!r}: there is no module {error.name!r} to import") from error
    except Exception as error:  # whatever the user's module raises
        raise UsageError(f"pass {name!r}: importing its module failed: {type(error).__name__}: {error}") from error
    found = getattr(module, attribute, None)
    if isinstance(found, RewriteRule):
        return RulePass(found, name)
    if isinstance(found, type) and issubclass(found, Pass):
        missing = [*found.__abstractmethods__, *({"name", "effect"} - set(dir(found)))]
        if missing:
            raise UsageError(f"pass {name!r} is unfinished: it lacks {', '.join(sorted(missing))}")
        return found
    near = _nearest(attribute, {key for key, value in vars(module).items() if isinstance(value, RewriteRule | type)})
    raise UsageError(f"pass {name!r}: {module_name} has no pass class or rewrite rule {attribute!r}{near}")


def options_of(kind: type[Pass]) -> "tuple[dataclasses.Field[Any], ...]":
    """The options of a pass: its dataclass fields."""
    return dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()


def _steps(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    tokens = _tokens(text)
    position = 0
    while position < len(tokens):
        name = tokens[position]
        if name in "{}=,|":
            raise UsageError(f"a pass's name is missing before {name!r} in the pipeline {text!r}")
        position += 1
        options: dict[str, str] = {}
        if position < len(tokens) and tokens[position] == "{":
            end = tokens.index("}", position) if "}" in tokens[position:] else -1
            if end < 0:
                raise UsageError(f"the options of {name!r} have no closing brace in the pipeline {text!r}")
            options = _options(name, tokens[position + 1 : end])
            position = end + 1
        yield name, options
        if position < len(tokens) and tokens[position] != ",":
            raise UsageError(f"a comma is missing before {tokens[position]!r} in the pipeline {text!r}")
        position += 1


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    position = 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None:
            raise UsageError(f"{text[position:]!r} makes no sense in the pipeline {text!r}")
        tokens.append(match.group().strip())
        position = match.end()
    return tokens


def _options(name: str, tokens: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    while tokens:
        end = tokens.index(",") if "," in tokens else len(tokens)
        key, value = tokens[0], tokens[2:end]
        has_bars_between = set(value[1::2]) <= {"|"} and not {"|", "="} & set(value[::2])
        if end < 2 or tokens[1] != "=" or not has_bars_between:
            raise UsageError(f"the options of {name!r} are not of the form key=value: {' '.join(tokens)}")
        options[key] = "".join(value)
        tokens = tokens[end + 1 :]
    return options


def _value(name: str, key: str, value: Any, type: Any) -> Any:
    """An option's value: text is read as the field's type, anything else must be of it."""
    if type == tuple[str, ...] and isinstance(value, str):
        return tuple(_unquote(item) for item in _ITEM.findall(value))
    if type == tuple[str, ...] and isinstance(value, list | tuple):
        return tuple(map(str, value))
    if type is str and isinstance(value, str):
        return _unquote(value)
    if type is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    try:
        if type is int and not isinstance(value, bool):
            return int(str(value))
        if type is float and not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise UsageError(f"option {key} of pass {name} takes {_TYPES.get(type, type)}, not {value!r}")


def _format(value: Any) -> str:
    if isinstance(value, tuple):
        return "|".join(_format(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and (not value or re.search(r'[\s{}=,|"]', value)):
        return json.dumps(value)
    return str(value)


def _unquote(text: str) -> str:
    try:
        return json.loads(text) if text.startswith('"') else text
    except json.JSONDecodeError as error:
        raise UsageError(f"{text} is no quoted text: {error.msg}") from error


def _nearest(name: str, known: set[str]) -> str:
    if not known:
        return "; it takes none"
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(known))}"


def _is_ours(kind: type[Pass]) -> bool:
    return pass_classes().get(getattr(kind, "name", "")) is kind


def _concrete(kind: type[Pass]) -> Iterator[type[Pass]]:
    for child in kind.__subclasses__():
        yield from _concrete(child)
        if isinstance(vars(child).get("name"), str):
            yield child
