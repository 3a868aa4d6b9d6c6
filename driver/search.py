"""`planish search`: which techniques, one after the other, make a model fastest or smallest within a budget.

Plans are some of the recipe's techniques in their order, each with one of its settings. Every technique is tried by
itself; what it gives and costs predicts plans of several: speed-ups multiply, losses add up, and what distillation
brings back is learned from the plans that it was tried on. Then the plan with the best prediction is built, checked and
measured as any recipe is, and its own figures replace the prediction for all plans that go on from it, until no plan
that may meet the budget is predicted to be better than the best one that does. What is chosen is judged on evaluation
data that no choice was made by.

All that is built goes through the cache (`driver/cache`): plans share the graphs of their common steps, and a search
that was ended goes on where it was.
"""

import json
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import yaml

from ..backends import find_backend
from ..ir.drafts import beside, workspace
from ..ir.errors import BudgetError, PlanishError, UsageError
from ..ir.files import writing
from .cache.build_cache import BuildCache
from .cache.builds import Built
from .data import Batch
from .evaluation import Score, drop_interval, evaluate
from .job import Job, prepare
from .lowering import lower, open_artifact
from .making import make
from .recipe import Recipe, Step
from .reporter import SILENT, Reporter
from .results import Artifact
from .user_code import isolated_imports

_DISTILL = "distill"
_BRINGS_BACK = 0.5
"""The share of a loss that distillation is expected to bring back before it was tried."""
_WORTH = 1.02
"""How much better than another a plan has to be to count as better, and to be predicted to be in order to be built."""
_HOPE = 1.5
"""How many times the budget a plan may be predicted to lose and still be built, since losses rarely add up in full."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Some of the techniques, in order.

    Attributes:
        steps: behind the passes that all plans begin with.
    """

    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return " + ".join(map(_text, self.steps)) or "nothing"

    @property
    def key(self) -> str:
        """Equal for equal plans."""
        return json.dumps(self.steps, sort_keys=True)

    @property
    def ends_in_distillation(self) -> bool:
        """Whether the last step brings back what those before it have lost."""
        return bool(self.steps) and _name(self.steps[-1]) == _DISTILL

    @property
    def parent(self) -> "Plan":
        """The plan without the last step."""
        return Plan(self.steps[:-1])

    @property
    def last(self) -> "Plan":
        """The last step by itself."""
        return Plan(self.steps[-1:])


@dataclass(frozen=True, slots=True)
class Point:
    """What became of a plan.

    Attributes:
        plan: the plan.
        artifact: what was measured, on the evaluation data that plans are chosen by; None where it failed.
        failure: why; empty where it didn't.
    """

    plan: Plan
    artifact: Artifact | None
    failure: str = ""

    @property
    def gain(self) -> float:
        """How many times faster it is than the untouched model; 1 where that isn't measured."""
        return 1.0 if self.artifact is None or self.artifact.speedup is None else self.artifact.speedup.median

    @property
    def shrinkage(self) -> float:
        """How many times smaller it is than the untouched model."""
        return 1.0 if self.artifact is None else self.artifact.shrinkage

    @property
    def drop(self) -> float:
        """How much worse its metric is."""
        return math.inf if self.artifact is None or self.artifact.drop is None else self.artifact.drop


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to.

    Attributes:
        points: of all plans that were built, in order.
        front: those that no other beats in speed, size and metric at once.
        chosen: the best one within the budget.
        drop: how much worse its metric is on the evaluation data that no choice was made by.
        interval: of it, 95 %; None where that isn't known.
        plans: how many there are in all.
    """

    points: Sequence[Point]
    front: Sequence[Point]
    chosen: Point
    drop: float
    interval: tuple[float, float] | None
    plans: int

    def summary(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "chosen": str(self.chosen.plan),
            "metric_drop": self.drop,
            "metric_drop_interval": self.interval,
            "plans": self.plans,
            "points": [
                {
                    "plan": str(point.plan),
                    "speedup": point.gain,
                    "size_ratio": point.shrinkage,
                    "metric_drop": point.drop if point.artifact else None,
                    "failure": point.failure,
                    "on_front": point in self.front,
                }
                for point in self.points
            ],
        }


def search(recipe: Recipe, reporter: Reporter = SILENT, minutes: float = math.inf) -> Found:
    """Look for the best plan of a recipe's `search`, within its budget.

    Args:
        recipe: with evaluation data, and a budget of the metric.
        reporter: hears of progress.
        minutes: after which no further plan is begun.

    Raises:
        UsageError: the recipe lacks evaluation data or a budget.
        BudgetError: no plan meets the budget.
        PlanishError: as a build of the recipe raises it.
    """
    budget = recipe.budget.metric_drop
    if budget is None or recipe.data.evaluation is None:
        raise UsageError("a search needs labelled data (data.evaluation) and a budget (budget.metric_drop)")
    end = time.monotonic() + 60 * minutes
    with ExitStack() as stack:
        stack.enter_context(isolated_imports(recipe.folder))
        scratch = stack.enter_context(workspace())
        job = prepare(recipe, reporter)
        if len(job.evaluation) < 2:
            raise UsageError(
                "a search chooses by every other batch of the evaluation data, and judges by the rest: give two"
            )
        choosing, judging = list(job.evaluation[::2]), list(job.evaluation[1::2])
        trial = _Trial(replace(job, evaluation=choosing), scratch, reporter)
        plans = _plans(recipe)
        guess = _Guess(budget, recipe.search.goal)
        while (plan := guess.next(plans)) is not None and (not guess.points or time.monotonic() < end):
            reporter.stage(f"plan {len(guess.points) + 1}, at most {len(plans)}: {plan}")
            guess.learn(trial.run(plan))
        chosen = guess.best
        if chosen is None:
            raise BudgetError(f"none of {len(guess.points)} plans keeps the metric within {budget:g}")
        drop, interval = _judged(job, trial.built[chosen.plan.key], judging, scratch)
        return Found(guess.points, _front(guess.points), chosen, drop, interval, len(plans))


def write_plan(recipe: Recipe, found: Found, path: Path) -> None:
    """Write the recipe of the chosen plan.

    Raises:
        UsageError: nothing may be written there.
    """
    content = recipe.model_dump(mode="json", exclude={"search"}, exclude_defaults=True)
    content["passes"] = [*recipe.passes, *found.chosen.plan.steps]
    for key, unit in (("latency", " s"), ("size", " B")):
        if key in content.get("budget", {}):
            content["budget"][key] = f"{content['budget'][key]:.9g}{unit}"
    point = found.chosen
    head = f"# chosen by planish search: {point.gain:.2f} times as fast, {point.shrinkage:.2f} times smaller\n"
    with beside(path) as folder, writing(path):
        draft = folder / path.name
        draft.write_text(head + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        draft.replace(path)


@dataclass(slots=True)
class _Trial:
    """Builds plans.

    Attributes:
        job: of the recipe, with the evaluation data that plans are chosen by.
        scratch: a folder for what is built.
        reporter: hears of progress.
        built: by the plans' keys.
    """

    job: Job
    scratch: Path
    reporter: Reporter
    built: dict[str, Built] = field(default_factory=dict[str, Built])

    def run(self, plan: Plan) -> Point:
        """Build a plan as a recipe; a plan that fails is a point as well."""
        recipe = self.job.recipe.model_copy(update={"passes": (*self.job.recipe.passes, *plan.steps)})
        try:
            job = replace(self.job, recipe=recipe, passes=recipe.pipeline(), reporter=SILENT)
            folder = Path(mkdtemp(dir=self.scratch))
            cache = BuildCache(recipe, folder, self.reporter, is_fresh=False)
            built = cache.find(job)
            if built is None:
                built = make(job, folder, cache)
                cache.keep(job, built)
        except PlanishError as error:
            self.reporter.note(f"{plan} is left out: {error}")
            return Point(plan, None, str(error))
        self.built[plan.key] = built
        point = Point(plan, built.artifact)
        self.reporter.note(f"{plan}: {point.gain:.2f} times as fast, the metric drops by {point.drop:.4f}")
        return point


class _Guess:
    """Predicts what plans give and cost from those that were built, and says which is to be built next.

    Args:
        budget: how far the metric may drop.
        goal: `latency` or `size`.
    """

    def __init__(self, budget: float, goal: str) -> None:
        self.points: list[Point] = []
        self._budget = budget
        self._goal = goal
        self._known: dict[str, Point] = {}

    def learn(self, point: Point) -> None:
        self.points.append(point)
        self._known[point.plan.key] = point

    @property
    def best(self) -> Point | None:
        """The best point within the budget; of those that are as good but for noise, the one that loses least."""
        right = [point for point in self.points if point.drop <= self._budget]
        least = max(map(self._gain, right), default=0.0) / _WORTH
        return min((point for point in right if self._gain(point) >= least), key=lambda it: it.drop, default=None)

    def next(self, plans: Sequence[Plan]) -> Plan | None:
        """The plan to build: nothing and each technique first, then what is predicted to be best; None at the end."""
        left = [plan for plan in plans if plan.key not in self._known]
        first = next((plan for plan in left if len(plan.steps) <= 1), None)
        if first is not None:
            return first
        best = self.best
        least = 0.0 if best is None else self._gain(best) * _WORTH
        hopeful = [
            (gain, plan)
            for plan in left
            if (predicted := self._predicted(plan)) is not None
            and (gain := predicted[0]) >= least
            and predicted[1] <= self._budget * _HOPE
        ]
        return max(hopeful, key=lambda item: item[0])[1] if hopeful else None

    def _gain(self, point: Point) -> float:
        return point.gain if self._goal == "latency" else point.shrinkage

    def _predicted(self, plan: Plan) -> tuple[float, float] | None:
        """What a plan gains and loses; None for one that a failure or nothing to bring back rules out."""
        known = self._known.get(plan.key)
        if known is not None:
            return None if known.artifact is None else (self._gain(known), max(known.drop, 0.0))
        parent = self._predicted(plan.parent)
        if parent is None:
            return None
        gain, loss = parent
        if plan.ends_in_distillation:
            return (gain, loss * (1 - self._brings_back())) if loss > self._budget / 2 else None
        single, start = self._known.get(plan.last.key), self._known.get(Plan().key)
        if single is None or single.artifact is None or start is None or start.artifact is None:
            return None
        return gain * self._gain(single) / self._gain(start), loss + max(single.drop, 0.0)

    def _brings_back(self) -> float:
        """The share of a loss that distillation brings back, by the plans that were built with and without it."""
        shares: list[float] = []
        for point in self.points:
            if point.plan.ends_in_distillation:
                before = self._known.get(point.plan.parent.key)
                if before is not None and 0 < before.drop < math.inf and point.drop < math.inf:
                    shares.append(1 - max(point.drop, 0.0) / before.drop)
        return sum(shares) / len(shares) if shares else _BRINGS_BACK


def _plans(recipe: Recipe) -> list[Plan]:
    """All plans of a recipe: each technique with one of its settings, or without it; distillation needs one before."""
    found: list[tuple[Step, ...]] = [()]
    for technique in recipe.search.passes:
        found += [(*steps, step) for steps in found for step in technique if steps or _name(step) != _DISTILL]
    return [Plan(steps) for steps in found]


def _name(step: Step) -> str:
    return step if isinstance(step, str) else next(iter(step))


def _text(step: Step) -> str:
    if isinstance(step, str):
        return step
    ((name, options),) = step.items()
    return f"{name}{{{','.join(f'{key}={value}' for key, value in options.items())}}}"


def _front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one is as good as in all of speed, size and metric, and better in one; fastest first."""

    def values(point: Point) -> tuple[float, float, float]:
        return point.gain, point.shrinkage, -point.drop

    built = [point for point in points if point.artifact is not None]
    best = [
        point
        for point in built
        if not any(
            all(a >= b for a, b in zip(values(other), values(point), strict=True)) and values(other) != values(point)
            for other in built
        )
    ]
    return sorted(best, key=lambda point: -point.gain)


def _judged(
    job: Job, built: Built, batches: Sequence[Batch], scratch: Path
) -> tuple[float, tuple[float, float] | None]:
    """How much worse the metric of an artifact is than the untouched model's, on given data, with its interval."""
    assert job.metric is not None
    untouched = lower(job.source, find_backend("onnxruntime"), job.target, scratch / "untouched")
    artifact = open_artifact("artifact", built.directory)
    scores: list[Score] = [
        evaluate(job.metric, it.executable.run, batches, resamples=True) for it in (untouched, artifact)
    ]
    return job.metric.drop(scores[0].value, scores[1].value), drop_interval(job.metric, *scores)
