"""The command line. Bodies import what they need, so that `--help` and `passes` answer at once."""

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from ..ir.errors import printable
from . import release, shortcuts
from .guard import GuardedCommand
from .options import (
    MODEL_HELP,
    TARGET_HELP,
    Backend,
    Data,
    DumpDir,
    Folder,
    Fresh,
    Instruments,
    Json,
    MaxDrop,
    Metric,
    Model,
    Pipeline,
    Settings,
    TargetName,
    Threads,
    Verify,
)
from .output import console, examples, list_entries, print_json, set_verbosity, show, verbosity

app = typer.Typer(
    name="planish",
    help="The build step between training a model and deploying it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "planish init model.onnx                      write a recipe to start from",
        "planish build recipe.yaml                    build what it says",
        "planish quantize model.onnx -d data.npz      int8, checked and measured",
        "planish doctor                               what this machine can do",
    ),
    rich_markup_mode=None,  # importing rich takes as long as everything else that --help needs
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="show results, warnings and errors alone; works with any command")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="show every pass as well; works with any command")
    ] = False,
) -> None:
    set_verbosity(verbose - quiet)
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("planish"))
        raise typer.Exit


@app.command(
    cls=GuardedCommand,
    epilog=examples(
        "planish build recipe.yaml",
        "planish build model.onnx -p int8 -d data.npz --max-drop 1% --max-latency 5ms",
        "planish build model.py:build -p 'cleanup,fuse,prune-channels{ratio=0.3}' -d data.py:batches -o dist",
    ),
)
def build(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE|MODEL", help="a recipe (.yaml), or a model and flags")],
    pipeline: Pipeline = None,
    data: Data = None,
    target: Annotated[str | None, typer.Option("-t", "--target", help=TARGET_HELP)] = None,
    backend: Backend = None,
    tuned: Annotated[Path | None, typer.Option(metavar="FILE", help="what `planish tune` wrote, for tvm")] = None,
    evaluation: Annotated[str | None, typer.Option(help="data with labels; by default a part of --data's")] = None,
    metric: Metric = None,
    max_drop: MaxDrop = None,
    max_latency: Annotated[str | None, typer.Option(help="how long one inference may take, such as 5ms")] = None,
    max_size: Annotated[str | None, typer.Option(help="how large the artifact's files may be, such as 10MB")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="seed of all random numbers")] = None,
    output: Folder = None,
    bundle_runtime: Annotated[
        bool | None, typer.Option("--bundle-runtime", help="the artifact of tvm carries its runtime")
    ] = None,
    verify: Verify = None,
    settings: Settings = None,
    fresh: Fresh = False,
    times: Annotated[
        Path | None,
        typer.Option(metavar="ARTIFACT", help="an artifact by whose measured times passes decide again"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="tell what would be done, and build nothing")] = False,
    sign: Annotated[
        Path | None, typer.Option(metavar="KEYFILE", help="sign the artifact with the bytes of this file")
    ] = None,
    dump_dir: DumpDir = None,
    instrument: Instruments = None,
    all_passes: Annotated[
        bool, typer.Option("--all", help="a row for each pass, also those of presets and those that changed nothing")
    ] = False,
    as_json: Json = False,
) -> None:
    """Build a checked and measured artifact.

    Give a recipe, or a model and flags. Nothing is written if a check fails or a budget is missed.
    """
    flags = {
        "passes": pipeline if pipeline in (None, "auto") else [pipeline],
        "target": target,
        "backend": backend,
        "tuned": tuned,
        "output": output,
        "bundle_runtime": bundle_runtime,
        "verify": verify,
        "seed": seed,
        "data": _given(calibration=data, evaluation=evaluation or data, metric=metric),
        "budget": _given(metric_drop=max_drop, latency=max_latency, size=max_size),
    }
    from .recipe_file import chosen_recipe

    chosen = chosen_recipe(
        recipe, {key: value for key, value in flags.items() if value not in (None, {})}, settings or []
    )
    if dry_run:
        shortcuts.tell_dry_run(chosen, as_json=as_json, all_passes=all_passes)
        return
    shortcuts.tell_build(
        chosen,
        instruments=instrument or [],
        dump_dir=dump_dir,
        sign=sign,
        fresh=fresh,
        times=times,
        as_json=as_json,
        all_passes=all_passes,
    )


@app.command(cls=GuardedCommand)
def opt(
    model: Annotated[str, typer.Argument(metavar="MODEL|REPRODUCER", help=f"{MODEL_HELP}; or what a failure left")],
    pipeline: Pipeline = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help=".onnx or .planish; without it the graph's text is printed")
    ] = None,
    lower_to: Annotated[str | None, typer.Option(metavar="BACKEND", help="run a backend's passes at the end")] = None,
    target: TargetName = "native",
    data: Data = None,
    verify: Verify = None,
    print_ir_before: Annotated[
        list[str] | None, typer.Option(metavar="[=PASS]", help="print the graph before this pass, or every pass")
    ] = None,
    print_ir_after: Annotated[
        list[str] | None, typer.Option(metavar="[=PASS]", help="print the graph after this pass, or every pass")
    ] = None,
    print_ir_changed: Annotated[bool, typer.Option(help="print the graph after each pass that changed it")] = False,
    time_passes: Annotated[bool, typer.Option(help="print how long each pass took")] = False,
    explain: Annotated[
        str | None, typer.Option(metavar="PASS|RULE", help="print where the rules nearly matched, and what differed")
    ] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="print what was rewritten, and what the graph has lost")
    ] = False,
    drift: Annotated[
        bool, typer.Option("--drift", help="print which value each pass moves first, and how far")
    ] = False,
    dump_dir: DumpDir = None,
    instrument: Instruments = None,
    as_json: Json = False,
) -> None:
    """Run passes over a model and write the graph."""
    from ..passes.instruments.print_ir import PrintIR
    from .explanation import Explain
    from .instruments import make_instruments
    from .optimize import optimize_file
    from .report import ConsoleReporter, records_table
    from .results import plain
    from .user_code import isolated_imports

    reporter = ConsoleReporter(console(), verbosity())
    names = [*(["stats"] if stats else []), *(["drift"] if drift else []), *(instrument or [])]
    with reporter.live(), isolated_imports(Path()):
        # before a large model is read: the name may be misspelt
        explainer = None if explain is None else Explain(explain)
        printer = PrintIR(print_ir_before or (), print_ir_after or (), changed=print_ir_changed)
        result = optimize_file(
            model,
            pipeline,
            output,
            lower_to=lower_to,
            target=target,
            data=data,
            verify=verify,
            instruments=[printer, *make_instruments(names, dump_dir)],
            explainer=explainer,
            reporter=reporter,
        )
    if time_passes:
        show([records_table(result.records)], None)
    if explainer is not None and not as_json:
        typer.echo("\n".join(map(printable, explainer.lines())), err=True)
    if as_json and explainer is not None:
        print_json({"before": explainer.before_pass, "rules": plain(explainer.explanations)})
    elif as_json:
        print_json([plain(record) for record in result.records])
    elif output is None:
        from ..ir.text import print_graph

        typer.echo(print_graph(result.graph))


@app.command(cls=GuardedCommand)
def bisect(
    subject: Annotated[
        str, typer.Argument(metavar="RECIPE|REPRODUCER|MODEL", help="a recipe (.yaml), what a failure left, or a model")
    ],
    pipeline: Pipeline = None,
    data: Data = None,
    target: TargetName = "native",
    verify: Verify = None,
    as_json: Json = False,
) -> None:
    """Find the pass, and the rewrite in it, after which a check fails.

    A binary search over all that the pipeline does: it takes about as many checks as the number of rewrites has bits.
    """
    from .debugging import find_fault
    from .report import ConsoleReporter
    from .results import plain

    reporter = ConsoleReporter(console(), verbosity())
    with reporter.live():
        fault = find_fault(subject, pipeline, data, target, reporter, verify)
    if as_json:
        print_json(None if fault is None else plain(fault))
    else:
        typer.echo("every check holds" if fault is None else printable(str(fault)))


@app.command(cls=GuardedCommand)
def reduce(
    reproducer: Annotated[str, typer.Argument(metavar="REPRODUCER", help="the folder that a failed opt or build left")],
    output: Annotated[Path, typer.Option("-o", "--output", help="folder of the smaller reproducer")],
) -> None:
    """Shrink a failing graph to the few nodes that it takes to fail, and print it."""
    from ..ir.text import print_graph
    from .debugging import shrink
    from .report import ConsoleReporter

    reporter = ConsoleReporter(console(), verbosity())
    with reporter.live():
        smaller = shrink(reproducer, output, reporter)
    typer.echo(print_graph(smaller.graph))
    typer.echo(f"{len(smaller.graph)} nodes left; see it fail: planish opt {output}", err=True)


@app.command(cls=GuardedCommand)
def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL|ARTIFACT", help=f"{MODEL_HELP}; or an artifact's folder")],
    target: TargetName = "native",
    depth: Annotated[
        int | None, typer.Option(min=0, help="depth of the modules to list; by default what fits a page")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="size of a symbolic dimension; by default the data's, or else 1"),
    ] = None,
    data: Data = None,
    groups: Annotated[bool, typer.Option("--groups", help="show what is pruned together, and what can't be")] = False,
    model_explorer: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="write the graph for Google's Model Explorer")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a model consists of and costs.

    Operators, parameters, FLOPs and activations, by module, and what a target would run in integers.
    """
    from .inspection import inspect as look
    from .report import inspection_tables
    from .results import plain

    inspection = look(model, target, depth, _sizes(size or []), data, with_groups=groups, model_explorer=model_explorer)
    show(inspection_tables(inspection), plain(inspection) if as_json else None)


@app.command(cls=GuardedCommand)
def bench(
    subjects: Annotated[list[str], typer.Argument(metavar="A B ...", help="artifacts' folders, or models")],
    data: Data = None,
    target: TargetName = "native",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure latency, memory and size.

    Artifacts run as they are, models in ONNX Runtime; in turn, with ratios to the first.
    """
    from .bench import bench as measure
    from .report import bench_table
    from .results import plain

    rows = measure(subjects, target, data, threads)
    show([bench_table(rows)], [plain(row) for row in rows] if as_json else None)


@app.command(cls=GuardedCommand)
def tune(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="a .json file, which is added to if it is there")],
    pipeline: Annotated[
        str, typer.Option("-p", "--pipeline", help="passes that the model is built with")
    ] = "cleanup,fuse",
    data: Data = None,
    target: TargetName = "native",
    budget: Annotated[float, typer.Option(min=0, metavar="MINUTES", help="time for measuring kernels")] = 5.0,
    as_json: Json = False,
) -> None:
    """Measure the TVM backend's kernels in several ways.

    The fastest go into a file for `planish build --tuned`. An interrupt leaves what is known by then.
    """
    from .report import ConsoleReporter, tuning_tables
    from .results import plain
    from .tuning import tune as measure
    from .user_code import isolated_imports

    reporter = ConsoleReporter(console(), verbosity())
    with reporter.live(), isolated_imports(Path()):
        tuned = measure(model, output, pipeline=pipeline, data=data, target=target, minutes=budget, reporter=reporter)
    show(tuning_tables(tuned), plain(tuned) if as_json else None)


@app.command(cls=GuardedCommand)
def passes(
    name: Annotated[str | None, typer.Argument(help="a pass, or module:Class")] = None, as_json: Json = False
) -> None:
    """List the passes, or describe one with its options."""
    from . import catalog
    from .user_code import isolated_imports

    with isolated_imports(Path()):
        if name is None or as_json:
            list_entries(catalog.passes() if name is None else catalog.describe_pass(name), as_json)
        else:
            typer.echo(catalog.explain_pass(name))


@app.command(cls=GuardedCommand)
def targets(name: Annotated[str | None, typer.Argument(help=TARGET_HELP)] = None, as_json: Json = False) -> None:
    """List targets or describe one: `planish targets native` says what was found on this machine and what follows."""
    from . import catalog

    list_entries(catalog.targets() if name is None else catalog.describe_target(name), as_json)


for room, commands in (
    (shortcuts, ("quantize", "distill", "init", "doctor")),
    (release, ("search", "compare", "diff", "report", "verify", "attest", "cache", "recipe_schema")),
):
    for command in commands:
        app.command(cls=GuardedCommand, epilog=room.EXAMPLES[command])(getattr(room, command))


def main() -> None:
    """The entry point of the console script."""
    signal.signal(signal.SIGTERM, _terminate)
    app()


def _terminate(number: int, frame: FrameType | None) -> None:
    """End like an interrupt, so that half-written folders are removed."""
    raise SystemExit(128 + number)


def _sizes(texts: list[str]) -> dict[str, int]:
    """Sizes of dimensions from texts such as `batch=8`."""
    from ..ir.errors import UsageError

    sizes = {name: text for name, _, text in (entry.partition("=") for entry in texts)}
    for name, text in sizes.items():
        if not text.isdecimal() or not int(text):
            raise UsageError(f"--size {name}={text} must be a name and a positive number, such as batch=8")
    return {name: int(text) for name, text in sizes.items()}


def _given(**flags: str | None) -> dict[str, str]:
    return {name: value for name, value in flags.items() if value is not None}
