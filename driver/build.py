"""The build: a recipe goes in; a checked, measured artifact comes out, or nothing at all."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ..backends import Executable, find_backend
from ..backends.artifact import amend_manifest, replaced
from ..backends.manifest import check_key, read_manifest, write_measurements
from ..ir.analysis.cost import summarize
from ..ir.drafts import workspace
from ..ir.errors import BudgetError, UsageError
from ..ir.files import RefusedFileError, open_regular, writing
from ..ir.graph import Graph
from ..ir.hash import structural_hash
from ..passes.base import Effect, Feeds, Pass, PassContext
from ..passes.instrument import Instrument, PassRecord
from ..passes.manager import PassManager
from ..passes.probes import make_probes
from ..passes.reproducer import reproducing
from ..passes.units import show_bytes, show_seconds
from .cache.build_cache import BuildCache
from .cache.builds import Built
from .cache.inputs import reading
from .data import single_sample, sizes_in
from .evaluation import Score, interpreted
from .job import Job, prepare
from .lowering import choice, fastest, lower, refuse_early
from .measurement import Latency, interleaved
from .provenance import digest, versions
from .recipe import Budget, Recipe
from .recipe_file import read_recipe
from .reporter import SILENT, PassReporter, Reporter, presets_of_passes
from .results import Artifact, Measured, PassRow, plain
from .user_code import isolated_imports


def build(
    recipe: Recipe | str | Path,
    reporter: Reporter = SILENT,
    instruments: Sequence[Instrument] = (),
    *,
    key: bytes | None = None,
    fresh: bool = False,
) -> Artifact:
    """Build an artifact; an older one in its place is replaced once the new one is whole and within its budget.

    What an earlier build has made of the same inputs by the same steps is taken from the cache (`driver/cache`).

    Args:
        recipe: or the path of one.
        reporter: hears of progress.
        instruments: that watch the passes, for which all of them run.
        key: that the artifact's manifest is signed with.
        fresh: whether everything is built and measured anew.

    Raises:
        UsageError: the recipe makes no sense, a disk is full, or nothing may be written where it should be.
        ModelError: the model or the data can't be used.
        CheckError: a pass or a backend changed what the model computes; nothing is written.
        BudgetError: the artifact misses its budget; nothing is written.
        TargetError: no backend can run the result.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(Path(recipe))
    output = recipe.folder / recipe.output
    _check_place(output)
    if key is not None:
        check_key(key)
    with ExitStack() as stack:
        stack.enter_context(isolated_imports(recipe.folder))
        draft = stack.enter_context(replaced(output))
        scratch = stack.enter_context(workspace())
        cache = BuildCache(recipe, scratch, reporter, is_fresh=fresh or bool(instruments))
        built = _unchanged(cache, reporter) or _built(recipe, reporter, instruments, cache, scratch)
        artifact = built.artifact
        reporter.built(artifact)
        _check_budget(recipe.budget, artifact)
        if recipe.budget.metric_drop is None and (loss := _loss(artifact)):
            reporter.warn(loss)
        with writing(output):
            for file in built.directory.iterdir():
                shutil.copy(file, draft)
        asked = recipe.model_dump(mode="json", exclude={"output"})
        amend_manifest(draft, {"recipe": asked, **built.provenance}, key)
        write_measurements(draft, plain(artifact.summary()))
    return artifact


def _unchanged(cache: BuildCache, reporter: Reporter) -> Built | None:
    """The last build of the recipe, if nothing that it read has changed."""
    built = cache.recall()
    if built is not None:
        reporter.passes(built.artifact.passes)
        reporter.note("nothing has changed since the last build: this is its result; --fresh builds and measures anew")
    return built


def _built(
    recipe: Recipe, reporter: Reporter, instruments: Sequence[Instrument], cache: BuildCache, scratch: Path
) -> Built:
    """An artifact of what the recipe names now, or an earlier one of the same content."""
    with reading() as prepared:
        job = prepare(recipe, reporter, instruments)
    built = cache.find(job)
    if built is not None:
        reporter.passes(built.artifact.passes)
        reporter.note("this was built before: this is its result; --fresh builds and measures anew")
        cache.remember(job, prepared.paths)
        return built
    with reading() as ran:
        artifact, directory, graph = _run(job, scratch, cache)
    built = Built(artifact, directory, _provenance(job, graph, artifact))
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


def _run(job: Job, scratch: Path, cache: BuildCache) -> tuple[Artifact, Path, Graph]:
    """The artifact as it will be, the folder it is in for now, and the graph that it holds."""
    if job.recipe.backend != "auto":  # of several, one may run it
        refuse_early(job.source, job.passes, job.context({}), find_backend(job.recipe.backend))
    job.reporter.stage("evaluating the untouched model in ONNX Runtime")
    untouched = lower(job.source, find_backend("onnxruntime"), job.target, scratch / "untouched")
    before = job.score(untouched.executable.run, resamples=True)
    probes = make_probes(job.source, job.calibration, job.recipe.seed, job.recipe.verify.probes)
    sample = single_sample(job.evaluation[0].inputs if job.evaluation else probes[0], untouched.executable.inputs)
    graph, rows = _run_passes(job, before, job.context(sizes_in(sample, untouched.executable.inputs), sample), cache)
    if job.is_for_another_machine:
        (reference,) = interleaved([lambda: untouched.executable.run(sample)])
        built, directory = _written(job, graph, scratch)
    else:
        reference, built, directory = _measured(job, graph, untouched.executable, (probes, sample), scratch)
    artifact = Artifact(
        directory=job.recipe.folder / job.recipe.output,
        metric=job.metric,
        untouched=Measured(untouched.backend, reference, untouched.size, before),
        built=built,
        passes=rows,
        threads=job.target.threads,
    )
    return artifact, directory, graph


def _written(job: Job, graph: Graph, scratch: Path) -> tuple[Measured, Path]:
    """What is built for a machine that isn't at hand, and where it is; its metric is what the interpreter computes."""
    backend, directory = find_backend(job.recipe.backend), scratch / job.recipe.backend
    probes = make_probes(job.source, job.calibration, job.recipe.seed, job.recipe.verify.probes)
    job.lowering(probes, scratch).write(graph, backend, directory)
    job.reporter.warn(f"this machine can't run what is built for {job.target.name}: it is neither checked nor measured")
    size = sum(file["size"] for file in read_manifest(directory)["files"].values())
    return Measured(backend.name, None, size, job.score(interpreted(graph), resamples=True)), directory


def _measured(
    job: Job, graph: Graph, untouched: Executable, inputs: tuple[Sequence[Feeds], Feeds], scratch: Path
) -> tuple[Latency, Measured, Path]:
    """The latency of the untouched model, the fastest of the built models, and its path, from probes and a sample."""
    probes, sample = inputs
    recipe = job.recipe
    candidates = job.lowering(probes, scratch).candidates(graph, recipe.backend)
    job.reporter.stage("measuring latency")
    models = [untouched, *(candidate.executable for candidate in candidates)]
    reference, *latencies = interleaved([lambda model=model: model.run(sample) for model in models])
    if len(candidates) > 1:
        taken = (
            f"{it.backend} {show_seconds(latency.median)}" for it, latency in zip(candidates, latencies, strict=True)
        )
        job.reporter.note(f"latency of the candidates: {', '.join(taken)}; {choice(candidates, latencies)}")
    best, latency = fastest(candidates, latencies)
    job.reporter.stage(f"evaluating the artifact in {best.backend}")
    return (
        reference,
        Measured(best.backend, latency, best.size, job.score(best.executable.run, resamples=True)),
        best.directory,
    )


def _run_passes(
    job: Job, before: Score | None, context: PassContext, cache: BuildCache
) -> tuple[Graph, Sequence[PassRow]]:
    graph, resumption = job.source.clone(), None
    watch = _Watch(job, before, context.sizes)
    keeping = cache.steps(job, lambda: watch.rows)
    if keeping is not None and (found := keeping.find()) is not None:
        graph, resumption = found.graph, found.resumption
        watch.rows += found.rows
        job.reporter.note(f"the graph after {resumption.done} of {len(job.passes)} steps is that of an earlier build")
    rest = job.passes[0 if resumption is None else resumption.done :]
    try:
        watching = [PassReporter(job.reporter, rest), watch, *filter(None, [keeping]), *job.instruments]
        with reproducing(job.case):
            PassManager(job.passes, watching, job.recipe.verify).run(graph, context, resumption)
    finally:
        job.reporter.passes(watch.rows)
    return graph, watch.rows


class _Watch(Instrument):
    """Keeps a row for each pass, and evaluates the metric after those that may lose some of it."""

    def __init__(self, job: Job, before: Score | None, sizes: Mapping[str, int]) -> None:
        self.rows: list[PassRow] = []
        self._job = job
        self._before = before
        self._sizes = sizes
        self._presets = presets_of_passes()
        self._preset = ""

    def before(self, step: Pass, graph: Graph) -> None:
        self._preset = self._presets.get(id(step), "")

    def start(self, graph: Graph, context: PassContext) -> None:
        if self.rows:  # of an earlier build
            return
        metric = None if self._before is None else self._before.value
        self.rows.append(PassRow("source", None, {}, (), 0.0, summarize(graph, self._sizes), None, metric))

    def after(self, record: PassRecord, graph: Graph) -> None:
        score = self._job.score(interpreted(graph)) if record.effect is Effect.LOSSY and record.result.changed else None
        self.rows.append(
            PassRow(
                text=record.text,
                effect=record.effect,
                counts=record.result.counts,
                misses=record.result.misses,
                seconds=record.seconds,
                cost=summarize(graph, self._sizes),
                drift=record.drift,
                metric=None if score is None else score.value,
                preset=self._preset,
            )
        )


def _check_budget(budget: Budget, artifact: Artifact) -> None:
    missed: list[str] = []
    if budget.metric_drop is not None and artifact.drop is not None and artifact.drop > budget.metric_drop + 1e-9:
        missed.append(f"the metric drops by {artifact.drop:.4f}, more than {budget.metric_drop:g}")
    latency = artifact.built.latency
    if budget.latency is not None and latency is not None and latency.median > budget.latency:
        missed.append(f"the latency is {show_seconds(latency.median)}, more than {show_seconds(budget.latency)}")
    if budget.size is not None and artifact.built.size > budget.size:
        missed.append(f"the size is {show_bytes(artifact.built.size)}, more than {show_bytes(budget.size)}")
    if missed:
        raise BudgetError(f"the budget is missed, so nothing is written: {'; '.join(missed)}")


def _loss(artifact: Artifact) -> str:
    """What to say of a metric that has got worse by more than chance, where nobody has said how far it may."""
    interval = artifact.drop_interval
    if artifact.drop is None or artifact.drop <= 0 or (interval is not None and interval[0] <= 0):
        return ""
    assert artifact.metric is not None
    likely = "" if interval is None else f" (95 % between {interval[0]:.4f} and {interval[1]:.4f})"
    return (
        f"the metric {artifact.metric.name} gets worse by {artifact.drop:.4f}{likely}, "
        "and no budget says by how much it may: "
        "see at which pass, and bound it with `budget: {metric_drop: ...}` or --max-drop"
    )


def _provenance(job: Job, graph: Graph, artifact: Artifact) -> dict[str, object]:
    """What the manifest says beyond the recipe and how to run the model: of what it was made, and by what."""
    return {
        "source": structural_hash(job.source),
        "graph": structural_hash(graph),
        "data": {"calibration": digest(job.calibration), "evaluation": digest(job.evaluation)},
        "versions": versions(artifact.built.backend),
    }
