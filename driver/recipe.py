"""The recipe: what to build from what, how, and what it may cost; a YAML file, or the flags of `planish build`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ..backends import backend_names
from ..ir.errors import UsageError
from ..ir.files import fit_name
from ..ir.suggestion import nearest
from ..passes import units
from ..passes.base import Pass
from ..passes.pipeline import make_pipeline
from ..passes.verification import DEFAULT, Verification


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


def _passes(given: Any) -> Any:
    return given if given == "auto" else _steps(given)


def _source(given: Any) -> Any:
    """A factory with options, `{model.py:build: {width: 16}}`, as one text."""
    if not isinstance(given, dict):
        return given
    (name, options), *others = cast("dict[Any, Any]", given).items() or [(None, None)]
    if others or not isinstance(options, dict):
        raise ValueError(
            f"expected `file` or `file.py:factory`, or either with options, `name: {{key: value}}`, got {given!r}"
        )
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


Fraction = Annotated[float, BeforeValidator(_fraction, json_schema_input_type=float | str)]
"""A number from 0 to 1, or per cent as in `1%`."""

Place = Annotated[str, BeforeValidator(fit_name)]
"""A file, or a reference to an object in one."""

Source = Annotated[
    str,
    BeforeValidator(fit_name),
    BeforeValidator(_source, json_schema_input_type=str | dict[str, dict[str, Any]]),
]
"""A file or a factory, with its options."""

Step: TypeAlias = str | dict[str, dict[str, Any]]
"""Pipeline text, or one pass with its options."""

DEFAULT_STEPS: tuple[Step, ...] = ("cleanup", "fuse")
"""The passes of a recipe that names none."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sources(_Section):
    """References to the data; see `driver/data.py` for what they may be.

    Attributes:
        calibration: batches that passes observe and train on.
        evaluation: batches which no pass sees, with labels unless the metric is `agreement`; it is computed on them.
        metric: a built-in metric, or `module:function`.
    """

    calibration: Source | None = None
    evaluation: Source | None = None
    metric: Place = "accuracy"


class Budget(_Section):
    """What the artifact may cost; what isn't given isn't checked.

    Attributes:
        metric_drop: how far the metric may get worse, on its own scale: `1%` is 0.01.
        latency: the largest median latency of one inference, in seconds once parsed.
        size: the largest size of the model's files, in bytes once parsed.
    """

    metric_drop: Fraction | None = None
    latency: Annotated[float, BeforeValidator(_seconds, json_schema_input_type=float | str)] | None = None
    size: Annotated[float, BeforeValidator(_bytes, json_schema_input_type=float | str)] | None = None


class Bounds(_Section):
    """How far the artifact may be from a model or an older artifact; see `driver/gate.py`.

    Attributes:
        against: the folder of an artifact, or a model. Where it is the recipe's own output, a first build has nothing
            to be held to.
        max_drop: how far the metric may get worse, on its own scale.
        min_cosine: the least cosine similarity between an output and the same output of the other model.
        max_slower: the share of the other's latency by which it may be slower.
        max_larger: the share of the other's size by which it may be larger.
    """

    against: Place
    max_drop: Fraction | None = None
    min_cosine: Annotated[float, Field(le=1)] | None = None
    max_slower: Fraction | None = None
    max_larger: Fraction | None = None


class Search(_Section):
    """What a search tries behind the recipe's passes; see `driver/search.py`.

    Attributes:
        goal: what is to be best within the budget.
        minutes: how long the search may take: no plan is begun that is expected to exceed it.
        confidence: the confidence with which the evaluation data have to show that the budget is kept; 0.5 goes by the
            drop itself.
        passes: lists of passes, in order; one pass of each list is taken, or none. A pass that may be taken twice
            stands in two lists.
    """

    goal: Literal["latency", "size"] = "latency"
    minutes: Annotated[float, Field(gt=0)] = 60.0
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.975
    passes: tuple[Annotated[tuple[Step, ...], BeforeValidator(_steps)], ...] = (
        ({"prune-channels": {"flops": 0.25}}, {"prune-channels": {"flops": 0.5}}, {"prune-channels": {"flops": 0.7}}),
        ("factorize",),
        ("distill",),
        ("quantize", {"quantize": {"scheme": "int8-dynamic"}}),
    )


class Recipe(_Section):
    """A build.

    Attributes:
        model: `.onnx`, `.pt2`, `.planish`, `file.py:factory`, `package.module:factory`, `torchvision:NAME`, `timm:NAME`
            or `hf:FOLDER`, with options; those of files are sizes for symbolic dimensions, and values for inputs.
        data: the data for calibration and evaluation, and the metric.
        target: `native`, the name of one in targets/, or a TOML file.
        backend: the runtime, or `auto` for the one that is measured to be faster within the budget, or for the one
            whose files are smaller where the search's goal is `size`.
        tuned: what `planish tune` has written for the TVM backend; None for its estimates.
        passes: the passes, in order; `auto` for those that a search chooses.
        budget: what the artifact has to meet.
        gate: how far it may be from a model or an older artifact.
        search: what `planish search` tries behind the passes, as does a build whose passes are `auto`.
        output: the artifact's folder.
        bundle_runtime: whether the artifact carries what runs it, as far as it can; see docs/runtime.md.
        seed: the seed of all random numbers.
        verify: what is checked, and how strictly: a level, or `{level, rtol, atol, probes, edges}`.
        folder: what relative paths are relative to.
        name: what messages call the recipe.
    """

    model: Source
    data: Sources = Sources()
    target: Place = "native"
    backend: Annotated[str, AfterValidator(_backend)] = "auto"
    tuned: Annotated[Path, BeforeValidator(fit_name)] | None = None
    passes: Annotated[Literal["auto"] | tuple[Step, ...], BeforeValidator(_passes)] = DEFAULT_STEPS
    budget: Budget = Budget()
    gate: Bounds | None = None
    search: Search = Search()
    output: Annotated[Path, BeforeValidator(fit_name)] = Path("dist")
    bundle_runtime: bool = False
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    verify: Annotated[Verification, BeforeValidator(_verification, json_schema_input_type=str | dict[str, Any])] = (
        DEFAULT
    )
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

    @property
    def steps(self) -> tuple[Step, ...]:
        """The passes that are known before a search, and that all of its plans begin with."""
        return DEFAULT_STEPS if self.passes == "auto" else self.passes

    def pipeline(self) -> tuple[Pass, ...]:
        """The passes of `steps`; modules of the user's own must be importable (see `user_code.isolated_imports`).

        Raises:
            UsageError: a pass or option is unknown, or a value doesn't fit.
        """
        return make_pipeline(self.steps)
