"""Pipelines as text: `fold-constants,fixpoint(cse,dce),prune-channels{ratio=0.3,skip=head*},quantize{scheme=int8}`.

A step is a pass's name, a preset's, or `module:Name` for a pass class or a rewrite rule of the user's own. Options in
braces are the fields of the pass; a tuple's items are separated by `|`, and values with unusual characters are quoted.
Passes that are made of others, `group` and `fixpoint`, have these in parentheses; a preset with options is a group, and
`fuse{without=fuse-gelu|fuse-bias}` is a preset without some of its passes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pkgutil import walk_packages
from typing import Any, NoReturn, TypeAlias

from ..ir.errors import UsageError
from ..ir.plugins import Plugin, plugins
from ..ir.suggestion import nearest
from .base import Pass
from .group import Group
from .options import format_options, read_options
from .rewrite import RewriteRule, rule_pass

PRESETS: dict[str, str] = {
    "cleanup": "split-sequences,cse,fold-constants,drop-dead-branches,simplify-shapes,remove-identities,"
    "fold-constants,cse,dce",
    "fuse": "fuse-pads,fuse-reshapes,fuse-batch-norm,fuse-bias,fuse-scales,fuse-activations,fuse-gelu,fuse-layer-norm,"
    "fuse-rms-norm,fuse-group-norm,fuse-rotary,fuse-attention,drop-softmax-guards,remove-identities,dce,"
    "fuse-heads,fuse-reshapes,remove-identities,fold-constants,flush-subnormals,cse,dce",
    "int8": "cleanup,fuse,quantize",
    "int8-dynamic": "cleanup,fuse,quantize{scheme=int8-dynamic}",
}
"""Pipelines that have a name of their own."""

Step: TypeAlias = str | Pass | Mapping[str, Mapping[str, Any]]
"""Pipeline text, a pass, or one pass or preset by name with its options."""

_TOKEN = re.compile(r'\s*(?:([(){}=,|])|("(?:[^"\\]|\\.)*")|([^\s(){}=,|"]+))')
_MARKS = frozenset("(){}=,|")


@cache
def pass_classes() -> dict[str, type[Pass]]:
    """Every pass of planish's own by name, found by importing this package."""
    package = __package__ or ""
    for module in walk_packages(import_module(package).__path__, f"{package}."):
        import_module(module.name)
    found = {kind.name: kind for kind in _concrete(Pass) if kind.__module__.startswith(f"{package}.")}
    return dict(sorted(found.items()))


def make_pipeline(steps: str | Pass | Sequence[Step]) -> tuple[Pass, ...]:
    """The passes of a pipeline's text, of one pass, or of a list of texts, passes, and `{name: {option: value}}`.

    Raises:
        UsageError: see `parse_pipeline`; of a list, all that is wrong with its steps is told.
    """
    steps = [steps] if isinstance(steps, str | Pass) else steps
    found: list[Pass] = []
    faults: list[str] = []
    for step in steps:
        try:
            if isinstance(step, Pass):
                found.append(step)
            else:
                found += parse_pipeline(step) if isinstance(step, str) else make_passes(*next(iter(step.items())))
        except UsageError as error:
            faults.append(str(error))
    if faults:
        raise UsageError("; ".join(faults))
    return tuple(found)


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """The passes that a pipeline's text stands for, with presets spelled out.

    Raises:
        UsageError: the text is malformed, or a pass or option is unknown; the nearest name is suggested.
    """
    return _Parser(text).pipeline()


def format_pipeline(passes: Sequence[Pass]) -> str:
    """The text of some passes; options at their defaults are left out. `parse_pipeline` reads it back."""
    return ",".join(map(format_pass, passes))


def format_pass(step: Pass) -> str:
    """The text of one pass, such as `quantize{scheme=int8}`."""
    kind = type(step)
    name = step.name if _class_named(step.name) is kind else f"{kind.__module__}:{kind.__qualname__}"
    steps = f"({format_pipeline(step.steps)})" if isinstance(step, Group) else ""
    return name + steps + format_options(step)


def make_passes(name: str, options: Mapping[str, Any], steps: tuple[Pass, ...] | None = None) -> tuple[Pass, ...]:
    """The passes of one step; option values are texts, or values already of the right type.

    Args:
        name: the name of a pass or preset.
        options: the options by name.
        steps: the passes that a group is made of; None for any other pass.

    Raises:
        UsageError: the name or an option is unknown, or a value doesn't fit.
    """
    if name in PRESETS:
        options = dict(options)
        passes = _without(name, options.pop("without", ()))
        return (Group(steps=passes, **read_options(Group, name, options)),) if options else passes
    kind = find_pass(name)
    values = read_options(kind, name, options)
    if not issubclass(kind, Group):
        if steps is not None:
            raise UsageError(f"pass {name} takes no passes in parentheses: only groups do, as in fixpoint(cse,dce)")
        return (kind(**values),)
    if not steps:
        raise UsageError(f"{name} is made of other passes: write them behind it, as in {name}(cse,dce)")
    return (kind(steps=steps, **values),)


def _without(preset: str, names: str | Sequence[str]) -> tuple[Pass, ...]:
    """The passes of a preset without some of them.

    Raises:
        UsageError: a name is not among the preset's passes.
    """
    passes = preset_passes(preset)
    known = {step.name for step in passes}
    left_out = names.split("|") if isinstance(names, str) else names
    for name in left_out:
        if name not in known:
            raise UsageError(f"{preset} has no pass {name!r} to leave out{nearest(name, known)}")
    return tuple(step for step in passes if step.name not in left_out)


@cache
def preset_passes(name: str) -> tuple[Pass, ...]:
    """The passes of a preset: always the same objects, which tells them from those that somebody asks for by name."""
    return parse_pipeline(PRESETS[name])


def find_pass(name: str) -> type[Pass]:
    """The pass class of a name or of `module:Class`; of a rewrite rule, a class that applies it.

    Raises:
        UsageError: there is no such pass.
    """
    if ":" not in name:
        kind = _class_named(name)
        if kind is None:
            known = (*pass_classes(), *plugins("passes"), *PRESETS)
            raise UsageError(f"unknown pass {name!r}{nearest(name, known)}; see `planish passes`")
        return kind
    module_name, _, attribute = name.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"pass {name!r}: there is no module {error.name!r} to import") from error
    except Exception as error:  # whatever the user's module raises
        raise UsageError(f"pass {name!r}: importing its module failed: {type(error).__name__}: {error}") from error
    found = _pass_of(getattr(module, attribute, None), name)
    if isinstance(found, type):
        return found
    if found:
        raise UsageError(f"pass {name!r} {found}")
    known = [key for key, value in vars(module).items() if isinstance(value, RewriteRule | type)]
    raise UsageError(
        f"pass {name!r}: {module_name} has no pass class or rewrite rule {attribute!r}{nearest(attribute, known)}"
    )


def plugged_pass(plugin: Plugin) -> type[Pass]:
    """The pass class that another package brings, or one that applies its rewrite rule.

    Raises:
        UsageError: the object can't be loaded, is neither, or isn't named as its entry point; the package is named.
    """
    found = _pass_of(plugin.load(), plugin.entry.value)
    if isinstance(found, str):
        raise plugin.fault(found or "is neither a pass class nor a rewrite rule")
    if found.name != plugin.entry.name:
        raise plugin.fault(f"is called {found.name!r}, which has to be the name of its entry point")
    return found


def _class_named(name: str) -> type[Pass] | None:
    """The pass class of a name, planish's own or another package's; None where there is none."""
    if name in pass_classes():
        return pass_classes()[name]
    return plugged_pass(plugins("passes")[name]) if name in plugins("passes") else None


def _pass_of(found: Any, reference: str) -> type[Pass] | str:
    """A pass class from what a reference names, or what is wrong with it; nothing if it's neither a pass nor a rule."""
    if isinstance(found, RewriteRule):
        return rule_pass(found, reference)
    if not (isinstance(found, type) and issubclass(found, Pass)):
        return ""
    missing = [*found.__abstractmethods__, *({"name", "effect"} - set(dir(found)))]
    return f"is unfinished: it lacks {', '.join(sorted(missing))}" if missing else found


_DEEPEST = 32
"""How many groups may lie inside one another."""


class _Parser:
    """Reads a pipeline's text from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._at = 0
        self._depth = 0

    def pipeline(self) -> tuple[Pass, ...]:
        passes = self._steps() if self._tokens else ()
        if self._at < len(self._tokens):
            self._fail(f"a comma is missing before {self._next()!r}")
        return passes

    def _steps(self) -> tuple[Pass, ...]:
        passes = self._step()
        while self._accept(",") and self._at < len(self._tokens):
            passes += self._step()
        return passes

    def _step(self) -> tuple[Pass, ...]:
        name = self._next()
        if name in _MARKS or self._at >= len(self._tokens):
            self._fail(f"a pass's name is missing before {name!r}")
        self._at += 1
        steps = None
        if self._accept("("):
            self._depth += 1
            if self._depth > _DEEPEST:
                self._fail(f"more than {_DEEPEST} groups lie inside one another")
            steps = self._steps()
            self._depth -= 1
            if not self._accept(")"):
                self._fail(f"the passes of {name!r} have no closing parenthesis")
        return make_passes(name, self._options(name) if self._accept("{") else {}, steps)

    def _options(self, name: str) -> dict[str, str]:
        try:
            end = self._tokens.index("}", self._at)
        except ValueError:
            self._fail(f"the options of {name!r} have no closing brace")
        tokens, self._at = self._tokens[self._at : end], end + 1
        options: dict[str, str] = {}
        while tokens:
            comma = tokens.index(",") if "," in tokens else len(tokens)
            key, value = tokens[0], tokens[2:comma]
            has_bars_between = set(value[1::2]) <= {"|"} and not {"|", "="} & set(value[::2])
            if comma < 2 or tokens[1] != "=" or not has_bars_between:
                raise UsageError(f"the options of {name!r} are not of the form key=value: {' '.join(tokens)}")
            options[key] = "".join(value)
            tokens = tokens[comma + 1 :]
        return options

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else "the end"

    def _accept(self, mark: str) -> bool:
        is_next = self._at < len(self._tokens) and self._tokens[self._at] == mark
        self._at += is_next
        return is_next

    def _fail(self, reason: str) -> NoReturn:
        raise UsageError(f"{reason} in the pipeline {self._text!r}")


def _tokens(text: str) -> Iterator[str]:
    position, text = 0, text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise UsageError(f"{text[position:]!r} makes no sense in the pipeline {text!r}")
        yield match.group().strip()
        position = match.end()


def _concrete(kind: type[Pass]) -> Iterator[type[Pass]]:
    for child in kind.__subclasses__():
        yield from _concrete(child)
        if isinstance(vars(child).get("name"), str):
            yield child
