"""The recipe: what to build from what, how, and what it may cost; a YAML file, or the flags of `planish build`."""

import json
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..backends import backend_names
from ..ir.errors import UsageError
from ..ir.files import fit_name
from ..ir.suggestion import nearest
from ..passes import units
from ..passes.base import Pass
from ..passes.pipeline import make_pipeline
from ..passes.verification import EVERYTHING, Verification
from .user_code import suggestion
from .yaml_file import read_yaml


def _fraction(text: str | float) -> float:
    return units.parse(text, units.PARTS)


def _seconds(text: str | float) -> float:
    return units.parse(text, units.SECONDS)


def _bytes(text: str | float) -> float:
    return units.parse(text, units.BYTES)


def _steps(entries: Any) -> Any:
    """Refuse what is neither `name` nor `name: {option: value}`, in words that pydantic doesn't have."""
    if not isinstance(entries, list | tuple):
        raise ValueError("expected a list of passes")  # noqa: TRY004 -- pydantic reports no other
    for entry in cast("Sequence[Any]", entries):
        options = list(cast("dict[str, Any]", entry).values()) if isinstance(entry, dict) else []
        if isinstance(entry, str) or (len(options) == 1 and isinstance(options[0], dict)):
            continue
        raise ValueError(f"expected `name` or `name: {{option: value}}`, got {entry!r}")
    return cast("Any", entries)


def _source(given: Any) -> Any:
    """A factory with options, `{model.py:build: {width: 16}}`, as one text."""
    if not isinstance(given, dict):
        return given
    (name, options), *others = cast("dict[Any, Any]", given).items() or [(None, None)]
    if others or not isinstance(options, dict):
        raise ValueError(f"expected `file.py:factory` or `file.py:factory: {{option: value}}`, got {given!r}")
    return f"{name}{json.dumps(options)}"


def _backend(name: str) -> str:
    names = ("auto", *backend_names())
    if name not in names:
        raise ValueError(f"unknown backend {name!r}{nearest(name, names)}")
    return name


def _verification(given: Any) -> Any:
    if not isinstance(given, Verification | str | dict):
        # pydantic reports no other error
        raise ValueError(f"expected a level, or settings by name, got {given!r}")  # noqa: TRY004
    try:
        return Verification.of(cast("Any", given))
    except UsageError as error:
        raise ValueError(str(error)) from None


Place = Annotated[str, BeforeValidator(fit_name)]
"""A file, or a reference to an object in one."""

Source = Annotated[str, BeforeValidator(fit_name), BeforeValidator(_source)]
"""A file, or a factory with its options."""

Step: TypeAlias = str | dict[str, dict[str, Any]]
"""Pipeline text, or one pass with its options."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sources(_Section):
    """References to the data; see `driver/data.py` for what they may be.

    Attributes:
        calibration: batches that passes observe and train on.
        evaluation: batches with labels, which no pass sees; the metric is computed on them.
        metric: a built-in one, or `module:function`.
    """

    calibration: Source | None = None
    evaluation: Source | None = None
    metric: Place = "accuracy"


class Budget(_Section):
    """What the artifact may cost; what isn't given isn't checked.

    Attributes:
        metric_drop: how far the metric may get worse, on its own scale: `1%` is 0.01.
        latency: median of one inference, in seconds once parsed.
        size: of the model's files, in bytes once parsed.
    """

    metric_drop: Annotated[float, BeforeValidator(_fraction)] | None = None
    latency: Annotated[float, BeforeValidator(_seconds)] | None = None
    size: Annotated[float, BeforeValidator(_bytes)] | None = None


class Recipe(_Section):
    """A build.

    Attributes:
        model: `.onnx`, `.pt2`, `.planish`, `file.py:factory`, `package.module:factory`, `torchvision:NAME`, `timm:NAME`
            or `hf:FOLDER`; what is built by a function, with its options.
        data: for calibration, evaluation, and the metric.
        target: `native`, the name of one in targets/, or a TOML file.
        backend: the runtime, or `auto` for the one that is measured to be faster.
        tuned: what `planish tune` has written for the TVM backend; None for its estimates.
        passes: in order.
        budget: what the artifact has to meet.
        output: the artifact's folder.
        seed: for whatever is random.
        verify: what is checked, and how strictly: a level, or `{level, rtol, atol, probes, edges}`.
        folder: what relative paths are relative to.
        name: of the recipe in messages.
    """

    model: Source
    data: Sources = Sources()
    target: Place = "native"
    backend: Annotated[str, AfterValidator(_backend)] = "auto"
    tuned: Annotated[Path, BeforeValidator(fit_name)] | None = None
    passes: Annotated[tuple[Step, ...], BeforeValidator(_steps)] = ("cleanup", "fuse")
    budget: Budget = Budget()
    output: Annotated[Path, BeforeValidator(fit_name)] = Path("dist")
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    verify: Annotated[Verification, BeforeValidator(_verification)] = EVERYTHING
    folder: Path = Field(default=Path(), exclude=True)
    name: str = Field(default="the command line", exclude=True)

    @property
    def database(self) -> Path | None:
        """The path of the database of tuned kernels, `tuned`; None if the recipe names none."""
        return None if self.tuned is None else self.folder / self.tuned

    @property
    def machine(self) -> str:
        """The target as `load_target` takes it: a name, or the path of a file in the recipe's folder."""
        file = self.folder / self.target
        return str(file) if file.is_file() else self.target

    def pipeline(self) -> tuple[Pass, ...]:
        """The passes; modules of the user's own must be importable (see `reference.isolated_imports`).

        Raises:
            UsageError: a pass or option is unknown, or a value doesn't fit.
        """
        return make_pipeline(self.passes)


def chosen_recipe(reference: str, flags: dict[str, Any]) -> Recipe:
    """The recipe of a file, or of a model and flags; for a file, flags may change where, for what and how it builds.

    Raises:
        UsageError: see `read_recipe`, or a flag that doesn't go with a recipe.
    """
    if Path(reference).suffix not in (".yaml", ".yml"):
        return make_recipe({"model": reference, **flags})
    if others := sorted(flags.keys() - {"target", "backend", "tuned", "output", "verify", "seed"}):
        raise UsageError(
            f"a recipe says itself what its {', '.join(others)} are; only -t, -b, --tuned, --verify, --seed and -o "
            "go with one"
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


def told(name: str, faults: Sequence[str]) -> str:
    """Mistakes as one message: a lone one as it is, several a line each."""
    if len(faults) == 1:
        return f"{name}: {faults[0]}"
    return "\n".join([f"{name} has {len(faults)} mistakes:", *(f"  {fault}" for fault in faults)])


def _others(content: Mapping[str, Any], bad: Collection[Any]) -> list[str]:
    """What is wrong with the keys that are read, where others can't be."""
    rest = {key: value for key, value in content.items() if key not in bad}
    if "model" not in rest:
        return []
    mistakes = import_module(".mistakes", __package__).mistakes  # which stands on this, and on much else
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
    sections: dict[tuple[int | str, ...], type[_Section]] = {(): Recipe, ("data",): Sources, ("budget",): Budget}
    known = sections[path].model_fields
    return [name for name, field in known.items() if not field.exclude]
