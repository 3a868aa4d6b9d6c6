"""What `planish search` finds within a budget, beside uniform presets and beside Optuna over whole pipelines.

    pip install -e ".[benchmarks,dev,examples]"
    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb FOLDER
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2      # unpack it into FOLDER
    python benchmarks/search.py search MODEL... --root FOLDER [--minutes 15]
    pip install optuna
    python benchmarks/search.py optuna MODEL --root FOLDER [--trials 100] [--study FILE]

The models are `cnn` and `vit`, trained here on Fashion-MNIST or read from `--cache`, `minilm` with a linear layer that
rates how kind a film review is, and `ocr` as a package ships it. A uniform preset is one technique with one setting
for all layers; the fastest counts of those that half of the evaluation data show to keep the budget, and of those whose
drop itself keeps it there. Speed is the median ratio over rounds with its quartiles, one sample, all artifacts in turn
in one run. The drop on the other half has a 95 % interval. Optuna (NSGA-II) chooses a share of channels for every
group, a precision for every layer, of transformers how activations are made integers, and whether to distil; it has an
equal front once what its front dominates, of speed and drop up to the budget, is as much as the search's front does.
"""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer
from rich.console import Console

import planish
from planish.driver.job import prepare
from planish.driver.measurement import Latency
from planish.driver.model import read_model
from planish.driver.plans import Plan, Point, plans_of
from planish.driver.recipe import Recipe, Step
from planish.driver.recipe_file import make_recipe
from planish.driver.report import ConsoleReporter, search_table
from planish.driver.reporter import SILENT
from planish.driver.search import search as look
from planish.driver.trials import Trials, choosing
from planish.driver.user_code import isolated_imports
from planish.ir.analysis.channels import channel_groups
from planish.ir.operators import has_trait
from planish.ir.traits import Trait

HERE = Path(__file__).parent
BUDGET = 0.01
MINUTES = 15.0
QUANTIZE, DYNAMIC, MIXED = "quantize", {"quantize": {"scheme": "int8-dynamic"}}, "quantize-mixed"
SPEEDUPS = (1.5, 2.0, 2.5, 3.0)
RATIOS = (0.5, 0.625, 0.75)
DISTILL = {"distill": {"temperature": 1.0}}
LONG_DISTILLS = [{"distill": {"temperature": 1.0, "epochs": epochs}} for epochs in (40, 160)]
PRESETS: Sequence[Step] = (
    QUANTIZE,
    DYNAMIC,
    *({"prune-channels": {"ratio": ratio}} for ratio in (0.1, 0.25, 0.5)),
    *({"factorize": {"ratio": ratio}} for ratio in (0.25, 0.5)),
)
CONSOLE = Console(stderr=True, highlight=False, width=120)
app = typer.Typer(add_completion=False)


class Model(StrEnum):
    """What is searched."""

    CNN = "cnn"
    VIT = "vit"
    MINILM = "minilm"
    OCR = "ocr"


TRANSFORMERS = (Model.VIT, Model.MINILM)
Root = Annotated[Path, typer.Option(help="The folder where data are unpacked.")]
Cache = Annotated[Path, typer.Option(help="The folder where trained models are kept.")]


@app.command()
def search(
    models: Annotated[list[Model], typer.Argument(help="The models to search.")],
    root: Root = Path("/"),
    cache: Cache = Path("recovery-cache"),
    minutes: Annotated[float, typer.Option(help="Minutes that a search may take.")] = MINUTES,
) -> None:
    """Search, and hold what is chosen to the best uniform preset."""
    for model in models:
        with tempfile.TemporaryDirectory() as work:
            _report(model, _recipe(model, root.absolute(), cache.absolute()), minutes, Path(work))


def _report(model: Model, recipe: Recipe, minutes: float, work: Path) -> None:
    start, processor = time.perf_counter(), _processor_seconds()
    reporter = ConsoleReporter(CONSOLE)
    found = look(recipe, reporter, minutes)
    seconds, worked = time.perf_counter() - start, _processor_seconds() - processor
    Console(width=150).print(search_table(found))
    count = f"{len(found.points)} plans built, {len(plans_of(recipe))} were given"
    print(f"{model}: {count}; {seconds:.0f} s, of the processor {worked:.0f} s")
    for point in found.points:
        was = "" if point.predicted is None else f", predicted {point.predicted:.2f}x"
        print(
            f"  {point.plan}: {point.gain:.2f}x{was}, drop {point.drop:.4f} {point.failure.partition(chr(10))[0][:80]}"
        )
    trials, chosen = _trials(recipe, work), found.chosen.plan
    trials.run(chosen)
    presets = [trials.run(Plan((step,))) for step in PRESETS]
    shown = [point for point in presets if point.loss(recipe.search.confidence) <= BUDGET]
    ours, *theirs = trials.race([found.chosen, *(point for point in presets if point.drop <= BUDGET)])
    for rivals, which in ((shown, "shown to keep the budget"), (theirs, "whose drop itself keeps the budget")):
        keys = {point.plan.key for point in rivals}
        fastest = max((it for it in theirs if it.plan.key in keys), key=lambda it: it.gain, default=None)
        if fastest is not None:
            ratio = _latency(ours).speedup_over(_latency(fastest))
            print(f"  chosen {ours.plan}: {ratio} times as fast as {fastest.plan}, the fastest preset {which}")
    if found.chosen.predicted is not None:
        print(f"  predicted to take {found.chosen.gain / found.chosen.predicted:.3f} of what it was measured to take")
    low, high = found.interval or (float("nan"), float("nan"))
    better = "" if found.better is None else f"; {found.better.plan} may keep it, too"
    print(f"  held out: drop {found.drop:.4f} [{low:.4f}, {high:.4f}] of {BUDGET}{better}", flush=True)


def _latency(point: Point) -> Latency:
    assert point.artifact is not None
    assert point.artifact.built.latency is not None
    return point.artifact.built.latency


# -- recipes


def _recipe(model: Model, root: Path, cache: Path) -> Recipe:
    """What is searched."""
    strengths = [*({"speedup": speedup} for speedup in SPEEDUPS), *({"ratio": ratio} for ratio in RATIOS)]
    prunings = [{"prune-channels": strength} for strength in strengths]
    quantizations: list[Step] = [QUANTIZE, DYNAMIC] if model in TRANSFORMERS else [QUANTIZE]
    distillations = ["distill"] if model is Model.MINILM else [DISTILL]
    if model in (Model.CNN, Model.VIT):
        distillations += LONG_DISTILLS
    if model is Model.OCR:
        quantizations.append(MIXED)
    trained = {"root": str(root), "cache": str(cache)}
    source: Mapping[Model, tuple[Any, str, Mapping[str, Any], str]] = {
        Model.CNN: ("cnn", "clothes", {"root": str(root)}, "accuracy"),
        Model.VIT: ("vit", "clothes", {"root": str(root)}, "accuracy"),
        Model.MINILM: ("minilm", "reviews", {"root": str(root)}, "pearson"),
        Model.OCR: ("ocr", "text_lines", {}, "search_subjects.py:character_error_rate"),
    }
    factory, data, options, metric = source[model]
    place = f"search_subjects.py:{factory}"
    return make_recipe(
        {
            "model": place if model is Model.OCR else {place: trained},
            "data": {
                "calibration": {f"search_subjects.py:{data}": {**options, "part": "calibration"}},
                "evaluation": {f"search_subjects.py:{data}": {**options, "part": "evaluation"}},
                "metric": metric,
            },
            "backend": "onnxruntime",
            "budget": {"metric_drop": BUDGET},
            "search": {"passes": [prunings, distillations, quantizations]},
            "folder": HERE,
            "name": model,
        }
    )


def _trials(recipe: Recipe, scratch: Path) -> Trials:
    """What builds plans as a search of the recipe does, whose own it remembers."""
    with isolated_imports(HERE):
        return Trials(choosing(prepare(recipe, SILENT)), scratch, SILENT)


def _processor_seconds() -> float:
    return sum(os.times()[:4])


# -- Optuna


@app.command()
def optuna(
    model: Annotated[Model, typer.Argument(help="The model to search.")],
    root: Root = Path("/"),
    cache: Cache = Path("recovery-cache"),
    trials: Annotated[int, typer.Option(help="Pipelines that Optuna may build, a study's included.")] = 100,
    minutes: Annotated[float, typer.Option(help="Minutes after which no pipeline is begun.")] = 60.0,
    study: Annotated[Path | None, typer.Option(help="A file that keeps what was found, from which it goes on.")] = None,
) -> None:
    """Count the pipelines that Optuna builds until its front is as good as the search's."""
    import optuna as peer

    recipe = _recipe(model, root.absolute(), cache.absolute())
    peer.logging.set_verbosity(peer.logging.WARNING)
    kept = peer.create_study(
        study_name=model,
        storage=None if study is None else f"sqlite:///{study.absolute()}",
        load_if_exists=True,
        directions=["maximize", "minimize"],
    )
    kept.sampler = peer.samplers.NSGAIISampler(seed=len(kept.trials))  # which begins anew where a study goes on
    found: list[tuple[float, float]] = [(it.values[0], it.values[1]) for it in kept.trials if it.values]
    if not kept.user_attrs:
        ours = look(recipe, ConsoleReporter(CONSOLE), MINUTES).points
        kept.set_user_attr("goal", _dominated([(point.gain, point.drop) for point in ours]))
        kept.set_user_attr("plans", len(ours))
    goal, count = kept.user_attrs["goal"], kept.user_attrs["plans"]
    print(f"{model}: {count} plans built, their front dominates {goal:.4f}", flush=True)
    groups, layers = _places(recipe)
    schemes = ("int8", "int8-dynamic") if model in TRANSFORMERS else ("int8",)

    def evaluate(trial: Any) -> tuple[float, float]:
        ratios = {it: trial.suggest_categorical(f"channels of {it}", (0.0, 0.25, 0.5, 0.75)) for it in groups}
        cut = [f"{name}:{ratio}" for name, ratio in ratios.items()]
        steps: list[Step] = [{"prune-channels": {"ratios": cut, "required": False}}] if any(ratios.values()) else []
        if steps and trial.suggest_categorical("distil", (False, True)):
            steps.append(DISTILL)
        floats = [layer for layer in layers if trial.suggest_categorical(f"float {layer}", (False, True))]
        if len(floats) < len(layers):
            scheme = trial.suggest_categorical("scheme", schemes)
            steps.append({"quantize": {"scheme": scheme, "skip": floats, "required": False}})
        point = runs.run(Plan(tuple(steps)))
        found.append((point.gain, min(point.drop, 1.0)))
        reached = _dominated(found)
        CONSOLE.print(
            f"{len(found)}: {point.gain:.2f}x, drop {point.drop:.4f}, front {reached:.4f} of {goal:.4f} {point.failure}"
        )
        if reached >= goal:
            trial.study.stop()
        return found[-1]

    with tempfile.TemporaryDirectory() as scratch:
        runs = _trials(recipe, Path(scratch))
        kept.optimize(evaluate, n_trials=trials - len(found), timeout=60 * minutes)
    reached = _dominated(found)
    outcome = "an equal front after" if reached >= goal else f"{reached / goal:.2f} of the front after"
    print(f"{model}: Optuna has {outcome} {len(found)} pipelines, {len(found) / count:.1f} times as many")


def _places(recipe: Recipe) -> tuple[list[str], list[str]]:
    """The layers that stand for groups of channels, and those that may be quantized, by module path."""
    with isolated_imports(HERE):
        graph = planish.optimize(read_model(recipe.model, HERE), "cleanup,fuse").graph
    groups = [group.producers[0][0] for group in channel_groups(graph) if not group.frozen]
    heavy = [node for node in graph.nodes if has_trait(node.operator, Trait.CONTRACTING)]
    modules = [list(dict.fromkeys(node.location.module for node in nodes)) for nodes in (groups, heavy)]
    return modules[0], modules[1]


def _dominated(found: Sequence[tuple[float, float]]) -> float:
    """The area that speed-ups dominate with their drops: of speed-up above 1, by drop below the budget."""
    area, best = 0.0, BUDGET
    for gain, drop in sorted(found, reverse=True):
        if drop < best:
            area += (best - max(drop, 0.0)) * max(gain - 1, 0.0)
            best = max(drop, 0.0)
    return area


if __name__ == "__main__":
    app()
