"""The search for the best plan within a budget, on a small model with passes of which it is known what they do."""

import json
import re
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from planish.backends.manifest import read_manifest
from planish.driver.build import build
from planish.driver.cli import app
from planish.driver.job import prepare
from planish.driver.plans import Found, Plan, Point
from planish.driver.recipe_file import make_recipe, read_recipe
from planish.driver.report import search_table
from planish.driver.reporter import SILENT, Doubts
from planish.driver.search import _check_memory, search, write_plan
from planish.driver.trials import Trials
from planish.driver.user_code import isolated_imports
from planish.ir.errors import BudgetError, UsageError

TECHNIQUES = [
    ["passes_of_mine:Negate"],
    ["passes_of_mine:Explode"],
    [{"prune-channels": {"ratio": 0.25}}, {"prune-channels": {"ratio": 0.5}}],
]


def recipe(folder: Path, **changes: object) -> object:
    content = {
        "model": "net.planish",
        "data": {"calibration": "data.py:calibration", "evaluation": "data.py:test"},
        "backend": "onnxruntime",
        "budget": {"metric_drop": "50%"},
        "search": {"goal": "size", "passes": TECHNIQUES},
    }
    return make_recipe({**content, "folder": folder, **changes})


@pytest.mark.wide
def test_the_smallest_plan_within_the_budget_is_chosen(folder: Path) -> None:
    chosen = recipe(folder)
    found = search(chosen)
    assert found.plans == 12
    plans = [str(point.plan) for point in found.points]
    assert plans[:5] == [
        "nothing",
        "passes_of_mine:Negate",
        "passes_of_mine:Explode",
        "prune-channels{ratio=0.25}",
        "prune-channels{ratio=0.5}",
    ]
    assert not any("Negate +" in plan for plan in plans)  # which by itself loses more than any budget
    assert "out of luck" in found.points[2].failure
    assert str(found.chosen.plan) == "prune-channels{ratio=0.5}"
    assert found.chosen.shrinkage == max(point.shrinkage for point in found.front)
    assert all(point.drop <= 1 for point in found.front)
    write_plan(chosen, found, folder / "best.yaml")
    assert build(folder / "best.yaml").shrinkage == pytest.approx(found.chosen.shrinkage)


@pytest.mark.parametrize(
    ("drop", "interval", "doubt"),
    [
        (0.005, (0.0, 0.01), ""),
        (0.005, None, "but the drop has no interval, which takes 8 batches or more"),
        (0.02, (0.0, 0.04), "beyond the budget of 0.01: ask for less"),
        (0.005, (0.0, 0.015), "which doesn't show that the budget of 0.01 is kept: about 4 times as much"),
        (0.01, (0.0, 0.02), "which doesn't show that the budget of 0.01 is kept"),
    ],
)
def test_data_that_cannot_show_that_the_budget_is_kept_are_told_of(
    drop: float, interval: tuple[float, float] | None, doubt: str
) -> None:
    point = Point(Plan(), None)
    found = Found([point], [], point, drop, interval, None, 1, 0.01)
    assert found.doubt.startswith(doubt)
    assert bool(found.doubt) == bool(doubt)
    assert found.summary()["doubt"] == found.doubt
    assert found.doubt in str(search_table(found).caption)


HALVES = """
import numpy as np
import torch
from data import samples
from model import build


def confident_and_doubtful():
    'Batches of which every other one has the samples that a change of the model changes the answers to at first.'
    features = samples(3, 640)
    scores = build()[0].eval()(torch.from_numpy(features)).detach().numpy()
    second, first = np.sort(scores)[:, -2:].T
    order = np.argsort(second - first)  # the widest margins first
    for sure, unsure in zip(np.split(order[:320], 10), np.split(order[320:], 10)):
        for rows in (sure, unsure):
            yield {"features": features[rows], "labels": scores[rows].argmax(1)}
"""


def test_a_plan_is_chosen_by_what_the_other_half_of_the_data_show(folder: Path) -> None:
    (folder / "halves.py").write_text(HALVES)
    data = {"calibration": "data.py:calibration", "evaluation": "halves.py:confident_and_doubtful"}
    techniques = {"goal": "size", "passes": [[{"prune-channels": {"ratio": 0.25}}]]}
    refused = search(recipe(folder, data=data, budget={"metric_drop": "5%"}, search=techniques))
    pruned = next(point for point in refused.points if point.plan.steps)
    assert pruned.loss(0.975) < 0.05  # as the first half says
    assert str(refused.chosen.plan) == "nothing"
    assert refused.better is pruned
    assert str(pruned.plan) in str(search_table(refused).caption)
    kept = search(recipe(folder, data=data, budget={"metric_drop": "50%"}, search=techniques))
    assert kept.chosen.plan == pruned.plan
    assert kept.interval[1] > 0.05  # which is why it wasn't chosen
    assert kept.better is None


def test_a_search_needs_a_budget_that_can_be_met(folder: Path) -> None:
    with pytest.raises(UsageError, match="a search needs labelled data"):
        search(recipe(folder, budget={}))
    lossy = {"passes": ["passes_of_mine:Negate"], "budget": {"metric_drop": "1%"}}
    with pytest.raises(
        UsageError, match=r"can't show a drop below 0\.058, and the budget is 0\.01: give 6 times as much"
    ):
        search(recipe(folder, **lossy))
    by_drop = {"goal": "size", "confidence": 0.5, "passes": TECHNIQUES[1:2], "minutes": 1e-9}
    with pytest.raises(BudgetError, match=r"none of 1 plans is shown to keep the metric within 0\.01"):
        search(recipe(folder, **lossy, search=by_drop), hurried := Doubts(SILENT))
    assert hurried.texts == [
        "the search's minutes leave no time for any plan: give it more (--minutes, search.minutes)"
    ]
    with pytest.raises(BudgetError, match="none of 2 plans"):
        search(recipe(folder, **lossy, search=by_drop), unhurried := Doubts(SILENT), minutes=60)
    assert not unhurried.texts
    small = {"budget": {"metric_drop": "50%", "size": "1 kB"}, "search": {"goal": "size", "passes": TECHNIQUES[2:]}}
    with pytest.raises(BudgetError) as refusal:
        search(recipe(folder, **small))
    assert re.fullmatch(
        r"none of the 3 plans that keep the metric within 0\.5 keeps the rest of the budget: "
        r"with prune-channels\{ratio=0\.\d+\}, the size is \d\.\d+ kB, more than 1 kB",
        str(refusal.value),
    )


@pytest.mark.parametrize(
    ("left", "told"),
    [
        (2.5, ["and 2.5 MB are left: --executor processes://2 may be faster"]),
        (0.5, ["and 500 kB are left: no --executor may be faster"]),
        (4.5, []),
    ],
)
def test_workers_that_do_not_fit_into_memory_are_warned_of(
    left: float, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planish.driver.search.resident", {"VmHWM": 1_000_000}.get)
    monkeypatch.setattr("planish.driver.search.available", lambda: int(left * 1_000_000))
    doubts = Doubts(SILENT)
    _check_memory(4, doubts)
    assert doubts.texts == [f"4 workers are likely to take 4 MB of memory, {it}" for it in told]


@pytest.mark.wide
def test_the_fastest_plans_are_timed_in_one_run_before_one_is_chosen(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planish.driver.guess._NOISE", 1e9)
    found = search(recipe(folder, search={"goal": "latency", "passes": TECHNIQUES[2:]}))
    timed = [point.artifact for point in found.points]
    assert len(timed) == 3
    assert len({id(artifact.untouched.latency) for artifact in timed}) == 1
    assert len({id(artifact.built.latency) for artifact in timed}) == 3
    assert found.chosen.gain >= max(point.gain for point in found.points) / 1.02


def test_the_metric_is_computed_of_the_untouched_model_once_and_not_between_passes(folder: Path) -> None:
    found = search(recipe(folder, search={"goal": "size", "passes": TECHNIQUES[2:]}))
    built = [point.artifact for point in found.points]
    assert len({id(artifact.untouched.score) for artifact in built}) == 1
    assert all(row.metric is None for artifact in built for row in artifact.passes[1:])
    assert all(artifact.drop is not None for artifact in built)


@pytest.mark.parametrize(
    ("steps", "seconds"),
    [
        (("quantize",), 1000 + 600),  # by itself it took so long
        (("prune-channels", "factorize", "quantize"), 1000 + 5000 + 600),  # as long as the longest
        (("prune-channels", "distill", "quantize"), 1000 + 4 * 5000 + 600),  # nothing was trained: four times as long
        (("prune-channels", {"quantize": {"scheme": "int8-dynamic"}}), 1000 + 600),
    ],
)
def test_no_plan_is_begun_that_may_take_longer_than_what_is_left(
    folder: Path, steps: tuple[object, ...], seconds: int
) -> None:
    with isolated_imports(folder):
        trials = Trials(prepare(recipe(folder), SILENT), folder, SILENT)
    trials.taken += [(Plan(), 300.0), (Plan(("prune-channels",)), 5000.0), (Plan(("fuse", "quantize")), 1000.0)]
    assert not trials.time_left_for(Plan(steps), time.monotonic() + seconds - 100)
    assert trials.time_left_for(Plan(steps), time.monotonic() + seconds + 100)


def test_a_pass_is_expected_to_take_less_of_what_was_pruned(folder: Path) -> None:
    pruned, failing = Plan(({"prune-channels": {"ratio": 0.5}},)), Plan(("passes_of_mine:Explode",))
    with isolated_imports(folder):
        trials = Trials(prepare(recipe(folder), SILENT), folder, SILENT)
        for plan in (pruned, failing):
            trials.run(plan)
    trials.taken[:] = [(Plan(), 0.0), (pruned, 0.0), (failing, 0.0), (Plan(("quantize",)), 5000.0)]
    for begun, least, most in ((pruned, 1000, 4000), (failing, 4500, 5500)):
        plan = Plan((*begun.steps, "quantize"))
        assert not trials.time_left_for(plan, time.monotonic() + least)
        assert trials.time_left_for(plan, time.monotonic() + most)


def test_a_build_whose_passes_are_auto_builds_the_plan_that_a_search_chooses(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANISH_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("PLANISH_CACHE_SIZE", "1GB")
    content = {
        "model": "net.planish",
        "data": {"calibration": "data.py:calibration", "evaluation": "data.py:test"},
        "backend": "onnxruntime",
        "passes": "auto",
        "budget": {"metric_drop": "50%"},
        "search": {"goal": "size", "passes": [[{"prune-channels": {"ratio": 0.25}}]]},
    }
    (folder / "auto.yaml").write_text(yaml.safe_dump(content))
    foreseen = CliRunner().invoke(app, ["build", "auto.yaml", "--dry-run", "--json"])
    assert json.loads(foreseen.stdout)["plans"] == 2
    assert not (folder / "dist").exists()

    built = CliRunner().invoke(app, ["build", "auto.yaml"])
    assert built.exit_code == 0, built.output
    assert "2 of 2 plans were built" in built.output
    assert "the graph after 32 of 32 steps is that of an earlier build" in built.output
    chosen = ["cleanup", "fuse", {"prune-channels": {"ratio": 0.25}}]
    assert read_manifest(folder / "dist")["recipe"]["passes"] == chosen
    assert "evaluated for the artifact, not after the passes" in (folder / "dist/report.html").read_text()

    again = CliRunner().invoke(app, ["build", "auto.yaml", "--times", "dist"])
    assert again.exit_code == 2
    assert "leaves the passes to a new search, so --times can't repeat a build" in again.output


def test_the_recipe_of_a_plan_says_what_the_search_was_given(tmp_path: Path) -> None:
    given = make_recipe({"model": {"model.py:build": {"name": "${name}"}}, "passes": "auto"})
    point = Point(Plan(("quantize",)), None)
    write_plan(given, Found([point], [], point, 0.0, None, None, 1, 0.01), tmp_path / "plan.yaml")
    written = read_recipe(tmp_path / "plan.yaml")
    assert (written.model, written.passes) == (given.model, ("cleanup", "fuse", "quantize"))
