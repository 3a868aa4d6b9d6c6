from pathlib import Path

import numpy as np
import pytest

from planish.driver.data import Batch
from planish.driver.evaluation import Metric, Score, drop_interval, evaluate, find_metric, flips, mcnemar
from planish.driver.metrics import accuracy
from planish.driver.user_code import isolated_imports
from planish.ir.errors import ModelError, UsageError

EYE = np.eye(4, dtype=np.float32)


def test_flips_and_how_likely_they_are() -> None:
    before, after = (np.array([int(digit) for digit in text], bool) for text in ("1111110000", "1100001000"))
    assert flips(Score(0.6, before), Score(0.3, after)) == (4, 1)
    assert flips(Score(0.6), Score(0.3, after)) is None
    assert mcnemar((4, 1)) == pytest.approx(0.375)
    assert mcnemar((0, 0)) == 1


def test_a_metric_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "metric.py").write_text(
        "def errors(predictions, labels):\n"
        "    return sum(len(outputs) != len(texts) for outputs, texts in zip(predictions, labels))\n"
        "errors.lower_is_better = True\n"
    )
    with isolated_imports(tmp_path):
        metric = find_metric("metric.py:errors", tmp_path)
    batches = [Batch({}, ["one", "two"]), Batch({}, ["three"])]
    assert evaluate(metric, lambda feeds: [EYE], batches).value == 1
    assert metric.drop(before=1, after=3) == 2
    assert Metric("accuracy", accuracy).drop(before=0.9, after=0.8) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "message"),
    [("acuracy", r"unknown metric 'acuracy'; did you mean 'accuracy'\?"), ("math:pi", "the metric math:pi is not")],
)
def test_unknown_metrics(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_metric(name, tmp_path)


def test_a_metric_of_another_package(install, tmp_path: Path) -> None:
    install("[planish.metrics]\nwrong = others:wrong\n", "def wrong(predictions, labels): return 0.25\n")
    assert evaluate(find_metric("wrong", tmp_path), lambda feeds: [EYE], [Batch({}, [0])]).value == 0.25
    with pytest.raises(UsageError, match="unknown metric 'wrongs'; did you mean 'wrong'"):
        find_metric("wrongs", tmp_path)


@pytest.mark.parametrize("value", [float("nan"), None, np.ones(2)])
def test_a_metric_must_be_a_number(value: object) -> None:
    with pytest.raises(ModelError, match=r"the metric mine is .*, not a finite number"):
        evaluate(Metric("mine", lambda predictions, labels: value), lambda feeds: [EYE], [Batch({}, [0])])


# -- how much worse, and how sure that is


def right(share: float, count: int = 1000) -> Score:
    return Score(share, np.arange(count) < share * count)


def test_a_drop_of_accuracy_has_a_paired_interval() -> None:
    low, high = drop_interval(find_metric("accuracy", Path()), right(0.95), right(0.93))
    assert 0.01 < low < 0.02 < high < 0.03  # of the same samples; two independent ones would say -0.001 to 0.041
    low, high = drop_interval(find_metric("accuracy", Path()), right(0.95, 20), right(0.9, 20))
    assert low <= 0 < high


def test_any_metric_is_drawn_anew_in_pairs() -> None:
    random = np.random.default_rng(0)
    truth = random.standard_normal((64, 4))
    batches = [Batch({"x": row}, labels=row) for row in truth]
    metric = find_metric("spearman", Path())
    good, bad = (
        evaluate(
            metric, lambda feeds, noise=noise: [feeds["x"] + noise * np.sin(97 * feeds["x"])], batches, resamples=True
        )
        for noise in (0.1, 0.5)
    )
    interval = drop_interval(metric, good, bad)
    assert interval is not None
    assert 0 < interval[0] < metric.drop(good.value, bad.value) < interval[1]
    few = evaluate(metric, lambda feeds: [feeds["x"]], batches[:3], resamples=True)
    assert drop_interval(metric, few, few) is None


@pytest.mark.parametrize(("count", "reach"), [(7, None), (10, 2.262), (20, 2.093)])
def test_a_slow_metric_has_an_interval_by_groups_of_samples(count: int, reach: float | None) -> None:
    good, bad = (
        Score(value, groups=list(value + spread * np.resize([-1.0, 1.0], count)))
        for value, spread in ((0.9, 0.0), (0.8, 0.1))
    )
    interval = drop_interval(find_metric("spearman", Path()), good, bad)
    if reach is None:
        assert interval is None
    else:
        half = reach * np.std(bad.groups, ddof=1) / count**0.5
        assert interval == pytest.approx((0.1 - half, 0.1 + half), rel=1e-3)


def test_a_slow_metric_is_as_sure_as_a_fast_one(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    truth = random.standard_normal((60, 50))
    batches = [Batch({"x": row, "noise": random.standard_normal(50)}, labels=row) for row in truth]
    metric, intervals = find_metric("pearson", Path()), []
    for seconds in (2.0, 0.0):
        monkeypatch.setattr("planish.driver.evaluation._SECONDS", seconds)
        good, bad = (
            evaluate(metric, lambda feeds, share=share: [feeds["x"] + share * feeds["noise"]], batches, resamples=True)
            for share in (0.1, 0.5)
        )
        assert len(bad.groups) == 20
        assert bool(bad.resamples) == bool(seconds)
        intervals.append(drop_interval(metric, good, bad))
    (low, high), (least, most) = intervals
    assert low < 0.1 < high
    assert (most + least) / 2 == pytest.approx((high + low) / 2, rel=0.02)
    assert most - least == pytest.approx(high - low, rel=0.4)
