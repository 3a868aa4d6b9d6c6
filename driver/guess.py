"""What plans are predicted to gain and lose by those that were built, and which is to be built next."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice, permutations
from statistics import NormalDist, median

import numpy as np

from .plans import Plan, Point, name_of, options_of
from .recipe import Budget

_BRINGS_BACK = 0.8
"""The share of a loss that distillation is expected to bring back before it was tried."""
_WORTH = 1.02
"""How much better than another a plan has to be to count as better, and to be predicted to be in order to be built."""
_HOPE = 1.5
"""How many times the budget a plan may be predicted to lose and still be built, since losses rarely add up in full."""
_SCATTER = 0.2
"""The standard deviation of what plans lose, as a share of what they are predicted to lose."""
_NOISE = 1.25
"""How many times as fast as another a plan has to be measured, at another time, to be faster for sure."""
_RISE = 3
"""The power that what a speed-up costs is expected to rise with: 1.5, 2 and 2.5 times lost 0.4, 3.4 and 11 % of OCR."""
_UNTOUCHED = 0.5
"""The share of the time of the faster of two models that passes are expected to have left alone in both."""
_NEUTRAL = {"speedup": 1.0, "flops": 0.0, "ratio": 0.0}
"""Strengths with which a pass does nothing."""
_NEAR = 0.03
"""How far apart two strengths are at the most, relative to the larger, between which none is looked for."""


class Guess:
    """Predicts what plans gain and lose from those that were built, and says which is to be built next.

    A loss is how much worse the metric is at the most, as far as the evaluation data show. Losses add up, and speed-ups
    multiply as far as steps change the same layers. A step that is asked for a speed-up is taken to give it. The factor
    of another step depends on how fast the plan before it is, and is interpolated between pairs of built plans with and
    without the step. A plan that trains runs as fast as the same one without: a measured difference is noise.

    Args:
        budget: what plans may cost; that of the metric is given.
        goal: what is to be best, `latency` or `size`.
        confidence: the confidence that losses are told with.
    """

    def __init__(self, budget: Budget, goal: str, confidence: float = 0.975) -> None:
        assert budget.metric_drop is not None
        self._budget = budget.metric_drop
        self._costs = budget
        self._goal = goal
        self._confidence = confidence
        self._known: dict[str, Point] = {}
        self._losses: dict[str, float] = {}

    @property
    def points(self) -> list[Point]:
        """What became of plans, in order."""
        return list(self._known.values())

    def learn(self, point: Point) -> None:
        """Take what became of a plan into account, in place of what was known of it."""
        self._known[point.plan.key] = point
        self._losses[point.plan.key] = point.loss(self._confidence)

    @property
    def contenders(self) -> list[Point]:
        """The points that may be as fast as the best one, which was measured at another time."""
        if self.best is None or self._goal != "latency":
            return []
        least = self._gain(self.best) / _NOISE
        return [point for point in self.points if point.is_timed and self._gain(point) >= least]

    @property
    def racers(self) -> list[Point]:
        """The contenders, and the plans from which what these gain is predicted."""
        twins = [point.plan.untrained for point in self.contenders]
        keys = {point.plan.key for point in self.contenders}
        keys |= {plan.key for twin in twins if twin.steps for plan in (twin.parent, twin.last)}
        return [point for point in self.points if point.is_timed and point.plan.key in keys]

    def expected(self, plan: Plan) -> float | None:
        """What a plan is predicted to gain by what is known of plans with other techniques; None where nothing is."""
        others = Guess(self._costs, self._goal, self._confidence)
        for point in self.points:
            if point.plan.untrained != plan.untrained:
                others.learn(point)
        return others.gain(plan)

    @property
    def sequence(self) -> list[Point]:
        """Points within the budget, each of which is better than those before it and loses more: the best one last."""
        found: list[Point] = []
        for point in sorted(filter(self._fits, self.points), key=self._loss):
            if self._loss(point) <= self._budget and (not found or self._gain(point) > self._gain(found[-1]) * _WORTH):
                found.append(point)
        return found

    @property
    def best(self) -> Point | None:
        """The best point within the budget; of those that are as good but for noise, one that loses less."""
        return next(reversed(self.sequence), None)

    def may_be_better(self, chosen: Point) -> Point | None:
        """The best of the points better than a chosen one whose drop itself keeps the budget; None if there is none."""
        least = self._gain(chosen) * _WORTH
        fitting = filter(self._fits, self.points)
        found = [point for point in fitting if point.drop <= self._budget and self._gain(point) > least]
        return max(found, key=self._gain, default=None)

    def _fits(self, point: Point) -> bool:
        """Whether a point keeps to the latency and the size that were asked for."""
        return point.artifact is not None and not point.artifact.built.excesses(self._costs)

    def next(self, plans: Sequence[Plan]) -> Plan | None:
        """The plan to build: the empty one and a setting of each pass first, then the most promising; None at the end.

        Settings that differ in more than numbers count as different passes here. Where a pass loses too much at its
        mildest strength, half of that strength comes at once. A plan promises what it is predicted to gain beyond the
        best one, times the probability that it keeps the budget, times the share of its loss, without training, that
        the budget allows. Before a plan come its steps that weren't tried alone, and then the same plan without
        training, which says what it gains in a fraction of the time.

        Settings of which nothing can be predicted come after all that promise something, but not those that ask for
        more than a strength that lost more than training may bring back. In the end strengths are tried between the
        best plan's and one that loses too much, and between that of a plan that loses slightly too much and a milder
        one; or, where the best plan loses most of the budget, other trainings of it: of many plans that were tried, the
        best one's loss is low in part by chance.
        """
        return next(iter(self.ahead(plans, 1)), None)

    def ahead(self, plans: Sequence[Plan], count: int) -> list[Plan]:
        """The plan to build, and some that are likely to be next."""
        every = self._with_new_strengths(plans)
        left = [plan for plan in every if plan.key not in self._known]
        singles = [plan for plan in left if len(plan.steps) <= 1]
        tried = {_kind(point.plan) for point in self.points}
        first = {kind: plan for plan in reversed(singles) if (kind := _kind(plan)) not in tried}
        untried = [plan for plan in singles if plan in first.values()]
        milder = self._milder([plan.key for plan in plans]) if untried else ()
        promises = {plan.key: self._promise(plan) for plan in left}
        promising = sorted((it for it in left if promises[it.key] > 0), key=lambda it: -promises[it.key])
        unknown = [plan for plan in singles if self._predicted(plan) is None and not self._is_lost(plan)]
        found = [*milder, *untried, *(it for plan in promising for it in self._leading_to(plan)), *unknown]
        if not found:
            last = islice(self._last(left, plans), count)
            found = [plan if plan.untrained.key in self._known else plan.untrained for plan in last]
        return list({plan.key: plan for plan in found}.values())[:count]

    def _promise(self, plan: Plan) -> float:
        """What a plan may gain beyond the best one, by how likely it keeps the budget; 0 where it isn't worth it."""
        predicted, untrained = self._predicted(plan), self._predicted(plan.untrained)
        if predicted is None or predicted[0] < self._least or predicted[1] > self._budget * _HOPE:
            return 0.0
        gain, loss = predicted
        best = 1.0 if self.best is None else self._gain(self.best)
        allowed = self._budget / max(loss if untrained is None else untrained[1], self._budget)
        losses = NormalDist(loss, _SCATTER * max(loss, self._budget / 100))
        return (gain / best - 1) * allowed * losses.cdf(self._budget)

    def _leading_to(self, plan: Plan) -> Iterator[Plan]:
        """The plans that have to be built before a plan, and the plan itself."""
        alone = [Plan((step,)) for step in plan.untrained.steps]
        yield from (it for it in (*alone, plan.untrained, plan) if it.key not in self._known)

    def _with_new_strengths(self, plans: Sequence[Plan]) -> list[Plan]:
        """The plans, and the same with strengths of the first step that weren't given but were tried since."""
        given = {plan.key for plan in plans}
        new = [it.plan for it in self.points if len(it.plan.steps) == 1 and it.plan.key not in given]
        found = [
            plan.replaced(0, single.steps[0])
            for single in new
            for plan in plans
            if len(plan.steps) > 1 and name_of(plan.steps[0]) == name_of(single.steps[0])
        ]
        return list({plan.key: plan for plan in (*plans, *found)}.values())

    def _is_lost(self, single: Plan) -> bool:
        """Whether a technique asks for more than a strength that lost more than training may bring back."""
        most = self._budget * _HOPE / (1 - _BRINGS_BACK)
        for step in single.steps:
            for option, own in options_of(step).items():
                for (mild, less), (strong, more) in permutations(self._tried(single, option), 2):
                    if less < more and more > most and (mild < strong < own or own < strong < mild):
                        return True
        return False

    def _milder(self, given: Collection[str]) -> Iterator[Plan]:
        """Techniques half as strong as the mildest that was tried, where that loses too much, but not far too much.

        Args:
            given: keys of the plans that may be made milder.
        """
        for point in (it for it in self.points if it.plan.key in given):
            if len(point.plan.steps) != 1 or not self._budget < self._loss(point) <= 2 * _HOPE * self._budget:
                continue
            for option, nothing in _NEUTRAL.items():
                tried = self._tried(point.plan, option)
                own, _ = min(tried, key=lambda it: abs(it[0] - nothing), default=(nothing, 0.0))
                if own == nothing or point.plan != _with_strength(point.plan, option, own):
                    continue
                milder = _with_strength(point.plan, option, float(f"{(own + nothing) / 2:.3g}"))
                if milder.key not in self._known and self._gain(point) >= max(self._least, _WORTH):
                    yield milder

    def _tried(self, single: Plan, option: str) -> list[tuple[float, float]]:
        """The strengths of a technique that were built, and what each lost."""
        return [
            (value, self._loss(point))
            for point in self.points
            if (value := _strength(point.plan, single, 0, option)) is not None and point.artifact is not None
        ]

    def gain(self, plan: Plan) -> float | None:
        """What a plan is predicted to gain; None where nothing is known."""
        predicted = self._predicted(plan)
        return None if predicted is None else predicted[0]

    @property
    def _least(self) -> float:
        """What a plan has to gain in order to be built."""
        return 0.0 if self.best is None else self._gain(self.best) * _WORTH

    def _gain(self, point: Point) -> float:
        """What a point gains: the median of all points with the same techniques, whatever they train."""
        if self._goal != "latency" or point.artifact is None:
            return point.shrinkage
        twin = point.plan.untrained
        return median(it.gain for it in self.points if it.artifact is not None and it.plan.untrained == twin)

    def _loss(self, point: Point) -> float:
        return self._losses[point.plan.key]

    def _built(self, plan: Plan) -> Point | None:
        found = self._known.get(plan.key)
        return None if found is None or found.artifact is None else found

    def _predicted(self, plan: Plan) -> tuple[float, float] | None:
        """What a plan gains and loses; None if it isn't known, or a failure or nothing to bring back rules it out."""
        known = self._known.get(plan.key)
        if known is not None:
            return None if known.artifact is None else (self._gain(known), max(self._loss(known), 0.0))
        parent = self._predicted(plan.parent) if plan.steps else None
        if parent is None:
            return None
        gain, loss = parent
        if plan.ends_in_distillation:
            return (gain, loss * (1 - self._brings_back(plan.last))) if loss > self._budget / 2 else None
        single = self._built(plan.last)
        if single is None:
            return self._asked_for(plan.last, gain, loss)
        if plan.untrained.key in self._known:
            twin = self._built(plan.untrained)
            return None if twin is None else (self._gain(twin), loss + max(self._loss(single), 0.0))
        return gain * self._factor(plan.last, gain), loss + max(self._loss(single), 0.0)

    def _asked_for(self, last: Plan, gain: float, loss: float) -> tuple[float, float] | None:
        """What a plan gains and loses by a step that is asked for a speed-up; None for other steps.

        Costs are interpolated between the speed-ups that were tried; beyond these they rise as a power of what is asked
        for beyond 1.
        """
        speedup = options_of(last.steps[0]).get("speedup")
        if not isinstance(speedup, float) or self._goal != "latency":
            return None
        tried = {1.0: 0.0, **{value: max(drop, 0.0) for value, drop in sorted(self._tried(last, "speedup"))}}
        speedups, costs = np.array(list(tried.items())).T
        cost = np.interp(speedup, speedups, costs)
        if speedup > speedups[-1] > 1:
            cost = costs[-1] * ((speedup - 1) / (speedups[-1] - 1)) ** _RISE
        return gain * speedup, loss + float(cost)

    def _factor(self, last: Plan, gain: float) -> float:
        """What a step multiplies the gain of a plan by."""
        pairs = sorted(
            (self._gain(before), self._gain(after) / self._gain(before))
            for after in self.points
            if after.artifact is not None and after.plan.last == last
            if (before := self._built(after.plan.parent)) is not None
        )
        if not pairs:
            return 1.0
        (least, alone), *_ = pairs
        expected = [self._after(faster / least, alone) for faster, _ in pairs]
        off = [math.log(factor / it) for (_, factor), it in zip(pairs, expected, strict=True)]
        usual = float(np.interp(math.log(gain), [math.log(faster) for faster, _ in pairs], off))
        return self._after(gain / least, alone) * math.exp(usual)

    def _after(self, faster: float, alone: float) -> float:
        """What a step multiplies the gain of a plan by, before any pair of plans shows it.

        Two techniques multiply what they leave of sizes, and of the time of layers that both make faster. Other layers
        go on taking what they took, which is expected to be a share of the time of the faster one of the two.

        Args:
            faster: how many times as fast the plan is as the slowest one that the step was measured on.
            alone: what the step multiplied the gain of that slowest plan by.
        """
        if self._goal != "latency":
            return alone
        first, second = 1 / faster, 1 / alone
        others = _UNTOUCHED * min(first, second, 1.0)
        return first / (others + (first - others) * (second - others) / (1 - others))

    def _brings_back(self, last: Plan) -> float:
        """The share of a loss that a distillation brings back, by the plans that were built with and without it."""
        shares: list[float] = []
        for point in self.points:
            if point.plan.last == last:
                before = self._known.get(point.plan.parent.key)
                if before is not None and 0 < self._loss(before) < math.inf and self._loss(point) < math.inf:
                    shares.append(1 - max(self._loss(point), 0.0) / self._loss(before))
        return sum(shares) / len(shares) if shares else _BRINGS_BACK

    def _last(self, left: Sequence[Plan], plans: Sequence[Plan]) -> Iterator[Plan]:
        """The plans to build when no other is predicted to be better than the best: new strengths, and trainings."""
        best = self.best
        if best is None:
            return
        between = self._between(best, plans)
        milder = next(self._milder(self._known), between)
        if milder is not None:
            yield milder
        elif self._loss(best) > self._budget / 2:
            yield from (plan for plan in left if plan.untrained == best.plan.untrained and self.gain(plan) is not None)

    def _between(self, best: Point, plans: Sequence[Plan]) -> Plan | None:
        """A plan with a strength halfway between one within the budget and one beyond it; None where none is left."""
        near = [point for point in self.points if self._budget < self._loss(point) <= self._budget * _HOPE]
        beyond = [point for point in near if self._gain(point) >= self._least]
        for point in (best, *sorted(beyond, key=self._gain, reverse=True)):
            for plan in self._halfway(point, plans):
                twin = self._built(plan.untrained)
                if plan.key not in self._known and (twin is None or self._gain(twin) >= self._least):
                    return plan
        return None

    def _halfway(self, point: Point, plans: Sequence[Plan]) -> Iterator[Plan]:
        """The same plan with one strength at a time halfway to the nearest on the other side of the budget."""
        is_right = self._loss(point) <= self._budget
        others = [*plans, *(it.plan for it in self.points)]
        for place, step in enumerate(point.plan.steps):
            strengths = {name: value for name, value in options_of(step).items() if isinstance(value, float)}
            for option, own in strengths.items():
                across = [
                    value
                    for other in others
                    if (value := _strength(other, point.plan, place, option)) is not None
                    and self._is_beyond(other, point, is_right=is_right)
                ]
                nearest = min(across, key=lambda value: abs(value - own), default=own)
                if abs(nearest - own) > _NEAR * max(nearest, own):
                    middle = float(f"{(own + nearest) / 2:.3g}")
                    yield point.plan.replaced(place, {name_of(step): {**options_of(step), option: middle}})

    def _is_beyond(self, other: Plan, point: Point, *, is_right: bool) -> bool:
        """Whether a plan is across the budget from another one, as far as that is known."""
        for count in range(1, len(other.steps) + 1):
            begun = self._known.get(Plan(other.steps[:count]).key)
            if begun is not None and begun.artifact is None:  # it may have asked for more than can be had
                own = self._predicted(Plan(point.plan.steps[:count]))
                return is_right and own is not None and (begun.predicted or 0.0) > own[0]
        known = self._known.get(other.key)
        gain = self.gain(other) if known is None else self._gain(known)
        if gain is None or (known is not None and (self._loss(known) > self._budget) != is_right):
            return False
        return gain > self._gain(point) if is_right else gain < self._gain(point)


def _kind(plan: Plan) -> str:
    """The same text for plans whose options differ in numbers alone."""
    texts = [
        [name_of(step), *(f"{key}={value}" for key, value in options_of(step).items() if type(value) in (bool, str))]
        for step in plan.steps
    ]
    return str(texts)


def _with_strength(single: Plan, option: str, value: float) -> Plan:
    """The same technique with another strength."""
    (step,) = single.steps
    return Plan(({name_of(step): {**options_of(step), option: value}},))


def _strength(plan: Plan, like: Plan, place: int, option: str) -> float | None:
    """The option of a step in a plan that differs from another one in it alone; None where the plans differ in more."""
    if len(plan.steps) != len(like.steps):
        return None
    value = options_of(plan.steps[place]).get(option)
    if name_of(plan.steps[place]) != name_of(like.steps[place]) or not isinstance(value, float):
        return None
    same: Mapping[str, object] = {**options_of(like.steps[place]), option: value}
    return value if plan == like.replaced(place, {name_of(plan.steps[place]): dict(same)}) else None
