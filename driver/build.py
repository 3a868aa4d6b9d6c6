"""The build: a recipe goes in; a checked, measured artifact comes out, or nothing at all."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..backends import Backend, Executable, find_backend
from ..backends.artifact import amend_manifest, bundle_runtime, replaced
from ..backends.machine import runs_here
from ..backends.manifest import check_key, read_manifest
from ..ir.analysis.cost import summarize
from ..ir.drafts import workspace
from ..ir.errors import BudgetError, ModelError, UsageError
from ..ir.files import RefusedFileError, open_regular, writing
from ..ir.graph import Graph
from ..ir.hash import structural_hash
from ..passes.base import Effect, Feeds, Labelled, Pass, PassContext
from ..passes.instrument import Instrument, PassRecord
from ..passes.manager import PassManager
from ..passes.pipeline import format_pipeline
from ..passes.probes import make_probes
from ..passes.reproducer import Reproducer, reproducing
from ..passes.units import show_bytes, show_seconds
from ..targets import Target
from ..targets.cpu import architecture
from ..targets.load import load_target
from .data import Batch, doubts, held_out, ports_of, read_data, single_sample, sizes_in
from .evaluation import Metric, Run, Score, evaluate, find_metric, interpreted, labelled
from .lowering import Lowering, choice, chosen, fastest, lower, refuse_early
from .measurement import Latency, interleaved
from .mistakes import check_names
from .model import read_model
from .profiling import profiler
from .provenance import digest, versions
from .recipe import Budget, Recipe, Sources
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
) -> Artifact:
    """Build an artifact; an older one in its place is replaced once the new one is whole and within its budget.

    Args:
        recipe: or the path of one.
        reporter: hears of progress.
        instruments: that watch the passes.
        key: that the artifact's manifest is signed with.

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
        job = prepare(recipe, reporter, instruments)
        artifact, directory, graph = _run(job, scratch)
        reporter.built(artifact)
        _check_budget(recipe.budget, artifact)
        if recipe.budget.metric_drop is None and (loss := _loss(artifact)):
            reporter.warn(loss)
        with writing(output):
            for file in directory.iterdir():
                shutil.copy(file, draft)
        if recipe.bundle_runtime and not bundle_runtime(draft):
            reporter.note(f"an artifact of {artifact.built.backend} carries no runtime: install it on the target")
        amend_manifest(draft, _provenance(job, graph, artifact), key)
    return artifact


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


@dataclass(frozen=True, slots=True)
class Job:
    """A recipe with everything that it names read and checked."""

    recipe: Recipe
    reporter: Reporter
    instruments: Sequence[Instrument]
    passes: Sequence[Pass]
    target: Target
    source: Graph
    calibration: Sequence[Feeds]
    evaluation: Sequence[Batch]
    metric: Metric | None
    labelled: Labelled | None

    def context(self, sizes: Mapping[str, int], sample: Feeds | None = None) -> PassContext:
        """What the passes run in; with a sample they can time what they make."""
        return PassContext(
            target=self.target,
            source=self.source,
            calibration=self.calibration,
            seed=self.recipe.seed,
            sizes=sizes,
            progress=self.reporter.progress,
            profile=profiler(self.recipe.backend, self.target, sample),
            labelled=self.labelled,
            read_model=partial(read_model, folder=self.recipe.folder),
        )

    @property
    def case(self) -> Reproducer:
        """What a failing pass would be reproduced by."""
        pipeline = format_pipeline(self.passes)
        return Reproducer(
            self.source,
            pipeline,
            self.recipe.target,
            self.recipe.seed,
            self.calibration,
            verification=self.recipe.verify,
        )

    def lowering(self, probes: Sequence[Feeds], scratch: Path) -> Lowering:
        """How the result is compiled."""
        recipe = self.recipe
        return Lowering(self.target, probes, recipe.verify, scratch, self.reporter, recipe.database, self.instruments)

    @property
    def backends(self) -> Sequence[Backend]:
        """The backends that the result may be compiled by, as far as they are installed."""
        return [backend for backend in chosen(self.recipe.backend) if not backend.available()]

    @property
    def is_for_another_machine(self) -> bool:
        """Whether it is known that the machine at hand can't run what is built."""
        backend = self.recipe.backend
        is_native = backend != "auto" and find_backend(backend).native
        return is_native and not runs_here(self.target.architecture, self.target.features)

    def score(self, run: Run, *, resamples: bool = False) -> Score | None:
        """The metric of a model; with resamples where it is to be compared with another's."""
        return None if self.metric is None else evaluate(self.metric, run, self.evaluation, resamples=resamples)


def prepare(recipe: Recipe, reporter: Reporter, instruments: Sequence[Instrument] = ()) -> Job:
    """Read and check everything that a recipe names."""
    check_names(recipe)
    passes = recipe.pipeline()
    target = load_target(recipe.machine)
    metric = find_metric(recipe.data.metric, recipe.folder) if recipe.data.evaluation else None
    if recipe.database is not None:  # before the passes take their time
        find_backend("tvm" if recipe.backend == "auto" else recipe.backend).tuned(recipe.database)
    for backend in chosen(recipe.backend):
        if not backend.available():
            backend.warm_up()
    reporter.stage(f"reading {recipe.model}")
    source = read_model(recipe.model, recipe.folder)
    calibration, evaluation = _read_sources(recipe.data, recipe.folder, source, reporter)
    if not evaluation and recipe.budget.metric_drop is not None:
        raise UsageError("a budget on the metric needs evaluation data with labels")
    feeds = [batch.inputs for batch in calibration]
    for doubt in doubts(feeds, [batch.inputs for batch in evaluation]):
        reporter.warn(doubt)
    metric = metric if evaluation else None
    labels = labelled(metric, calibration)
    if recipe.bundle_runtime and target.architecture != architecture():
        raise UsageError(f"the runtime at hand isn't for {target.architecture}: build without it, and install it there")
    job = Job(recipe, reporter, instruments, passes, target, source, feeds, evaluation, metric, labels)
    if job.is_for_another_machine and recipe.budget.latency is not None:
        raise UsageError(f"a budget on the latency needs a machine that runs what is built for {target.name}")
    return job


def _read_sources(
    data: Sources, folder: Path, source: Graph, reporter: Reporter
) -> tuple[Sequence[Batch], Sequence[Batch]]:
    """Batches for calibration and for evaluation, disjoint where they come from one source."""
    ports = ports_of(source)
    calibration = read_data(data.calibration, folder, ports) if data.calibration else []
    if data.evaluation is None:
        return calibration, []
    if data.evaluation != data.calibration:
        evaluation = read_data(data.evaluation, folder, ports)
        if any(batch.labels is None for batch in evaluation):
            raise ModelError(f"{data.evaluation} has no labels to evaluate on")
        return calibration, evaluation
    if any(batch.labels is None for batch in calibration):
        reporter.note(f"{data.evaluation} has no labels: it calibrates, and no metric is evaluated")
        return calibration, []
    if len(calibration) == 1:
        reporter.warn(f"{data.evaluation} is a single batch: the metric is evaluated on what the passes have seen")
    return held_out(calibration)


def _run(job: Job, scratch: Path) -> tuple[Artifact, Path, Graph]:
    """The artifact as it will be, the folder it is in for now, and the graph that it holds."""
    if job.recipe.backend != "auto":  # of several, one may run it
        refuse_early(job.source, job.passes, job.context({}), find_backend(job.recipe.backend))
    job.reporter.stage("evaluating the untouched model in ONNX Runtime")
    untouched = lower(job.source, find_backend("onnxruntime"), job.target, scratch / "untouched")
    before = job.score(untouched.executable.run, resamples=True)
    probes = make_probes(job.source, job.calibration, job.recipe.seed, job.recipe.verify.probes)
    sample = single_sample(job.evaluation[0].inputs if job.evaluation else probes[0], untouched.executable.inputs)
    graph, rows = _run_passes(job, before, job.context(sizes_in(sample, untouched.executable.inputs), sample))
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


def _run_passes(job: Job, before: Score | None, context: PassContext) -> tuple[Graph, Sequence[PassRow]]:
    graph = job.source.clone()
    watch = _Watch(job, before, context.sizes)
    try:
        watching = [PassReporter(job.reporter, job.passes), watch, *job.instruments]
        with reproducing(job.case):
            PassManager(job.passes, watching, job.recipe.verify).run(graph, context)
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
    """What the manifest says beyond how to run the model: of what it was made, by what, and what was measured."""
    return {
        "recipe": job.recipe.model_dump(mode="json"),
        "source": structural_hash(job.source),
        "graph": structural_hash(graph),
        "data": {"calibration": digest(job.calibration), "evaluation": digest(job.evaluation)},
        "versions": versions(artifact.built.backend),
        "measurements": plain(artifact.summary()),
    }
