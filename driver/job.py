"""A recipe with everything that it names read and checked: what a build works on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..backends import Backend, find_backend
from ..backends.machine import runs_here
from ..ir.errors import ModelError, UsageError
from ..ir.graph import Graph
from ..passes.base import Feeds, Labelled, Pass, PassContext
from ..passes.instrument import Instrument
from ..passes.pipeline import format_pipeline
from ..passes.reproducer import Reproducer
from ..targets import Target
from ..targets.load import load_target
from .data import Batch, doubts, held_out, ports_of, read_data, single_sample
from .evaluation import (
    Metric,
    Run,
    Score,
    evaluate,
    find_metric,
    interpreted,
    labelled,
    labelled_by,
    labels_of,
)
from .lowering import Lowering, chosen
from .mistakes import check_names
from .model import read_model
from .profiling import profiler, timings
from .recipe import Recipe, Sources
from .reporter import Reporter
from .timings import NO_EARLIER, Earlier
from .user_code import find_function
from .usual_sizes import graph_samples


@dataclass(frozen=True, slots=True)
class Job:
    """A recipe with everything that it names read and checked.

    Attributes:
        is_trial: whether its passes are tried, or were chosen, by a search: the metric of the built model alone is
            evaluated, not between passes.
        earlier: what an earlier build went by, so that this one makes the same.
    """

    recipe: Recipe
    reporter: Reporter
    instruments: Sequence[Instrument]
    passes: Sequence[Pass]
    target: Target
    source: Graph
    calibration: Sequence[Feeds]
    evaluation: Sequence[Batch]
    metric: Metric | None
    labels: Sequence[Any]
    labelled: Labelled | None
    is_trial: bool = False
    earlier: Earlier = NO_EARLIER

    def context(self, sizes: Mapping[str, int], sample: Feeds | None = None) -> PassContext:
        """The context that passes run in; with a sample they can time graphs."""
        clocks = timings(self.recipe.backend, self.target, sample, sizes)
        return PassContext(
            target=self.target,
            source=self.source,
            calibration=self.calibration,
            seed=self.recipe.seed,
            sizes=sizes,
            progress=self.reporter.progress,
            profile=profiler(self.recipe.backend, self.target, sample),
            profile_decides=self.recipe.backend != "auto" or len(self.backends) == 1,
            timing=clocks[0] if clocks else None,
            rivals=clocks[1:],
            backend="" if self.recipe.backend == "auto" else self.recipe.backend,
            labels=self.labels,
            labelled=self.labelled,
            read_model=partial(read_model, folder=self.recipe.folder),
            find_function=partial(find_function, folder=self.recipe.folder),
            folder=self.recipe.folder,
        )

    def samples(self) -> Iterator[Feeds]:
        """Yield the inputs that latency is measured on: one sample of the data, or random ones where there are none.

        The first of the random ones is what the model is mostly for, others are shorter and longer; see `usual_sizes`.
        """
        data = self.evaluation[0].inputs if self.evaluation else next(iter(self.calibration), None)
        if data is None:
            return graph_samples(self.source, self.recipe.seed)
        return iter([single_sample(data, ports_of(self.source))])

    @property
    def case(self) -> Reproducer:
        """The reproducer of a pass that fails."""
        machine = self.recipe.machine
        return Reproducer(
            self.source,
            format_pipeline(self.passes),
            machine,
            self.recipe.seed,
            self.calibration,
            machine=self.target if machine != self.recipe.target else None,
            verification=self.recipe.verify,
            labels=self.labels,
            metric="" if self.metric is None else self.recipe.data.metric,
            timed=self.recipe.backend,
            folder=str(self.recipe.folder.absolute()),
        )

    def lowering(self, probes: Sequence[Feeds], scratch: Path) -> Lowering:
        """How the result is compiled."""
        recipe = self.recipe
        return Lowering(self.target, probes, recipe.verify, scratch, self.reporter, recipe.database, self.instruments)

    @property
    def backend(self) -> str:
        """The backend to compile by; `auto` for all, unless an earlier build has chosen."""
        return (self.recipe.backend == "auto" and self.earlier.backend) or self.recipe.backend

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
        """The metric of a model; with resamples where an interval of its difference from another's is wanted."""
        if self.metric is None:
            return None
        return evaluate(self.metric, run, self.evaluation, resamples=resamples)


def prepare(
    recipe: Recipe, reporter: Reporter, instruments: Sequence[Instrument] = (), earlier: Earlier = NO_EARLIER
) -> Job:
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
    is_relative = metric is not None and metric.is_relative
    calibration, evaluation = _read_sources(recipe.data, recipe.folder, source, reporter, is_relative=is_relative)
    if is_relative:
        evaluation = labelled_by(interpreted(source), evaluation)
    if not evaluation and recipe.budget.metric_drop is not None:
        raise UsageError(
            "a budget on the metric needs evaluation data with labels: give some (`data: {evaluation: ...}`, --data), "
            "or any evaluation data and the metric agreement"
        )
    feeds = [batch.inputs for batch in calibration]
    for doubt in doubts(feeds, [batch.inputs for batch in evaluation]):
        reporter.warn(doubt)
    metric = metric if evaluation else None
    labels, held = labels_of(calibration), labelled(metric, calibration)
    job = Job(
        recipe, reporter, instruments, passes, target, source, feeds, evaluation, metric, labels, held, earlier=earlier
    )
    if job.is_for_another_machine and recipe.budget.latency is not None:
        raise UsageError(f"a budget on the latency needs a machine that runs what is built for {target.name}")
    return job


def _read_sources(
    data: Sources, folder: Path, source: Graph, reporter: Reporter, *, is_relative: bool
) -> tuple[Sequence[Batch], Sequence[Batch]]:
    """Batches for calibration and for evaluation, disjoint where they come from one source.

    Those for evaluation have labels, unless the metric is relative to what the model gives.
    """
    ports = ports_of(source)
    calibration = read_data(data.calibration, folder, ports) if data.calibration else []
    if data.evaluation is None:
        return calibration, []
    if data.evaluation != data.calibration:
        evaluation = read_data(data.evaluation, folder, ports)
        if not is_relative and any(batch.labels is None for batch in evaluation):
            raise ModelError(f"{data.evaluation} has no labels to evaluate on (the metric agreement needs none)")
        return calibration, evaluation
    if not is_relative and any(batch.labels is None for batch in calibration):
        reporter.note(f"{data.evaluation} has no labels: it calibrates, and no metric is evaluated")
        return calibration, []
    if len(calibration) == 1:
        reporter.warn(f"{data.evaluation} is a single batch: the metric is evaluated on what the passes have seen")
    return held_out(calibration)
