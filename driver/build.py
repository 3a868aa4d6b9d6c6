"""The build: a recipe goes in; a checked, measured artifact comes out, or nothing at all."""

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..backends.artifact import amend_manifest, bundle_runtime, replaced
from ..backends.manifest import REPORT, TIMINGS, check_key, read_manifest, write_measurements
from ..ir.drafts import workspace
from ..ir.errors import BudgetError, UsageError
from ..ir.files import RefusedFileError, open_regular, writing
from ..passes.instrument import Instrument
from ..targets.cpu import architecture
from ..targets.load import load_target
from .cache.build_cache import BuildCache
from .cache.builds import Built
from .cache.inputs import reading
from .page.page import page, page_data
from .recipe import Bounds, Budget, Recipe
from .recipe_file import read_recipe
from .reporter import SILENT, Reporter
from .results import Artifact, plain
from .timings import NO_EARLIER, Earlier
from .user_code import isolated_imports

if TYPE_CHECKING:
    from .gate import Check


def build(
    recipe: Recipe | str | Path,
    reporter: Reporter = SILENT,
    instruments: Sequence[Instrument] = (),
    *,
    key: bytes | None = None,
    fresh: bool = False,
    times: Path | None = None,
) -> Artifact:
    """Build an artifact; an older one in its place is replaced once the new one is whole and within its budget.

    What an earlier build has made of the same inputs by the same steps is taken from the cache (`driver/cache`). Where
    the recipe's passes are `auto`, a search chooses them first, and the graphs that it made are taken from there.

    Args:
        recipe: the recipe, or the path of its file.
        reporter: the reporter that is told of progress.
        instruments: the instruments that watch the passes; where there are any, no pass is taken from the cache.
        key: the key that the artifact's manifest is signed with.
        fresh: whether everything is built and measured anew; a search goes by what is in the cache nonetheless.
        times: an artifact of the same inputs, by whose times passes go, and whose backend `auto` takes, so that they
            decide as they did for it; nothing is taken from the cache then.

    Raises:
        UsageError: the recipe makes no sense, a disk is full, or nothing may be written where it should be.
        ModelError: the model or the data can't be used.
        CheckError: a pass or a backend changed what the model computes; nothing is written.
        BudgetError: the artifact misses its budget, or no plan of a search keeps it; nothing is written.
        TargetError: no backend can run the result.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(Path(recipe))
    output = recipe.folder / recipe.output
    _check_place(output)
    if recipe.bundle_runtime and (other := load_target(recipe.machine).architecture) != architecture():
        raise UsageError(
            f"bundle_runtime would copy this machine's runtime, which isn't for {other}: build without it, and "
            "install the runtime on the target"
        )
    if key is not None:
        check_key(key)
    earlier = NO_EARLIER if times is None else Earlier.read(times)
    is_fresh = fresh or bool(instruments) or times is not None
    is_searched = recipe.passes == "auto"
    if is_searched:
        recipe = _searched(recipe, reporter, times)
    with ExitStack() as stack:
        stack.enter_context(isolated_imports(recipe.folder))
        draft = stack.enter_context(replaced(output))
        scratch = stack.enter_context(workspace())
        cache = BuildCache(recipe, scratch, reporter, is_fresh=is_fresh, keeps=times is None)
        built = _unchanged(cache, reporter) or _built(
            recipe, reporter, instruments, cache, scratch, earlier, is_trial=is_searched and not is_fresh
        )
        artifact = built.artifact
        reporter.built(artifact)
        _check_budget(recipe.budget, artifact)
        if recipe.budget.metric_drop is None and (loss := _loss(artifact)):
            reporter.warn(loss)
        with writing(output):
            for file in built.directory.iterdir():
                shutil.copy(file, draft)
        if recipe.bundle_runtime and not bundle_runtime(draft):
            reporter.note(f"an artifact of {artifact.built.backend} carries no runtime: install it on the target")
        asked = recipe.model_dump(mode="json", exclude={"output", "search"})
        amend_manifest(draft, {"recipe": asked, **built.provenance}, key)
        gate = [] if recipe.gate is None else _hold(draft, recipe, recipe.gate, reporter)
        measurements = {**plain(artifact.summary()), "gate": plain(gate)}
        report = page(page_data(read_manifest(draft), measurements, built.graphs))
        told = {TIMINGS: json.dumps(built.told)} if built.told else {}
        write_measurements(draft, measurements, {REPORT: report, **told})
    return artifact


def _hold(draft: Path, recipe: Recipe, bounds: Bounds, reporter: Reporter) -> "Sequence[Check]":
    """Hold an artifact to the gate of its recipe; return what became of each bound.

    Raises:
        BudgetError: it is too far from what it is held to.
        UsageError: there is nothing to hold it to.
    """
    from .comparison import compare
    from .gate import Gate

    other = recipe.folder / bounds.against
    if not other.exists() and other.absolute() == (recipe.folder / recipe.output).absolute():
        reporter.note(
            f"the gate was skipped: {bounds.against} is built for the first time and has nothing to be compared with"
        )
        return []
    reporter.stage(f"comparing with {bounds.against}")
    reference = str(other) if other.exists() else bounds.against
    data = recipe.data.evaluation or recipe.data.calibration
    found = compare(reference, str(draft), recipe.machine, data, recipe.data.metric, recipe.folder)
    found = replace(found, b=replace(found.b, name="the artifact"))
    gate = Gate(bounds.max_drop, bounds.min_cosine, bounds.max_slower, bounds.max_larger)
    gate.check(found)
    return gate.checks(found)


def _searched(recipe: Recipe, reporter: Reporter, times: Path | None) -> Recipe:
    """The recipe with the passes that a search chooses.

    Raises:
        UsageError: the passes are to decide by the times of another build, or see `search.search`.
        BudgetError: no plan meets the budget.
    """
    from .search import search  # brings torch

    if times is not None:
        raise UsageError(
            "`passes: auto` leaves the passes to a new search, so --times can't repeat a build: write the passes that "
            f"the manifest in {times} names into the recipe"
        )
    found = search(recipe, reporter)
    reporter.searched(found)
    return recipe.model_copy(update={"passes": (*recipe.steps, *found.chosen.plan.steps)})


def _unchanged(cache: BuildCache, reporter: Reporter) -> Built | None:
    """The last build of the recipe, if nothing that it read has changed."""
    built = cache.recall()
    if built is not None:
        reporter.passes(built.artifact.passes)
        reporter.note("nothing has changed since the last build: this is its result; --fresh builds and measures anew")
    return built


def _built(
    recipe: Recipe,
    reporter: Reporter,
    instruments: Sequence[Instrument],
    cache: BuildCache,
    scratch: Path,
    earlier: Earlier,
    *,
    is_trial: bool,
) -> Built:
    """An artifact of what the recipe names now, or an earlier one of the same content."""
    from .floors import refuse_hopeless
    from .job import prepare  # brings torch, which a build that was made before does without
    from .making import make

    with reading() as prepared:
        job = replace(prepare(recipe, reporter, instruments, earlier), is_trial=is_trial)
    built = cache.find(job)
    if built is not None:
        reporter.passes(built.artifact.passes)
        reporter.note("this was built before: this is its result; --fresh builds and measures anew")
        cache.remember(job, prepared.paths)
        return built
    refuse_hopeless(job)
    with reading() as ran:
        built = make(job, scratch, cache)
    cache.keep(job, built)
    cache.remember(job, prepared.paths | {path for path in ran.paths if Path(path).is_file()})
    return built


def read_key(path: Path) -> bytes:
    """The bytes of a file as a key to sign artifacts with.

    Raises:
        UsageError: there is no such file, or it is empty.
    """
    try:
        with open_regular(path) as file:
            key = file.read()
    except RefusedFileError as error:
        raise UsageError(f"the key {path} can't be read: {error}") from error
    check_key(key)
    return key


def _check_place(output: Path) -> None:
    """Refuse an output under something that is no folder, before anything is read.

    Raises:
        UsageError: it lies under a file, or is one.
    """
    nearest = next((it for it in (output.absolute(), *output.absolute().parents) if it.exists()), None)
    if nearest is not None and not nearest.is_dir():
        raise UsageError(f"the artifact can't be in {output}: {nearest} is no folder")


def _check_budget(budget: Budget, artifact: Artifact) -> None:
    missed: list[str] = []
    if budget.metric_drop is not None and artifact.drop is None:
        raise UsageError(
            "a budget on the metric needs evaluation data with labels: give some (`data: {evaluation: ...}`, --data), "
            "or any evaluation data and the metric agreement"
        )
    if budget.latency is not None and artifact.built.latency is None:
        raise UsageError("a budget on the latency needs a machine that runs what is built")
    if budget.metric_drop is not None and artifact.drop is not None and artifact.drop > budget.metric_drop + 1e-9:
        missed.append(f"the metric drops by {artifact.drop:.4f}, more than {budget.metric_drop:g}")
    missed += artifact.built.excesses(budget)
    if missed:
        raise BudgetError(f"the budget is missed, so nothing is written: {'; '.join(missed)}")


def _loss(artifact: Artifact) -> str:
    """A warning of a metric that got worse by more than chance and that no budget bounds; empty where there is none."""
    interval = artifact.drop_interval
    if artifact.drop is None or artifact.drop <= 0 or (interval is not None and interval[0] <= 0):
        return ""
    assert artifact.metric is not None
    likely = "" if interval is None else f" (95 % between {interval[0]:.4f} and {interval[1]:.4f})"
    return (
        f"the metric {artifact.metric.name} gets worse by {artifact.drop:.4f}{likely}, "
        "and no budget bounds the drop: "
        "find the pass in the table, and set `budget: {metric_drop: ...}` or --max-drop"
    )
