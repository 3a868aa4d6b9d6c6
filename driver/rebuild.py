"""Whether an artifact's recipe still makes the same of the same inputs: `planish verify --rebuild`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from ..backends.manifest import read_manifest
from ..ir.drafts import workspace
from ..ir.errors import ModelError
from .build import build
from .recipe import Recipe
from .recipe_file import make_recipe
from .reporter import Reporter

_OWN = ("recipe", "sha256", "signature")
"""What a manifest says of itself, and of how far the artifact had to be checked."""


def differences(directory: Path, folder: Path, reporter: Reporter) -> list[str]:
    """Build an artifact again, by the times that its passes were told, and say what differs from it.

    Neither the budget nor the gate of the recipe is checked, since what was built has met them.

    Args:
        directory: the artifact's folder.
        folder: the folder that the files in its recipe are relative to.
        reporter: the reporter that is told of progress.

    Raises:
        ModelError: it is no artifact, or wasn't built from a recipe.
        PlanishError: see `build.build`.
    """
    before = read_manifest(directory)
    recipe = _recipe(directory, before, folder)
    with workspace() as scratch:
        build(recipe.model_copy(update={"output": scratch / "again"}), reporter, times=directory)
        after = dict(_leaves(read_manifest(scratch / "again")))
    known = dict(_leaves(before))
    return [
        f"{name} is {after.get(name, 'missing')} in what was built again, and was {known.get(name, 'missing')}"
        for name in sorted(known.keys() | after.keys())
        if known.get(name) != after.get(name)
    ]


def _recipe(directory: Path, manifest: Mapping[str, Any], folder: Path) -> Recipe:
    """The recipe that an artifact was built from, without its budget and its gate.

    Raises:
        ModelError: there is none in its manifest.
        UsageError: this version doesn't understand it.
    """
    if "recipe" not in manifest:
        raise ModelError(f"{directory} wasn't built from a recipe, so it can't be built again")
    kept = {key: value for key, value in manifest["recipe"].items() if key not in ("budget", "gate")}
    return make_recipe({**kept, "folder": folder.absolute(), "name": f"the recipe in {directory}"})


def _leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Each single value of a manifest, by its path."""
    if isinstance(content, dict) and content:
        for key, value in cast("dict[str, Any]", content).items():
            if name or key not in _OWN:
                yield from _leaves(value, f"{name}.{key}" if name else key)
    else:
        yield name, content
