"""Commands for the commonest jobs: `planish quantize`, `planish distill`, `planish init` and `planish doctor`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .options import MODEL_HELP, Backend, Data, Folder, Fresh, Json, MaxDrop, Metric, Model, Settings, TargetName
from .output import console, examples, list_entries, print_json, verbosity

if TYPE_CHECKING:
    from .recipe import Recipe

EXAMPLES = {
    "quantize": examples(
        "planish quantize model.onnx -d data.npz --max-drop 1%",
        "planish quantize 'torchvision:resnet18' -d images.py:batches -o resnet18-int8",
        "planish quantize hf:bert -s int8-dynamic",
    ),
    "distill": examples(
        "planish distill big.onnx small.py:build -d data.npz",
        "planish distill hf:big hf:small -d texts.py:batches --feature 'encoder.layer.2->encoder.layer.5' -o small",
    ),
    "init": examples("planish init model.onnx", "planish init model.py:build -d data.npz -o release.yaml"),
    "doctor": examples("planish doctor", "planish doctor --json"),
}
"""What stands below the help of each command, by its name."""


def quantize(
    model: Model,
    data: Data = None,
    scheme: Annotated[
        str | None,
        typer.Option(
            "-s", "--scheme", help="see `planish passes quantize`; by default int8, and int8-dynamic without data"
        ),
    ] = None,
    if_slower: Annotated[
        Literal["revert", "keep"],
        typer.Option(help="where the model gets slower: revert it, which is an error, or keep it for its size"),
    ] = "revert",
    metric: Metric = None,
    max_drop: MaxDrop = None,
    target: TargetName = "native",
    backend: Backend = None,
    output: Folder = None,
    settings: Settings = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Build an artifact with weights and activations in fewer bits, checked and measured.

    Short for `planish build MODEL -p 'cleanup,fuse,quantize{scheme=...}'`.
    """
    from .recipe_file import make_recipe

    options = {"scheme": scheme or ("int8" if data else "int8-dynamic"), "if_slower": if_slower}
    sources = {"calibration": data, "evaluation": data, "metric": metric}
    given = {"target": target, "backend": backend, "output": output}
    recipe = make_recipe(
        {
            "model": model,
            "passes": ["cleanup", "fuse", {"quantize": options}],
            "data": {key: value for key, value in sources.items() if value is not None},
            "budget": {} if max_drop is None else {"metric_drop": max_drop},
            **{key: value for key, value in given.items() if value is not None},
        },
        settings=settings or [],
    )
    tell_build(recipe, fresh=fresh, as_json=as_json)


def distill(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help=MODEL_HELP)],
    student: Annotated[str, typer.Argument(metavar="STUDENT", help="a model with the same inputs")],
    data: Data = None,
    outputs: Annotated[
        list[str] | None, typer.Option("--output-pair", metavar="STUDENT->TEACHER", help="outputs of different names")
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option("--feature", metavar="STUDENT->TEACHER", help="values or layers inside that are to be alike"),
    ] = None,
    epochs: Annotated[int, typer.Option(min=0, help="epochs over the data; 0 for 40, but 600 to 2400 steps")] = 0,
    evaluation: Annotated[str | None, typer.Option(help="data with labels; the metric is computed on them")] = None,
    metric: Metric = None,
    target: TargetName = "native",
    backend: Backend = None,
    output: Folder = None,
    as_json: Json = False,
) -> None:
    """Train a student to imitate a teacher's outputs on data, and build the student.

    Short for `planish build STUDENT -p 'cleanup,distill{teacher=TEACHER},fuse'`.
    """
    from .recipe_file import make_recipe

    taught = {"teacher": teacher, "epochs": epochs, "outputs": outputs or [], "features": features or []}
    sources = {"calibration": data, "evaluation": evaluation, "metric": metric}
    given = {"target": target, "backend": backend, "output": output}
    recipe = make_recipe(
        {
            "model": student,
            "passes": ["cleanup", {"distill": taught}, "fuse"],
            "data": {key: value for key, value in sources.items() if value is not None},
            **{key: value for key, value in given.items() if value is not None},
        }
    )
    tell_build(recipe, as_json=as_json)


def init(
    model: Model,
    data: Data = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="the recipe's file")] = Path("recipe.yaml"),
) -> None:
    """Write a commented recipe for a model, to be edited and given to `planish build`."""
    from .new_recipe import write_recipe

    write_recipe(model, data, output)
    typer.echo(f"wrote {output}: read it, then planish build {output}", err=True)


def doctor(as_json: Json = False) -> None:
    """Tell what this machine can do, what is installed, what is missing and how to get it."""
    from .doctor import examine

    list_entries(examine(), as_json)


def tell_build(
    recipe: "Recipe",
    *,
    instruments: Sequence[str] = (),
    dump_dir: Path | None = None,
    sign: Path | None = None,
    fresh: bool = False,
    times: Path | None = None,
    as_json: bool = False,
    all_passes: bool = False,
) -> None:
    """Build what a recipe says, and tell how it goes and what came out."""
    from .build import build, read_key
    from .instruments import make_instruments
    from .report import ConsoleReporter
    from .user_code import isolated_imports

    key = None if sign is None else read_key(sign)
    reporter = ConsoleReporter(console(), verbosity(), all_passes=all_passes)
    with reporter.live(), isolated_imports(Path()):
        watching = make_instruments(list(instruments), dump_dir)
        artifact = build(recipe, reporter, watching, key=key, fresh=fresh, times=times)
    typer.echo(f"built {artifact.directory}", err=True)
    if as_json:
        summary: dict[str, Any] = {"artifact": str(artifact.directory), **artifact.summary()}
        print_json(summary)


def tell_dry_run(recipe: "Recipe", *, as_json: bool, all_passes: bool) -> None:
    """Tell what a build of a recipe would do."""
    from .dry_run import dry_run
    from .report import ConsoleReporter

    reporter = ConsoleReporter(console(), verbosity(), all_passes=all_passes)
    with reporter.live():
        found = dry_run(recipe, reporter)
        reporter.passes(found.rows)
        for note in found.notes():
            reporter.note(note)
    if as_json:
        print_json(found.summary())
    else:
        list_entries(found.entries(), as_json)
