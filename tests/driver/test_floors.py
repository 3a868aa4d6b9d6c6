"""Budgets that no model meets are refused before any pass runs; others are left to the build."""

import re
from pathlib import Path

import pytest

from planish.driver.build import build
from planish.driver.dry_run import dry_run
from planish.driver.recipe import Recipe
from planish.driver.recipe_file import make_recipe
from planish.driver.reporter import SILENT
from planish.driver.search import search
from planish.ir.errors import BudgetError, PassError

HOPELESS = {"latency": "1 ns"}
EXPLODES = ["passes_of_mine:Explode"]


def recipe(folder: Path, **changes: object) -> Recipe:
    """A recipe whose first pass ends any build that gets as far as that."""
    return make_recipe(
        {
            "model": "model.py:build",
            "data": {"calibration": "data.py:calibration", "evaluation": "data.py:test"},
            "passes": EXPLODES,
            "backend": "onnxruntime",
            "folder": folder,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (HOPELESS, r"in onnxruntime the latency is [\d.]+ .?s, more than 1 ns"),
        ({"size": "10 B"}, r"in onnxruntime the size is \d+ B, more than 10 B"),
    ],
)
def test_a_budget_below_that_of_a_model_without_layers_is_refused_before_any_pass(
    folder: Path, budget: dict[str, str], told: str
) -> None:
    message = "no pass can meet the budget: of a model that takes these inputs and computes nothing of them, "
    with pytest.raises(BudgetError) as refusal:
        build(recipe(folder, budget=budget))
    assert re.fullmatch(message + told, str(refusal.value))
    with pytest.raises(BudgetError, match=told):
        dry_run(recipe(folder, budget=budget, passes=["cleanup"]), SILENT)
    with pytest.raises(BudgetError, match=told):
        search(recipe(folder, budget={"metric_drop": "50%", **budget}, search={"passes": [["quantize"]]}))


def test_a_budget_that_one_backend_may_meet_is_left_to_the_build(folder: Path) -> None:
    with pytest.raises(PassError, match="out of luck"):
        build(recipe(folder, backend="auto", budget={"size": "1 kB"}))  # a library that TVM makes is larger
    with pytest.raises(
        BudgetError, match=r"in onnxruntime the size is .*, and in tvm the size is .* kB, more than 10 B"
    ):
        build(recipe(folder, backend="auto", budget={"size": "10 B"}))


def test_a_machine_that_is_not_at_hand_has_no_floor(folder: Path, other_machine: Path) -> None:
    with pytest.raises(PassError, match="out of luck"):
        build(recipe(folder, target=other_machine.name, backend="tvm", budget={"size": "10 B"}))
