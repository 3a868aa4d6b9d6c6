"""The work of a build: passes, lowering and measurement, from what a recipe names to an artifact."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..backends import find_backend
from ..backends.manifest import read_manifest, size_of
from ..ir.analysis.cost import sizes_in, summarize
from ..ir.graph import Graph
from ..ir.hash import structural_hash
from ..passes.adapters.survival import AdapterSurvival
from ..passes.base import Effect, Feeds, Pass, PassContext
from ..passes.instrument import Instrument, PassRecord
from ..passes.manager import PassManager
from ..passes.probes import make_probes
from ..passes.reproducer import reproducing
from ..passes.units import show_seconds
from .cache.build_cache import BuildCache
from .cache.builds import Built
from .evaluation import Score, interpreted
from .job import Job
from .lowering import Candidate, Contest, lower, refuse_early
from .measurement import FEWEST_ROUNDS, Latency, interleaved
from .page.history import History
from .provenance import digest, versions
from .replay import replay
from .reporter import PassReporter, presets_of_passes
from .results import Artifact, AtSizes, Measured, PassRow
from .timings import Timings

_LONG_SECONDS = 1.0
"""The seconds of one inference beyond which no other lengths are timed."""


@dataclass(frozen=True, slots=True)
class Untouched:
    """A job's model as it was read, in ONNX Runtime.

    Attributes:
        model: the compiled model.
        score: the model's score; None where there is no metric.
    """

    model: Candidate
    score: Score | None


@dataclass(frozen=True, slots=True)
class Ran:
    """What the passes of a job have made of its model.

    Attributes:
        graph: the graph that they have made.
        watch: the instrument that has noted what each pass did.
        timings: the instrument that has noted what passes were told of times.
        untouched: the model that they were given.
        probes: the inputs that graphs are compared on.
        sample: the inputs that latency is measured on.
        others: shorter and longer ones, drawn as they are asked for; none where there are data.
    """

    graph: Graph
    watch: "_Watch"
    timings: Timings
    untouched: Untouched
    probes: Sequence[Feeds]
    sample: Feeds
    others: Iterator[Feeds]


def make(job: Job, scratch: Path, cache: BuildCache, untouched: Untouched | None = None) -> Built:
    """Run the passes of a job, compile what they make of the model, and measure it.

    Args:
        job: the job, which says what to build and from what.
        scratch: a folder for what is compiled.
        cache: the cache, from which the graph after some steps may come.
        untouched: the job's model, if it was run and judged before; None to do so now.

    Raises:
        PlanishError: see `build.build`.
    """
    ran = run_passes(job, scratch, cache, untouched)
    before = ran.untouched.model
    lengths: Sequence[AtSizes] = ()
    if job.is_for_another_machine:
        (reference,) = interleaved([lambda: before.executable.run(ran.sample)])
        built, directory = _written(job, ran, scratch)
    else:
        reference, built, directory, lengths = _measured(job, ran, scratch)
    artifact = Artifact(
        directory=job.recipe.folder / job.recipe.output,
        metric=job.metric,
        untouched=Measured(before.backend, reference, before.size, ran.untouched.score),
        built=built,
        passes=ran.watch.rows,
        threads=job.target.threads,
        sizes=sizes_in(job.source, ran.sample),
        lengths=lengths,
    )
    origin = _provenance(job, ran.graph, artifact)
    return Built(artifact, directory, origin, ran.watch.history.plain(), ran.timings.told)


def evaluated(job: Job, scratch: Path) -> Untouched:
    """Run a job's model as it was read, and judge it."""
    job.reporter.stage("evaluating the untouched model in ONNX Runtime")
    model = lower(job.source, find_backend("onnxruntime"), job.target, scratch / "untouched")
    return Untouched(model, job.score(model.executable.run, resamples=True))


def run_passes(job: Job, scratch: Path, cache: BuildCache, untouched: Untouched | None = None) -> Ran:
    """Run the passes of a job; see `make`."""
    if job.recipe.backend != "auto":  # of several, one may run it
        refuse_early(job.source, job.passes, job.context({}), find_backend(job.recipe.backend))
    untouched = untouched or evaluated(job, scratch)
    probes = make_probes(job.source, job.calibration, job.recipe.seed, job.recipe.verify.probes)
    samples = job.samples()
    sample = next(samples)
    context = job.context(sizes_in(job.source, sample), sample)
    return Ran(*_run_passes(job, untouched.score, context, cache), untouched, probes, sample, samples)


def _written(job: Job, ran: Ran, scratch: Path) -> tuple[Measured, Path]:
    """What is built for a machine that isn't at hand, and where it is; its metric is what the interpreter computes."""
    backend, directory = find_backend(job.recipe.backend), scratch / job.recipe.backend
    job.lowering(ran.probes, scratch).write(ran.graph, backend, directory)
    job.reporter.warn(f"this machine can't run what is built for {job.target.name}: it is neither checked nor measured")
    score = job.score(interpreted(ran.graph), resamples=True)
    return Measured(backend.name, None, size_of(read_manifest(directory)), score), directory


def _measured(job: Job, ran: Ran, scratch: Path) -> tuple[Latency, Measured, Path, Sequence[AtSizes]]:
    """The latency of the untouched model, the best of the built models, its path, and latencies at other lengths."""
    candidates = job.lowering(ran.probes, scratch).candidates(ran.graph, job.backend)
    job.reporter.stage("measuring latency")
    models = [ran.untouched.model.executable, *(candidate.executable for candidate in candidates)]
    runs = [lambda model=model: model.run(ran.sample) for model in models]
    reference, *latencies = interleaved(runs, patient=job.is_trial)
    contest = Contest(candidates, latencies, job.recipe.budget, job.recipe.search.goal)
    if len(candidates) > 1:
        taken = (
            f"{it.backend} {show_seconds(latency.median)}" for it, latency in zip(candidates, latencies, strict=True)
        )
        job.reporter.note(f"latency of the candidates: {', '.join(taken)}; {contest.verdict}")
    best, latency = contest.winner
    is_long = job.is_trial or reference.median > _LONG_SECONDS
    lengths = [] if is_long else [_at_sizes(job, sample, ran.untouched.model, best) for sample in ran.others]
    job.reporter.stage(f"evaluating the artifact in {best.backend}")
    return (
        reference,
        Measured(best.backend, latency, best.size, job.score(best.executable.run, resamples=True)),
        best.directory,
        lengths,
    )


def _at_sizes(job: Job, sample: Feeds, untouched: Candidate, built: Candidate) -> AtSizes:
    """Latencies of the untouched model and the built one on a sample of another length."""
    runs = [lambda model=it.executable: model.run(sample) for it in (untouched, built)]
    latencies = interleaved(runs, lambda rounds: rounds.shape[1] >= 2 * FEWEST_ROUNDS)
    return AtSizes(sizes_in(job.source, sample), *latencies)


def _run_passes(
    job: Job, before: Score | None, context: PassContext, cache: BuildCache
) -> tuple[Graph, "_Watch", Timings]:
    graph, resumption = job.source.clone(), None
    watch, timings = _Watch(job, before, context.sizes), Timings(job.earlier.told)
    survival = AdapterSurvival(job.reporter.note)
    keeping = cache.steps(job, lambda: watch.rows, watch.history, timings)
    if keeping is not None and (found := keeping.find()) is not None:
        graph, resumption = found.graph, found.resumption
        source, *rows = found.rows
        watch.rows += [replace(source, metric=None if before is None else before.value), *rows]
        watch.history.resume(found.history)
        timings.resume(found.told)
        job.reporter.note(f"the graph after {resumption.done} of {len(job.passes)} steps is that of an earlier build")
    done = 0 if resumption is None else resumption.done
    values = cache.values(job, done)
    if values is not None:
        context = replace(context, checkpoints=cache.checkpoints, remember=values.remember, share=values.share)
    context = timings.noting(context)
    kept = filter(None, [keeping, values])
    try:
        watching = [PassReporter(job.reporter, job.passes[done:]), watch, survival, timings, *kept, *job.instruments]
        with reproducing(job.case, replay):
            PassManager(job.passes, watching, job.recipe.verify).run(graph, context, resumption)
    finally:
        job.reporter.passes(watch.rows)
    for text in dict.fromkeys(timings.missed):
        job.reporter.warn(f"{text} was timed anew, since the times that were given have none for it")
    return graph, watch, timings


class _Watch(Instrument):
    """Keeps a row for each pass and what it changed, and evaluates the metric after those that may lose some of it."""

    def __init__(self, job: Job, before: Score | None, sizes: Mapping[str, int]) -> None:
        self.rows: list[PassRow] = []
        self.history = History(sizes)
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
        self.history.see(0, graph)

    def after(self, record: PassRecord, graph: Graph) -> None:
        is_worse = record.effect is Effect.LOSSY and record.result.changed
        score = self._job.score(interpreted(graph)) if is_worse and not self._job.is_trial else None
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
                curve=record.result.curve,
            )
        )
        if record.result.changed:
            self.history.see(len(self.rows) - 1, graph)


def _provenance(job: Job, graph: Graph, artifact: Artifact) -> dict[str, object]:
    """What the manifest says beyond the recipe and how to run the model: what it was made of, and by which versions."""
    return {
        "source": structural_hash(job.source),
        "graph": structural_hash(graph),
        "data": {"calibration": digest(job.calibration), "evaluation": digest(job.evaluation)},
        "versions": versions(artifact.built.backend),
    }
