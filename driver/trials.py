"""Plans of a search, built and measured; their passes may run elsewhere, by workers that fill the cache."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from ..ir.drafts import workspace
from ..ir.errors import PlanishError
from .cache.build_cache import BuildCache
from .cache.builds import Built
from .cache.steps import Parcel
from .data import single_sample
from .executor import Executor
from .job import Job, prepare
from .lowering import Candidate, open_artifact
from .making import make, run_passes
from .measurement import interleaved
from .plans import Plan, Point
from .recipe import Recipe
from .reporter import SILENT, Reporter
from .results import plain
from .user_code import isolated_imports


@dataclass(slots=True)
class Trials:
    """Builds plans.

    Attributes:
        job: of the recipe, with the evaluation data that plans are chosen by.
        scratch: a folder for what is built.
        reporter: hears of progress.
        built: by the plans' keys.
        begun: keys of plans whose passes have run elsewhere, as far as they did.
    """

    job: Job
    scratch: Path
    reporter: Reporter
    built: dict[str, Built] = field(default_factory=dict[str, Built])
    begun: set[str] = field(default_factory=set[str])

    def run(self, plan: Plan) -> Point:
        """Build a plan as a recipe; a plan that fails is a point as well."""
        try:
            job, cache = self._job(plan)
            built = cache.find(job)
            if built is None:
                built = make(job, Path(mkdtemp(dir=self.scratch)), cache)
                cache.keep(job, built)
        except PlanishError as error:
            self.reporter.note(f"{plan} is left out: {error}")
            return Point(plan, None, str(error))
        self.built[plan.key] = built
        point = Point(plan, built.artifact)
        self.reporter.note(f"{plan}: {point.gain:.2f} times as fast, the metric drops by {point.drop:.4f}")
        return point

    def race(self, points: Sequence[Point], untouched: Candidate) -> list[Point]:
        """The same points with the latencies that they and the untouched model have in one run, in turn."""
        self.reporter.stage(f"timing the {len(points)} fastest plans in turn")
        built = [open_artifact(str(point.plan), self.built[point.plan.key].directory) for point in points]
        sample = single_sample(self.job.evaluation[0].inputs, untouched.executable.inputs)
        models = [it.executable for it in (untouched, *built)]
        reference, *latencies = interleaved([lambda model=model: model.run(sample) for model in models])
        return [point.timed(reference, latency) for point, latency in zip(points, latencies, strict=True)]

    def run_elsewhere(self, executor: Executor, plans: Sequence[Plan]) -> None:
        """Let workers run the passes of plans, unless they have; what they leave undone is done when a plan is run."""
        new = [plan for plan in plans if plan.key not in self.begun]
        self.begun.update(plan.key for plan in new)
        jobs: list[tuple[Job, BuildCache]] = []
        for plan in new:
            try:
                job, cache = self._job(plan)
                if cache.find(job) is None and job.passes:
                    jobs.append((job, cache))
            except PlanishError:  # which running it tells
                continue
        self.reporter.stage(f"passes of {len(jobs)} plans run elsewhere")
        target = plain(self.job.target)
        parcels = executor.run(passes_of, [(job.recipe, target) for job, _ in jobs])
        for (job, cache), parcel in zip(jobs, parcels, strict=True):
            if parcel is not None:
                cache.unpack(job, parcel)

    def _job(self, plan: Plan) -> tuple[Job, BuildCache]:
        recipe = self.job.recipe.model_copy(update={"passes": (*self.job.recipe.passes, *plan.steps)})
        job = replace(self.job, recipe=recipe, passes=recipe.pipeline(), reporter=SILENT)
        return job, BuildCache(recipe, Path(mkdtemp(dir=self.scratch)), self.reporter, is_fresh=False)


def choosing(job: Job) -> Job:
    """A job with the evaluation data that plans are chosen by: every other batch."""
    return replace(job, evaluation=list(job.evaluation[::2]))


def passes_of(task: tuple[Recipe, Any]) -> Parcel | None:
    """The graph that a plan's passes end with, made by a worker; None if its machine isn't like the one that asks."""
    recipe, target = task
    with isolated_imports(recipe.folder), workspace() as scratch:
        job = choosing(prepare(recipe, SILENT))
        if plain(job.target) != target:  # passes take times
            return None
        cache = BuildCache(recipe, scratch, SILENT, is_fresh=False)
        if cache.find(job) is None:
            run_passes(job, scratch, cache)
        return cache.packed(job)
