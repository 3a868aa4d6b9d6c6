"""Reading recipes: from a YAML file, or from the flags of `planish build`; all of their mistakes are told at once."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from ..ir.errors import UsageError
from .mistakes import mistakes, told
from .recipe import Budget, Recipe, Sources
from .user_code import suggestion
from .yaml_file import read_yaml

_WITH_A_RECIPE = {"target", "backend", "tuned", "output", "bundle_runtime", "verify", "seed"}
"""The keys of a recipe that flags replace."""


def chosen_recipe(reference: str, flags: dict[str, Any]) -> Recipe:
    """The recipe of a file, or of a model and flags; for a file, flags may change where, for what and how it builds.

    Raises:
        UsageError: see `read_recipe`, or a flag that doesn't go with a recipe.
    """
    if Path(reference).suffix not in (".yaml", ".yml"):
        return make_recipe({"model": reference, **flags})
    if others := sorted(flags.keys() - _WITH_A_RECIPE):
        raise UsageError(
            f"a recipe says itself what its {', '.join(others)} are; only -t, -b, --tuned, --bundle-runtime, "
            "--verify, --seed and -o go with one"
        )
    for key in ("output", "tuned"):
        if key in flags:
            flags[key] = flags[key].absolute()
    if "target" in flags and Path(flags["target"]).is_file():
        flags["target"] = str(Path(flags["target"]).absolute())
    return read_recipe(Path(reference), flags)


def read_recipe(path: Path, overrides: Mapping[str, Any] = MappingProxyType({})) -> Recipe:
    """Read a recipe from a YAML file; relative paths in it are relative to its folder.

    Args:
        path: of the file.
        overrides: values that replace those of the file.

    Raises:
        UsageError: no such file, not YAML, an unknown key, or a value that makes no sense.
    """
    if not path.exists():
        raise UsageError(f"there is no recipe {path}")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not a recipe: it holds no keys")
    reserved = {"folder", "name"} & content.keys()  # set here, not by users
    if reserved:
        raise UsageError(f"{path}: unknown key {min(reserved)!r}")
    return make_recipe({**cast("dict[str, Any]", content), **overrides, "folder": path.parent, "name": str(path)})


def make_recipe(content: dict[str, Any]) -> Recipe:
    """A recipe from plain values.

    Raises:
        UsageError: an unknown key, with the nearest known one, or a value that makes no sense.
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = error.errors()
        faults = [_explain(problem["loc"], problem) for problem in problems]
        bad = {problem["loc"][0] for problem in problems}
        raise UsageError(told(str(content.get("name", "the command line")), faults + _others(content, bad))) from None


def _others(content: Mapping[str, Any], bad: Collection[Any]) -> list[str]:
    """What is wrong with the keys that are read, where others can't be."""
    rest = {key: value for key, value in content.items() if isinstance(key, str) and key not in bad}
    if "model" not in rest:
        return []
    return [str(fault) for fault in mistakes(Recipe.model_validate(rest))]


def _explain(path: tuple[int | str, ...], problem: Any) -> str:
    key = ".".join(map(str, path))
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}{suggestion(str(path[-1]), _keys(path[:-1]))}"
    if problem["type"] == "missing":
        return f"the key {key!r} is missing"
    return f"{key!r}: {problem['msg'].removeprefix('Value error, ')}"


def _keys(path: tuple[int | str, ...]) -> list[str]:
    """The keys that a section of the recipe knows."""
    sections: dict[tuple[int | str, ...], type[BaseModel]] = {(): Recipe, ("data",): Sources, ("budget",): Budget}
    known = sections[path].model_fields
    return [name for name, field in known.items() if not field.exclude]
