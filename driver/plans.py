"""Plans of a search: some of a recipe's techniques in their order, what became of those built, and which was chosen."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..passes.pipeline import find_pass, make_pipeline
from ..passes.training.train import Training
from .evaluation import FEWEST
from .measurement import Latency
from .recipe import Recipe, Step
from .results import Artifact

DISTILL = "distill"


@dataclass(frozen=True, slots=True)
class Plan:
    """Some of the techniques, in order.

    Attributes:
        steps: the steps after the passes that all plans begin with.
    """

    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return " + ".join(map(_text, self.steps)) or "nothing"

    @property
    def key(self) -> str:
        """A text that is equal for equal plans."""
        return json.dumps(self.steps, sort_keys=True)

    @property
    def ends_in_distillation(self) -> bool:
        """Whether the last step brings back what those before it have lost."""
        return bool(self.steps) and name_of(self.steps[-1]) == DISTILL

    @property
    def parent(self) -> "Plan":
        """The plan without the last step."""
        return Plan(self.steps[:-1])

    @property
    def last(self) -> "Plan":
        """The last step by itself."""
        return Plan(self.steps[-1:])

    @property
    def untrained(self) -> "Plan":
        """The plan without steps that train: it computes other numbers in the same time."""
        return Plan(tuple(step for step in self.steps if not _trains(step)))

    def replaced(self, place: int, step: Step) -> "Plan":
        """The plan with another step in a place."""
        return Plan((*self.steps[:place], step, *self.steps[place + 1 :]))


@dataclass(frozen=True, slots=True)
class Point:
    """What became of a plan.

    Attributes:
        plan: the plan.
        artifact: what was measured, on the evaluation data that plans are chosen by; None where it failed.
        failure: why it failed; empty where it didn't.
        predicted: how many times faster it is taken to be by what other plans were measured to gain; None where nothing
            is known.
    """

    plan: Plan
    artifact: Artifact | None
    failure: str = ""
    predicted: float | None = None

    @property
    def is_timed(self) -> bool:
        """Whether its latency was measured: it was built, for the machine at hand."""
        return self.artifact is not None and self.artifact.speedup is not None

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

    def loss(self, confidence: float) -> float:
        """How much worse its metric is at the most, with a confidence; the drop itself where that isn't known."""
        largest = None if self.artifact is None else self.artifact.largest_drop(confidence)
        return math.inf if largest is None else largest

    def timed(self, untouched: Latency, built: Latency) -> "Point":
        """The same with latencies of another run."""
        if self.artifact is None:
            return self
        return replace(self, artifact=self.artifact.timed(untouched, built))

    def summary(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "plan": str(self.plan),
            "speedup": self.gain,
            "predicted_speedup": self.predicted,
            "size_ratio": self.shrinkage,
            "metric_drop": self.drop if self.artifact else None,
            "failure": self.failure,
        }


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to.

    Attributes:
        points: the points of all plans that were built, in order.
        front: the points that no other beats in speed, size and metric at once.
        chosen: the best point that was shown to keep the budget.
        drop: how much worse the chosen point's metric is on the evaluation data that it was tested on.
        interval: the 95 % interval of that drop; None where it isn't known.
        better: a better point that may keep the budget, but wasn't shown to; None where there is none.
        plans: how many plans there are in all.
        budget: the budget that drops should keep.
    """

    points: Sequence[Point]
    front: Sequence[Point]
    chosen: Point
    drop: float
    interval: tuple[float, float] | None
    better: Point | None
    plans: int
    budget: float

    @property
    def doubt(self) -> str:
        """Why the data that plans were tested on don't show that the budget is kept; empty where they do."""
        if self.drop > self.budget:
            return f"beyond the budget of {self.budget:g}: ask for less, or give more evaluation data"
        if self.interval is None:
            return (
                f"but the drop has no interval, which takes {FEWEST} batches or more in each half of the evaluation "
                "data"
            )
        high = self.interval[1]
        if high <= self.budget:
            return ""
        told = f"which doesn't show that the budget of {self.budget:g} is kept"
        if self.drop == self.budget:
            return told
        times = math.ceil(((high - self.drop) / (self.budget - self.drop)) ** 2)  # widths go by the root of the samples
        return f"{told}: about {times} times as much evaluation data might"

    def summary(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "chosen": str(self.chosen.plan),
            "metric_drop": self.drop,
            "metric_drop_interval": self.interval,
            "doubt": self.doubt,
            "may_be_better": None if self.better is None else str(self.better.plan),
            "plans": self.plans,
            "points": [{**point.summary(), "on_front": point in self.front} for point in self.points],
        }


def plans_of(recipe: Recipe) -> list[Plan]:
    """All plans of a recipe: each technique with one of its settings, or without it; distillation needs one before."""
    found: list[tuple[Step, ...]] = [()]
    for technique in recipe.search.passes:
        found += [(*steps, step) for steps in found for step in technique if steps or name_of(step) != DISTILL]
    return [Plan(steps) for steps in found]


def front(points: Sequence[Point]) -> list[Point]:
    """The Pareto front of speed, size and metric, fastest first: the points that no other point dominates."""

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


def name_of(step: Step) -> str:
    """The name of a step's pass."""
    return step if isinstance(step, str) else next(iter(step))


def options_of(step: Step) -> dict[str, Any]:
    """The options that a step gives its pass, with `2` as 2.0 where the pass takes any number."""
    if isinstance(step, str):
        return {}
    kind, given = find_pass(name_of(step)), next(iter(step.values()))
    is_real = {name: isinstance(getattr(kind, name, None), float) for name in given}
    return {name: float(value) if is_real[name] and type(value) is int else value for name, value in given.items()}


def _trains(step: Step) -> bool:
    return all(isinstance(it, Training) for it in make_pipeline((step,)))


def _text(step: Step) -> str:
    options = ",".join(f"{key}={value}" for key, value in options_of(step).items())
    return f"{name_of(step)}{{{options}}}" if options else name_of(step)
