"""How many rows choose another class is told from more than those that do."""

import numpy as np
import pytest
import torch

from planish.passes.choices import leads, share_moved
from planish.passes.measures import LossKind

RNG = np.random.default_rng(0)


def moved(wanted: np.ndarray, got: np.ndarray, kind: LossKind = LossKind.LOGITS) -> float:
    return share_moved(*leads(kind, torch.from_numpy(wanted), torch.from_numpy(got)))


def test_a_few_rows_tell_what_many_would() -> None:
    """If 1.2 % of all rows move, none of 64 does in half of the draws."""
    before = RNG.uniform(0, 10, 100_000)
    after = before + RNG.normal(0, 0.3, before.shape)
    truth = (after < 0).mean()
    draws = [RNG.choice(len(before), 64, replace=False) for _ in range(400)]
    counted = np.array([(after[draw] < 0).mean() for draw in draws])
    found = np.array([share_moved(before[draw], after[draw]) for draw in draws])
    assert (counted == 0).mean() > 0.4
    assert (found < truth / 3).mean() < 0.2
    assert truth < found.mean() < 1.5 * truth


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_a_handful_of_rows_tells_little(rows: int) -> None:
    """Leads that moved by a quarter of what they were may well be gone in the next row."""
    before = np.full(rows, 4.0)
    after = before + np.resize([1.0, -1.0], rows)
    assert share_moved(before, after) > 0.01


def test_a_shift_of_all_rows_moves_those_that_it_reaches() -> None:
    before = RNG.uniform(0, 10, 64)
    assert share_moved(before, before - 1) == (before < 1).mean()


def test_what_stays_has_not_moved_and_rows_without_a_choice_do_not_count() -> None:
    logits = np.concatenate([RNG.normal(size=(20, 5)), np.zeros((20, 5))])
    assert moved(logits, logits) == 0
    assert moved(logits[:, :1], -logits[:, :1]) == 0
    assert share_moved(np.empty(0), np.empty(0)) == 0


@pytest.mark.parametrize("kind", [LossKind.LOGITS, LossKind.PROBABILITIES])
def test_classes_that_are_masked_and_outputs_that_are_no_numbers(kind: LossKind) -> None:
    outputs = np.array([[0.7, 0.3, 0.0], [0.2, 0.8, 0.0], [0.1, 0.9, 0.0], [0.6, 0.4, 0.0]])
    if kind is LossKind.LOGITS:
        outputs[:, 2] = -np.inf
    broken = outputs.copy()
    broken[1] = np.nan
    assert moved(outputs, outputs, kind) == 0
    assert moved(outputs, broken, kind) >= 0.25
