"""What a search predicts of plans, and which it builds next: no models, only figures of plans that were built."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planish.driver.evaluation import Score, find_metric
from planish.driver.guess import Guess
from planish.driver.measurement import Latency
from planish.driver.plans import Plan, Point, front, plans_of
from planish.driver.recipe import Budget
from planish.driver.recipe_file import make_recipe
from planish.driver.results import Artifact, Measured

BUDGET = Budget(metric_drop=0.01)
HALF, MOST = {"prune-channels": {"flops": 0.5}}, {"prune-channels": {"flops": 0.7}}
PLANS = plans_of(make_recipe({"model": "net.onnx", "search": {"passes": [[HALF, MOST], ["distill"], ["quantize"]]}}))


def point(gain: float, drop: float, *steps: object) -> Point:
    """What was measured on a plan."""
    models = [
        Measured("onnxruntime", Latency(np.full(3, 1 / speed)), 100, Score(1 - loss))
        for speed, loss in ((1.0, 0.0), (gain, drop))
    ]
    return Point(Plan(steps), Artifact(Path(), find_metric("accuracy", Path()), *models, [], 1))


def guess(*points: Point) -> Guess:
    found = Guess(BUDGET, "latency")
    for it in (point(1.0, 0.0), *points):
        found.learn(it)
    return found


SINGLES = (point(1.5, 0.02, HALF), point(2.0, 0.04, MOST), point(2.0, 0.001, "quantize"))


def test_one_setting_of_each_technique_comes_first_and_then_what_promises_most() -> None:
    known = guess(point(1.5, 0.04, HALF))
    expected = ["quantize", "prune-channels{flops=0.5} + distill", "prune-channels{flops=0.7}"]
    assert [str(plan) for plan in known.ahead(PLANS, 3)] == expected
    # with distillation, it is predicted to gain 2.6 and to lose 0.005; without, it says what it gains before it trains
    assert guess(*SINGLES).next(PLANS) == Plan((HALF, "quantize"))


@pytest.mark.parametrize(
    ("costs", "best"),
    [({}, "quantize"), ({"latency": "0.4 s"}, None), ({"latency": "0.6 s"}, "quantize"), ({"size": "99 B"}, None)],
)
def test_the_best_plan_keeps_to_the_latency_and_the_size(costs: dict[str, str], best: str | None) -> None:
    known = Guess(Budget.model_validate({"metric_drop": 0.01, **costs}), "latency")
    for it in (point(1.0, 0.0), *SINGLES):
        known.learn(it)
    assert [str(it.plan) for it in known.sequence][-1:] == [best] * (best is not None)
    assert known.next(PLANS) is not None  # goes on where nothing fits


def test_another_scheme_comes_as_soon_as_another_pass() -> None:
    dynamic, few = ({"quantize": it} for it in ({"scheme": "int8-dynamic"}, {"samples": 8}))
    plans = plans_of(
        make_recipe({"model": "net.onnx", "search": {"passes": [[HALF, MOST], ["quantize", few, dynamic]]}})
    )
    ahead = guess().ahead(plans, 5)
    assert ahead == [Plan((it,)) for it in (HALF, "quantize", dynamic, MOST, few)]


def test_what_combines_two_that_keep_the_budget_comes_before_what_loses_too_much_without_training() -> None:
    strengths = [{"prune-channels": {"speedup": it}} for it in (1.5, 1.25, 2.0)]
    techniques = [strengths, ["distill"], ["quantize"]]
    plans = plans_of(make_recipe({"model": "net.onnx", "search": {"passes": techniques}}))
    half, mild, most = strengths
    known = guess(point(1.5, 0.05, half), point(1.25, 0.002, mild), point(1.6, 0.001, "quantize"))
    assert known.next(plans) == Plan((mild, "quantize"))
    known.learn(point(2.0, 0.003, mild, "quantize"))
    assert known.next(plans) == Plan((half, "quantize"))  # which says what training it is worth
    assert most not in [plan.steps[0] for plan in known.ahead(plans, 9)]  # by what 1.5 loses


def test_what_is_predicted_to_keep_the_budget_comes_before_what_gains_more_beyond_it() -> None:
    half, mild = ({"prune-channels": {"speedup": it}} for it in (1.5, 1.25))
    plans = plans_of_speedups(half, mild)
    known = guess(point(2.2, 0.0105, half), point(1.9, 0.003, mild), point(1.8, 0.004, "quantize"))
    assert known.gain(Plan((half, "quantize"))) > known.gain(Plan((mild, "quantize")))
    assert known.ahead(plans, 2) == [Plan((mild, "quantize")), Plan((half, "quantize"))]


def test_a_step_is_tried_alone_before_others_follow_it() -> None:
    mild, strong = ({"prune-channels": {"speedup": it}} for it in (1.5, 2.0))
    known = guess(point(1.5, 0.0, mild), point(1.6, 0.0, "quantize"))
    ahead = known.ahead(plans_of_speedups(mild, strong), 2)
    assert ahead == [Plan((strong,)), Plan((strong, "quantize"))]


def test_a_plan_that_trains_is_predicted_by_the_same_without() -> None:
    trained = Plan((MOST, "distill", "quantize"))
    known = guess(*SINGLES, point(2.0, 0.05, HALF, "quantize"), point(3.0, 0.05, MOST, "quantize"))
    assert known.gain(trained) == 3.0
    assert known.next(PLANS) == trained
    slow = guess(*SINGLES, point(1.9, 0.05, MOST, "quantize"), point(1.8, 0.05, HALF, "quantize"))
    assert slow.next(PLANS) is None  # nothing is trained that isn't faster than int8 alone


def test_plans_that_differ_in_their_training_are_as_fast_as_each_other() -> None:
    longer = {"distill": {"epochs": 40}}
    plans = plans_of(make_recipe({"model": "net.onnx", "search": {"passes": [[MOST], ["distill", longer]]}}))
    known = guess(point(2.6, 0.012, MOST), point(2.9, 0.009, MOST, "distill"))
    assert known.next(plans) == Plan((MOST, longer))  # as fast, and perhaps further from the bound
    known.learn(point(2.3, 0.004, MOST, longer))
    assert known.gain(Plan((MOST, longer))) == 2.6
    assert known.best.plan == Plan((MOST, longer))
    assert known.next(plans) is None
    certain = guess(point(2.6, 0.004, MOST))
    assert certain.next(plans) is None


def test_what_one_training_brings_back_says_nothing_of_a_longer_one() -> None:
    longer = {"distill": {"epochs": 40}}
    plans = plans_of(make_recipe({"model": "net.onnx", "search": {"passes": [[MOST], ["distill", longer]]}}))
    known = guess(point(2.0, 0.04, MOST), point(2.0, 0.039, MOST, "distill"))
    assert known.next(plans) == Plan((MOST, longer))
    known.learn(point(2.0, 0.038, MOST, longer))
    assert known.next(plans) is None


def test_strengths_between_a_plan_and_one_that_failed_are_tried_with_the_other_techniques() -> None:
    right, failed, between = ({"prune-channels": {"speedup": it}} for it in (2.0, 3.0, 2.5))
    recipe = {"model": "net.onnx", "search": {"passes": [[right, failed], ["distill"]]}}
    plans = plans_of(make_recipe(recipe))
    known = guess(point(2.0, 0.004, right))
    known.learn(Point(Plan((failed,)), None, "can't be reached", 3.0))
    assert known.next(plans) == Plan((between,))
    known.learn(point(2.5, 0.014, between))
    assert known.next(plans) == Plan((between, "distill"))
    trained = guess(point(2.0, 0.012, right), point(2.0, 0.008, right, "distill"))
    trained.learn(Point(Plan((failed,)), None, "can't be reached", 3.0))
    assert trained.next(plans) == Plan((between,))  # and then with training, as the best one


def test_what_two_techniques_leave_alone_is_half_of_what_the_faster_one_leaves() -> None:
    known = guess(*SINGLES)
    assert known.gain(Plan((MOST, "quantize"))) == pytest.approx(3.0)  # a quarter, and (1 / 3) ** 2 of the rest
    assert guess(point(0.5, 0.0, HALF), point(2.0, 0.0, "quantize")).gain(Plan((HALF, "quantize"))) == pytest.approx(
        6 / 5
    )


def test_a_factor_goes_by_the_gain_of_the_plan_before() -> None:
    plan = Plan((HALF, "quantize"))
    expected = guess(*SINGLES).gain(plan)
    known = guess(*SINGLES, point(2.4, 0.05, MOST, "quantize"))  # 0.8 of what was expected
    assert known.gain(plan) == pytest.approx(expected * 0.8 ** (np.log(1.5) / np.log(2)))


@pytest.mark.parametrize("number", [float, int])
def test_a_speedup_that_is_asked_for_is_predicted_to_be_met(number: type) -> None:
    milder, stronger = ({"prune-channels": {"speedup": number(it)}} for it in (2, 4))
    known = guess()
    assert known.gain(Plan((milder,))) == 2.0
    known.learn(point(1.9, 0.005, milder))
    known.learn(point(3.9, 0.02, stronger))
    known.learn(point(1.5, 0.001, "quantize"))
    between = Plan(({"prune-channels": {"speedup": 3.0}}, "quantize"))
    assert known.gain(between) == pytest.approx(3.75)
    assert known.next(plans_of_speedups(milder, stronger)) == Plan((milder, "quantize"))


def plans_of_speedups(*steps: object) -> list[Plan]:
    return plans_of(make_recipe({"model": "net.onnx", "search": {"passes": [list(steps), ["quantize"]]}}))


def test_strengths_between_two_are_tried_in_the_end() -> None:
    plans = [plan for plan in PLANS if not any("distill" in step for step in plan.steps)]
    known = guess(
        *(point(1.5, 0.005, HALF), point(2.0, 0.03, MOST), point(1.1, 0.0, "quantize")),
        *(point(1.6, 0.006, HALF, "quantize"), point(2.2, 0.03, MOST, "quantize")),
    )
    between = Plan(({"prune-channels": {"flops": 0.6}}, "quantize"))
    assert known.next(plans) == between
    known.learn(point(1.9, 0.02, *between.steps))
    assert known.next(plans) == Plan(({"prune-channels": {"flops": 0.55}}, "quantize"))
    known.learn(point(1.7, 0.008, {"prune-channels": {"flops": 0.55}}, "quantize"))
    for middle in (0.575, 0.562):
        assert known.next(plans) == Plan(({"prune-channels": {"flops": middle}}, "quantize"))
        known.learn(point(1.8, 0.02, {"prune-channels": {"flops": middle}}, "quantize"))
    assert known.next(plans) is None  # 0.55 and 0.562 are near each other


def test_a_plan_that_loses_little_too_much_is_tried_milder() -> None:
    known = guess(
        *(point(1.5, 0.004, HALF), point(2.5, 0.04, MOST), point(1.6, 0.0, "quantize")),
        *(point(2.0, 0.012, HALF, "quantize"), point(2.6, 0.04, MOST, "quantize")),
        *(point(2.5, 0.011, MOST, "distill"), point(2.7, 0.011, MOST, "distill", "quantize")),
    )
    known.learn(point(2.1, 0.004, HALF, "distill", "quantize"))
    assert known.next(PLANS) == Plan(({"prune-channels": {"flops": 0.6}}, "quantize"))  # without training, at first
    known.learn(point(2.4, 0.03, {"prune-channels": {"flops": 0.6}}, "quantize"))
    assert known.next(PLANS) == Plan(({"prune-channels": {"flops": 0.6}}, "distill", "quantize"))


def test_where_every_strength_loses_too_much_one_nearer_to_nothing_is_tried() -> None:
    half, more = ({"prune-channels": {"speedup": it}} for it in (1.5, 2.0))
    plans = plans_of_speedups(half, more)
    milder = {"prune-channels": {"speedup": 1.25}}
    known = guess(point(2.4, 0.018, half), point(1.3, 0.002, "quantize"))
    assert known.next(plans) == Plan((milder,))  # and before a stronger one
    known.learn(point(2.9, 0.035, more))
    assert known.next(plans) == Plan((milder,))  # and in the end
    failed = Point(Plan((milder,)), None, "nothing can be removed")
    known.learn(failed)
    assert known.next(plans) != failed.plan  # which isn't tried again
    known.learn(point(1.8, 0.014, milder))
    assert known.next(plans) == Plan(({"prune-channels": {"speedup": 1.12}},))
    known.learn(point(1.8, 0.006, milder))
    assert known.next(plans) == Plan((milder, "quantize"))


def test_what_is_stronger_than_what_is_lost_is_left_out() -> None:
    steps = [{"prune-channels": {"flops": it}} for it in (0.3, 0.5, 0.7)]
    plans = plans_of_speedups(*steps)
    first, second, third = steps
    known = guess(point(2.4, 0.008, first), point(1.1, 0.0, "quantize"), point(2.5, 0.008, first, "quantize"))
    known.learn(point(2.9, 0.07, second))
    assert known.next(plans) == Plan((third,))  # training may bring back so much
    known.learn(point(2.9, 0.08, second))
    assert known.next(plans) != Plan((third,))


def test_a_plan_keeps_the_budget_where_the_data_show_it() -> None:
    def told(gain: float, wrong: int, *steps: object) -> Point:
        """A plan that answers so many of 1,000 samples wrong."""
        found = point(gain, wrong / 1000, *steps)
        models = (found.artifact.untouched, found.artifact.built)
        scores = [Score(1 - count / 1000, np.arange(1000) >= count) for count in (0, wrong)]
        untouched, built = (replace(model, score=score) for model, score in zip(models, scores, strict=True))
        return replace(found, artifact=replace(found.artifact, untouched=untouched, built=built))

    points = (told(1.0, 0), told(1.5, 3, HALF), told(1.4, 4, HALF, "quantize"), told(2.0, 8, MOST))
    for confidence, kept in ((0.975, [(), (HALF,)]), (0.5, [(), (HALF,), (MOST,)])):
        known = Guess(BUDGET, "latency", confidence)
        for it in points:
            known.learn(it)
        assert [it.plan.steps for it in known.sequence] == kept
        assert known.best.plan.steps == kept[-1]
    assert known.may_be_better(points[1]).plan == Plan((MOST,))
    assert known.may_be_better(points[3]) is None


def test_the_front_holds_what_nothing_beats() -> None:
    points = [point(1.0, 0.0), point(2.0, 0.01, HALF), point(1.5, 0.02, MOST), point(1.5, 0.005, "quantize")]
    assert [str(it.plan) for it in front(points)] == ["prune-channels{flops=0.5}", "quantize", "nothing"]


def test_what_is_measured_anew_takes_the_place_of_what_was() -> None:
    known = guess(point(2.0, 0.004, HALF), point(1.7, 0.004, MOST), point(1.5, 0.0, "quantize"))
    assert [it.plan.steps for it in known.contenders] == [(HALF,), (MOST,)]
    known.learn(point(1.8, 0.004, HALF))
    known.learn(point(1.9, 0.004, MOST))
    assert [it.gain for it in known.points] == pytest.approx([1.0, 1.8, 1.9, 1.5])
    assert known.best.plan == Plan((MOST,))


def test_the_fastest_plans_are_timed_with_those_that_predict_their_speed() -> None:
    both = (HALF, "quantize")
    trained = point(2.6, 0.004, HALF, "distill", "quantize")
    known = guess(*SINGLES[:1], SINGLES[2], point(2.5, 0.021, *both), trained)
    assert [it.plan.steps for it in known.contenders] == [both, (HALF, "distill", "quantize")]
    assert [it.plan.steps for it in known.racers] == [
        (HALF,),
        ("quantize",),
        *(it.plan.steps for it in known.contenders),
    ]
    known.learn(point(1.2, 0.02, HALF))
    known.learn(point(1.6, 0.001, "quantize"))
    assert known.gain(Plan(both)) == pytest.approx(2.55)
    # of a time of 1, the first leaves 0.83 and the second 0.63, half of which both are expected to leave alone
    untouched = 0.5 / 1.6
    share = untouched + (1 / 1.2 - untouched) * (1 / 1.6 - untouched) / (1 - untouched)
    assert known.expected(Plan(both)) == known.expected(trained.plan) == pytest.approx(1 / share)


def test_sizes_are_not_timed() -> None:
    known = Guess(BUDGET, "size")
    known.learn(point(1.0, 0.0))
    assert known.best is not None
    assert known.contenders == []


def test_plans_for_another_machine_are_not_timed() -> None:
    known = guess(point(1.0, 0.004, HALF))
    built = known.points[-1].artifact
    untimed = replace(built, built=replace(built.built, latency=None))
    known.learn(Point(Plan((HALF,)), untimed))
    assert [it.plan.steps for it in known.contenders] == [()]
