"""Plans of a search, built and measured; their passes may run elsewhere, by workers that fill the cache."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
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
from .lowering import open_artifact
from .making import Untouched, evaluated, make, run_passes
from .measurement import interleaved
from .plans import Plan, Point, name_of
from .recipe import Recipe
from .reporter import SILENT, Reporter
from .results import plain
from .user_code import isolated_imports

_FIRST_TRAINING = 4.0
"""How many times as long as the longest plan so far the first training may take."""


@dataclass
class Trials:
    """Builds plans.

    Attributes:
        job: the job of the recipe, with the evaluation data that plans are chosen by.
        scratch: a folder for what is built.
        reporter: the reporter that is told of progress.
        built: what was built, by the plans' keys.
        begun: the keys of plans whose passes have run elsewhere, as far as they did.
        taken: the plans that were run, and the seconds that each took, in order.
    """

    job: Job
    scratch: Path
    reporter: Reporter
    built: dict[str, Built] = field(default_factory=dict[str, Built])
    begun: set[str] = field(default_factory=set[str])
    taken: list[tuple[Plan, float]] = field(default_factory=list[tuple[Plan, float]])

    @cached_property
    def untouched(self) -> Untouched:
        """The model as it was read, with its metric on the data that plans are chosen by."""
        return evaluated(self.job, Path(mkdtemp(dir=self.scratch)))

    def time_left_for(self, plan: Plan, end: float) -> bool:
        """Whether a plan, and then the tests of those that may be chosen, may be expected to be done by a time.

        The tests are expected to take twice as long as the first plan, whose metric is all that takes time.
        """
        tests = 2 * sum(seconds for _, seconds in self.taken[:1])
        return time.monotonic() + self._expected(plan) + tests <= end

    def _expected(self, plan: Plan) -> float:
        """The seconds that a plan may take: for each new pass, as many as the longest plan that ended in it.

        A pass that begins with fewer operations takes less. Where no plan ended in it, the longest of all plans counts,
        and for the first training several times that.
        """
        if not plan.steps or any(it == plan for it, _ in self.taken):
            return 0.0
        last = name_of(plan.steps[-1])
        same = [(it, seconds) for it, seconds in self.taken if it.steps and name_of(it.steps[-1]) == last]
        longest = max((seconds / self._share_left(it.parent) for it, seconds in same or self.taken), default=0.0)
        is_first_training = not same and plan.last.untrained != plan.last
        scale = self._share_left(plan.parent) * (_FIRST_TRAINING if is_first_training else 1.0)
        return longest * scale + self._expected(plan.parent)

    def _share_left(self, plan: Plan) -> float:
        """The share of the untouched model's operations that a plan leaves, if it was built; otherwise 1."""
        flops = [row.cost.flops for row in self.built[plan.key].artifact.passes] if plan.key in self.built else [1]
        return flops[-1] / flops[0] if flops[0] and flops[-1] else 1.0

    def run(self, plan: Plan) -> Point:
        """Build a plan as a recipe; a plan that fails is a point as well."""
        start = time.monotonic()
        try:
            job, cache = self._job(plan)
            built = cache.find(job)
            if built is None:
                built = make(job, Path(mkdtemp(dir=self.scratch)), cache, self.untouched)
                cache.keep(job, built)
        except PlanishError as error:
            self.reporter.note(f"{plan} is left out: {error}")
            return Point(plan, None, str(error))
        finally:
            self.taken.append((plan, time.monotonic() - start))
        self.built[plan.key] = built
        point = Point(plan, built.artifact)
        self.reporter.note(f"{plan}: {point.gain:.2f} times as fast, the metric drops by {point.drop:.4f}")
        return point

    def race(self, points: Sequence[Point]) -> list[Point]:
        """The same points with latencies from one run in which they and the untouched model take turns."""
        self.reporter.stage(f"timing the {len(points)} fastest plans in turn")
        built = [open_artifact(str(point.plan), self.built[point.plan.key].directory) for point in points]
        untouched = self.untouched.model.executable
        sample = single_sample(self.job.evaluation[0].inputs, untouched.inputs)
        models = [untouched, *(it.executable for it in built)]
        runs = [lambda model=model: model.run(sample) for model in models]
        reference, *latencies = interleaved(runs, patient=True)
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
            except PlanishError:  # running the plan tells it
                continue
        self.reporter.stage(f"passes of {len(jobs)} plans run elsewhere")
        target = plain(self.job.target)
        parcels = executor.run(passes_of, [(job.recipe, target) for job, _ in jobs])
        for (job, cache), parcel in zip(jobs, parcels, strict=True):
            if parcel is not None:
                cache.unpack(job, parcel)

    def _job(self, plan: Plan) -> tuple[Job, BuildCache]:
        recipe = self.job.recipe.model_copy(update={"passes": (*self.job.recipe.steps, *plan.steps)})
        job = replace(self.job, recipe=recipe, passes=recipe.pipeline(), reporter=SILENT)
        return job, BuildCache(recipe, Path(mkdtemp(dir=self.scratch)), self.reporter, is_fresh=False)


def choosing(job: Job) -> Job:
    """A job of a trial, with the evaluation data that plans are chosen by: every other batch."""
    return replace(job, evaluation=list(job.evaluation[::2]), is_trial=True)


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
