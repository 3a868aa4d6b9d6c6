"""Variables of recipes: `${ratio}` in a text stands for the value of that name in the section `variables`."""

import re
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from typing import Any, TypeAlias, cast

from ..ir.suggestion import did_you_mean, nearest

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}|\$\{")
"""An escaped `${`, a reference to a variable, or a reference without an end."""

_KeyPath: TypeAlias = tuple[int | str, ...]
Fault: TypeAlias = tuple[str, str]
"""The key of a recipe that holds a mistake, and the message."""


def declared(content: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a recipe by name; none where `variables` isn't a section."""
    section = content.get("variables")
    return {str(name): value for name, value in section.items()} if isinstance(section, dict) else {}


def references(content: Mapping[str, Any]) -> set[str]:
    """The names of the variables that a recipe refers to."""
    substitution = _Substitution({})
    substitution.of(content)
    return substitution.used


def resolve(content: Mapping[str, Any], optional: Collection[str]) -> tuple[dict[str, Any], list[Fault]]:
    """Replace the references to variables in a recipe.

    Args:
        content: the keys of the recipe.
        optional: the names of variables that need not be used.

    Returns:
        The keys without `variables`, and the mistakes; a reference to an unknown variable stays as it is.
    """
    variables = declared(content)
    substitution = _Substitution(variables)
    resolved = substitution.of({key: value for key, value in content.items() if key != "variables"})
    faults = [
        f"'variables.{name}': expected a text without ${{, a number, true or false"
        for name, value in variables.items()
        if not isinstance(value, str | int | float) or "${" in str(value)
    ]
    faults += [
        f"'variables.{name}' is never used{did_you_mean(name, substitution.used)}"
        for name in sorted(variables.keys() - substitution.used - set(optional))
    ]
    if not isinstance(content.get("variables", {}), dict):
        faults.append("'variables': expected names with their values")
    return resolved, [*(("variables", fault) for fault in faults), *substitution.faults]


def escape(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a recipe that reads as it is now once references to variables are replaced."""
    return _map_texts(content, lambda text, _: text.replace("${", "$${"))


class _Substitution:
    """Replaces references to variables, and notes which are used and what is wrong with them.

    Args:
        variables: the variables by name.
    """

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self.used: set[str] = set()
        self.faults: list[Fault] = []
        self._variables = variables

    def of(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The content of a recipe with values in place of references."""
        return _map_texts(content, self._text)

    def _text(self, text: str, path: _KeyPath) -> Any:
        if (alone := _REFERENCE.fullmatch(text)) is not None:
            return self._value(alone, path)
        return _REFERENCE.sub(lambda reference: _spelled(self._value(reference, path)), text)

    def _value(self, reference: re.Match[str], path: _KeyPath) -> Any:
        """The value of a variable; an unknown reference is its own."""
        text, name = reference[0], reference[1]
        if text == "$${":
            return "${"
        if name is None:
            self._refuse(path, "'${' without '}': write '$${' for a literal one")
            return text
        self.used.add(name)
        if name not in self._variables:
            self._refuse(path, f"unknown variable {name!r}{nearest(name, self._variables)}")
        return self._variables.get(name, text)

    def _refuse(self, path: _KeyPath, reason: str) -> None:
        """Note a mistake by its path as --set takes it, where the options of a pass stand behind its number."""
        keys = [key for before, key in pairwise(("", *path)) if isinstance(key, int) or not isinstance(before, int)]
        self.faults.append((str(path[0]), f"'{'.'.join(map(str, keys))}': {reason}"))


def _spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _map_texts(value: Any, change: Callable[[str, _KeyPath], Any], path: _KeyPath = ()) -> Any:
    """Plain values with what a function makes of each text and its path."""
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {key: _map_texts(item, change, (*path, key)) for key, item in items}
    if isinstance(value, list):
        items = enumerate(cast("list[Any]", value))
        return [_map_texts(item, change, (*path, number)) for number, item in items]
    return change(value, path) if isinstance(value, str) else value
