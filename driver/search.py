"""`planish search`: which techniques, one after the other, make a model fastest or smallest within a budget.

Plans are some of the recipe's techniques in their order, each with one of its settings. Every technique is tried by
itself; what it gives and costs predicts plans of several (`guess.py`). Then the plan with the best prediction is built,
checked and measured as any recipe is, and its own figures replace the prediction for all plans that go on from it,
until no plan that may meet the budget is predicted to be better than the best one that does; in the end settings
between two that were given are tried. The fastest plans are timed once more, in turn with the plans that they go on
from, and their speed is predicted once more by those.

All that uses one half of the evaluation data. Plans that are shown to keep the budget there are tested on the other
half, from the one that loses least to the fastest, until one isn't shown to keep it; the last one that passed becomes
the choice. The order is fixed before, so that all tests together are wrong no more often than a single one.

Source: B. Laufer-Goldshtein, A. Fisch, R. Barzilay and T. Jaakkola, Efficiently Controlling Multiple Risks with Pareto
Testing (ICLR 2023).

All that is built goes through the cache (`driver/cache`): plans share the graphs of their common steps, and a search
that was ended goes on where it was.
"""

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import yaml

from ..ir.drafts import replacing, workspace
from ..ir.errors import BudgetError, UsageError
from ..passes.instruments.memory import STATUS, available, resident
from ..passes.units import show_bytes
from .evaluation import Score, drop_interval, evaluate, largest_drop
from .executor import opened
from .floors import refuse_hopeless
from .guess import Guess
from .job import Job, prepare
from .lowering import Candidate, open_artifact
from .plans import Found, Plan, Point, front, plans_of
from .recipe import Budget, Recipe
from .reporter import SILENT, Reporter
from .trials import Trials, choosing
from .user_code import isolated_imports
from .variables import escape


def search(
    recipe: Recipe, reporter: Reporter = SILENT, minutes: float | None = None, executor: str | None = None
) -> Found:
    """Look for the best plan of a recipe's `search`, within its budget.

    Args:
        recipe: a recipe with evaluation data, and a budget of the metric.
        reporter: the reporter that is told of progress.
        minutes: the minutes that the search may take; None for those of the recipe. No plan is begun that is expected
            to take longer than what is left of them; a plan that was begun is finished.
        executor: what runs the passes of several plans at a time, see `executor.opened`; None for none. All else, and
            above all what is measured, happens here, in the same order.

    Raises:
        UsageError: the recipe lacks evaluation data or a budget, or the executor can't be reached.
        BudgetError: no plan meets the budget.
        PlanishError: as a build of the recipe raises it.
    """
    budget = budget_of(recipe)
    end = time.monotonic() + 60 * (recipe.search.minutes if minutes is None else minutes)
    with ExitStack() as stack:
        stack.enter_context(isolated_imports(recipe.folder))
        scratch = stack.enter_context(workspace())
        job = prepare(recipe, reporter)
        if len(job.evaluation) < 2:
            raise UsageError(
                "a search builds plans on every other batch of the evaluation data and tests them on the rest: "
                "give at least two batches"
            )
        refuse_hopeless(job)
        pool = stack.enter_context(opened(executor))
        trials = Trials(choosing(job), scratch, reporter)
        plans, confidence = plans_of(recipe), recipe.search.confidence
        _check_samples(trials, budget, confidence)
        if pool is not None and pool.is_here and STATUS.is_file():
            _check_memory(pool.workers, reporter)
        guess = Guess(recipe.budget, recipe.search.goal, confidence)
        while (plan := _next(guess, plans, trials, end)) is not None:
            if pool is not None and plan.key not in trials.begun:
                trials.run_elsewhere(pool, guess.ahead(plans, pool.workers))
            reporter.stage(f"plan {len(guess.points) + 1}: {plan}")
            guess.learn(replace(trials.run(plan), predicted=guess.gain(plan)))
        if len(guess.points) < min(2, len(plans)):
            reporter.warn("the search's minutes leave no time for any plan: give it more (--minutes, search.minutes)")
        if len(racers := guess.racers) > 1:
            raced = trials.race(racers)
            for point in raced:
                guess.learn(point)
            for point in raced:
                guess.learn(replace(point, predicted=guess.expected(point.plan)))
        if not guess.sequence:
            raise BudgetError(_missed(guess.points, recipe.budget, budget, confidence))
        chosen, drop, interval = _tested(job, trials, guess.sequence, budget)
        better = guess.may_be_better(chosen)
        return Found(guess.points, front(guess.points), chosen, drop, interval, better, len(plans), budget)


def _missed(points: Sequence[Point], costs: Budget, budget: float, confidence: float) -> str:
    """Why none of some points can be chosen."""
    within = [
        (point.artifact.built.excesses(costs), point)
        for point in points
        if point.artifact is not None and point.loss(confidence) <= budget
    ]
    if not within:
        return (
            f"none of {len(points)} plans is shown to keep the metric within {budget:g}: ask for less, "
            "give more evaluation data, or set search.confidence to 0.5"
        )
    excesses, nearest = min(within, key=lambda one: (len(one[0]), -one[1].gain * one[1].shrinkage))
    return (
        f"none of the {len(within)} plans that keep the metric within {budget:g} keeps the rest of the budget: "
        f"with {nearest.plan}, {' and '.join(excesses)}"
    )


def budget_of(recipe: Recipe) -> float:
    """How much worse the metric of a plan may be.

    Raises:
        UsageError: the recipe lacks evaluation data or a budget.
    """
    budget = recipe.budget.metric_drop
    if budget is None or recipe.data.evaluation is None:
        raise UsageError("a search needs labelled data (data.evaluation) and a budget (budget.metric_drop)")
    return budget


def write_plan(recipe: Recipe, found: Found, path: Path) -> None:
    """Write the recipe of the chosen plan.

    Raises:
        UsageError: nothing may be written there.
    """
    content = recipe.model_dump(mode="json", exclude={"search"}, exclude_defaults=True)
    content["passes"] = [*recipe.steps, *found.chosen.plan.steps]
    for key, unit in (("latency", " s"), ("size", " B")):
        if key in content.get("budget", {}):
            content["budget"][key] = f"{content['budget'][key]:.9g}{unit}"
    point = found.chosen
    head = f"# chosen by planish search: {point.gain:.2f} times as fast, {point.shrinkage:.2f} times smaller\n"
    with replacing(path) as draft:
        draft.write_text(head + yaml.safe_dump(escape(content), sort_keys=False), encoding="utf-8")


def _next(guess: Guess, plans: Sequence[Plan], trials: Trials, end: float) -> Plan | None:
    """The plan to build; None at the end, or where there is no time left for any. The first is always built."""
    if not guess.points:
        return guess.next(plans)
    short = [plan for plan in plans if trials.time_left_for(plan, end)]
    return next((plan for plan in guess.ahead(short, len(plans)) if trials.time_left_for(plan, end)), None)


def _check_samples(trials: Trials, budget: float, confidence: float) -> None:
    """See that a model which answers as the untouched one does can be shown to keep the budget.

    Raises:
        UsageError: there are too few samples for it.
    """
    metric, score = trials.job.metric, trials.untouched.score
    assert metric is not None
    assert score is not None
    least = largest_drop(metric, score, score, confidence)
    if least > budget:
        raise UsageError(
            f"half of the evaluation data can't show a drop below {least:.2g}, and the budget is {budget:g}: "
            f"give {math.ceil(least / budget)} times as much or more, or set search.confidence to 0.5, which "
            "goes by the drop itself"
        )


def _check_memory(workers: int, reporter: Reporter) -> None:
    """Warn of workers that take more memory than there is, if each takes as much as this process has taken so far."""
    each, left = resident("VmHWM"), available()
    if each * workers > left:
        fitting = f"--executor processes://{left // each}" if left >= each else "no --executor"
        reporter.warn(
            f"{workers} workers are likely to take {show_bytes(workers * each)} of memory, and {show_bytes(left)} are "
            f"left: {fitting} may be faster"
        )


def _tested(
    job: Job, trials: Trials, sequence: Sequence[Point], budget: float
) -> tuple[Point, float, tuple[float, float] | None]:
    """The last plan of a sequence that the rest of the evaluation data show to keep the budget, and its drop there.

    The first one of the sequence is taken untested where the second one isn't shown to.
    """
    metric, batches = job.metric, job.evaluation[1::2]
    assert metric is not None

    def score(model: Candidate) -> Score:
        return evaluate(metric, model.executable.run, batches, resamples=True)

    def after(point: Point) -> Score:
        job.reporter.stage(f"testing {point.plan} on the other half of the evaluation data")
        return score(open_artifact("artifact", trials.built[point.plan.key].directory))

    before = score(trials.untouched.model)
    chosen: tuple[Point, Score] | None = None
    for point in sequence[1:]:
        found = after(point)
        if largest_drop(metric, before, found, job.recipe.search.confidence) > budget:
            break
        chosen = point, found
    point, found = chosen or (sequence[0], after(sequence[0]))
    return point, metric.drop(before.value, found.value), drop_interval(metric, before, found)
