"""Reading recipes: from a YAML file, or from the flags of `planish build`; all of their mistakes are told at once."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from ..ir.errors import UsageError
from ..ir.suggestion import did_you_mean
from .mistakes import mistakes, told
from .recipe import Bounds, Budget, Recipe, Search, Sources
from .variables import Fault, declared, references, resolve
from .yaml_file import parse_yaml, read_yaml

_MOST_INCLUDED = 20
"""The most recipes that include each other."""

_WITH_A_RECIPE = {"target", "backend", "tuned", "output", "bundle_runtime", "verify", "seed"}
"""The keys of a recipe that flags replace."""


def chosen_recipe(reference: str, flags: dict[str, Any], settings: Sequence[str] = ()) -> Recipe:
    """The recipe of a file, or of a model and flags; for a file, flags may change where, for what and how it builds.

    Args:
        reference: the file of a recipe, or a model.
        flags: the values given on the command line, by the recipe's keys.
        settings: texts such as `passes.2.ratio=0.4`, which change single values.

    Raises:
        UsageError: see `read_recipe`, or a flag that doesn't go with a recipe.
    """
    if Path(reference).suffix not in (".yaml", ".yml"):
        return make_recipe({"model": reference, **flags}, settings=settings)
    if others := sorted(flags.keys() - _WITH_A_RECIPE):
        raise UsageError(
            f"a recipe sets its own {', '.join(others)}: edit it, or give --set KEY=VALUE; only -t, -b, --tuned, "
            "--bundle-runtime, --verify, --seed and -o override a recipe"
        )
    for key in ("output", "tuned"):
        if key in flags:
            flags[key] = flags[key].absolute()
    if "target" in flags and Path(flags["target"]).is_file():
        flags["target"] = str(Path(flags["target"]).absolute())
    return read_recipe(Path(reference), flags, settings)


def read_recipe(
    path: Path, overrides: Mapping[str, Any] = MappingProxyType({}), settings: Sequence[str] = ()
) -> Recipe:
    """Read a recipe from a YAML file; relative paths in it are relative to its folder.

    Args:
        path: the path of the file.
        overrides: values that replace those of the file.
        settings: texts such as `passes.2.ratio=0.4`, which change single values.

    Raises:
        UsageError: no such file, not YAML, an unknown key or variable, or a value that makes no sense.
    """
    content, included = _read(path, ())
    optional = included | references(content)  # a setting may replace the only reference to a variable
    for setting in settings:
        set_value(content, setting)
    content, faults = resolve(content, optional)
    return make_recipe({**content, **overrides, "folder": path.parent, "name": str(path)}, faults)


def set_value(content: dict[str, Any], setting: str) -> None:
    """Change a value of a recipe by a text such as `budget.latency=5ms`, `passes.2.ratio=0.4` or `data.metric=f1`.

    Steps of the list of passes have numbers from 0, or the name of a pass that is there once; what follows is an
    option of it.

    Raises:
        UsageError: there is no such step, or the text is of another form.
    """
    place, equals, text = setting.partition("=")
    *keys, last = place.split(".")
    if not equals or not all((*keys, last)):
        raise UsageError(f"--set {setting} is not of the form key.key=value")
    at: Any = content
    for key in keys:
        at = _step(at, key, setting) if isinstance(at, list) else at.setdefault(key, {})
        if not isinstance(at, dict | list):
            raise UsageError(f"--set {setting}: {key} has no keys")
    if isinstance(at, list):
        raise UsageError(f"--set {setting} names no option: write passes.{last}.OPTION=VALUE")
    at[last] = parse_yaml(text, f"--set {setting}")


def _step(steps: list[Any], key: str, setting: str) -> dict[str, Any]:
    """The options of a step of a pipeline."""
    names = [next(iter(step)) if isinstance(step, dict) else step for step in steps]
    found = [number for number, name in enumerate(names) if key in (str(number), name)]
    if len(found) != 1:
        raise UsageError(
            f"--set {setting}: {len(found)} steps are called {key}; there are {', '.join(map(str, names))}"
        )
    number = found[0]
    if not isinstance(steps[number], dict):
        steps[number] = {steps[number]: {}}
    return steps[number].setdefault(names[number], {})


def _read(path: Path, including: tuple[Path, ...]) -> tuple[dict[str, Any], set[str]]:
    """The keys of a recipe on top of those that it includes, and the variables that it doesn't set itself.

    Sections are merged, everything else is replaced.
    """
    if not path.exists():
        raise UsageError(f"there is no recipe {path}")
    if path.resolve() in including or len(including) > _MOST_INCLUDED:
        raise UsageError(f"{path} includes itself, or too many others")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not a recipe: it holds no keys")
    content = cast("dict[str, Any]", content)
    reserved = {"folder", "name"} & content.keys()  # set here, not by users
    if reserved:
        raise UsageError(f"{path}: unknown key {min(reserved)!r}")
    included = content.pop("include", None)
    if included is None:
        return content, set()
    if not isinstance(included, str):
        raise UsageError(f"{path}: 'include' names one other recipe, not {included!r}")
    base, _ = _read(path.parent / included, (*including, path.resolve()))
    sections = {key: {**base[key], **value} for key, value in content.items() if _are_sections(base.get(key), value)}
    return {**base, **content, **sections}, declared(base).keys() - declared(content).keys()


def _are_sections(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


def make_recipe(content: dict[str, Any], faults: Sequence[Fault] = (), settings: Sequence[str] = ()) -> Recipe:
    """A recipe from plain values.

    Args:
        content: the recipe's keys; settings change them.
        faults: the mistakes that are known; whatever else is wrong with the keys that hold them isn't told.
        settings: texts such as `passes.2.ratio=0.4`, which change single values.

    Raises:
        UsageError: an unknown key, with the nearest known one, or a value that makes no sense.
    """
    for setting in settings:
        set_value(content, setting)
    found, bad = [fault for _, fault in faults], {key for key, _ in faults}
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        problems = [problem for problem in error.errors() if problem["loc"][0] not in bad]
        found += [_explain(problem["loc"], problem) for problem in problems]
        bad |= {str(problem["loc"][0]) for problem in problems}
    else:
        if not faults:
            return recipe
    raise UsageError(told(str(content.get("name", "the command line")), found + _others(content, bad)))


def _others(content: Mapping[str, Any], bad: Collection[Any]) -> list[str]:
    """What is wrong with the keys that can be read, where others can't."""
    rest = {key: value for key, value in content.items() if isinstance(key, str) and key not in bad}
    if "model" not in rest:
        return []
    return [str(fault) for fault in mistakes(Recipe.model_validate(rest))]


def _explain(path: tuple[int | str, ...], problem: Any) -> str:
    key = ".".join(map(str, path))
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}{did_you_mean(str(path[-1]), _keys(path[:-1]))}"
    if problem["type"] == "missing":
        return f"the key {key!r} is missing"
    return f"{key!r}: {problem['msg'].removeprefix('Value error, ')}"


def _keys(path: tuple[int | str, ...]) -> list[str]:
    """The keys that a section of the recipe knows."""
    sections: dict[tuple[int | str, ...], type[BaseModel]] = {
        (): Recipe,
        ("data",): Sources,
        ("budget",): Budget,
        ("gate",): Bounds,
        ("search",): Search,
    }
    known = sections[path].model_fields
    names = [name for name, field in known.items() if not field.exclude]
    return names if path else [*names, "include", "variables"]
