"""Metrics of models before, between and after the passes, and how far apart two models are by one."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..ir.errors import ModelError, UsageError
from ..ir.graph import Graph
from ..ir.plugins import plugins
from ..ir.suggestion import did_you_mean
from ..passes.base import Labelled
from .data import Batch, Feeds
from .metrics import BUILT_IN, HITS, Predictions, agreement, classes_of
from .user_code import call, resolve

Run: TypeAlias = Callable[[Feeds], Sequence[np.ndarray]]

_RESAMPLES, _ENOUGH, _SECONDS = 1000, 200, 2.0
"""How often batches are drawn anew, how often at the least for percentiles to say something, and for how long."""
FEWEST, _GROUPS = 8, 20
"""How many batches it takes to draw from, and into how many groups they are divided at the most."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric by the name that the user gave it."""

    name: str
    function: Callable[..., Any]

    @property
    def lower_is_better(self) -> bool:
        return bool(getattr(self.function, "lower_is_better", False))

    @property
    def is_relative(self) -> bool:
        """Whether the untouched model gives the labels."""
        return self.function is agreement

    def drop(self, before: float, after: float) -> float:
        """How much worse it got, on the metric's own scale; negative where it got better."""
        return after - before if self.lower_is_better else before - after


@dataclass(frozen=True, slots=True)
class Score:
    """A metric's value, and what it takes to compare two models in pairs.

    Attributes:
        value: the metric on all batches.
        hits: whether each sample was right, for a metric that is a share of samples; None for other metrics.
        groups: the value on groups of the batches, the same ones for every model; empty where it wasn't asked for, or
            there are too few batches.
        resamples: the value on batches drawn anew, with replacement, the same ones for every model; empty where a
            metric is slow, too.
    """

    value: float
    hits: np.ndarray | None = None
    groups: Sequence[float] = ()
    resamples: Sequence[float] = ()


def labels_of(batches: Sequence[Batch]) -> Sequence[Any]:
    """The labels of batches; empty where a batch has none."""
    return () if any(batch.labels is None for batch in batches) else [batch.labels for batch in batches]


def labelled(metric: Metric | None, batches: Sequence[Batch]) -> Labelled | None:
    """The labels of batches for passes that are bounded by a metric; None where a batch has none, or needs none."""
    labels = labels_of(batches)
    if metric is None or metric.is_relative or not labels:
        return None

    def compute(predictions: Predictions, labels: Sequence[Any]) -> float:
        return _value(metric, predictions, labels)

    return Labelled(labels, compute, metric.lower_is_better)


def labelled_by(run: Run, batches: Sequence[Batch]) -> list[Batch]:
    """Batches whose labels are the classes that a model gives their samples.

    Raises:
        ModelError: its first output gives no classes.
    """
    found: list[Batch] = []
    for batch in batches:
        output = run(batch.inputs)[0]
        if output.dtype.kind == "f" and (output.ndim < 2 or output.shape[-1] < 2):
            raise ModelError(
                f"agreement needs classes, or a score for each, in the first output: it is {list(output.shape)}"
            )
        found.append(replace(batch, labels=classes_of(output)))
    return found


def find_metric(name: str, folder: Path) -> Metric:
    """A built-in metric, another package's, or the user's function.

    Raises:
        UsageError: there is none of that name; the nearest is suggested.
    """
    if name in BUILT_IN:
        return Metric(name, BUILT_IN[name])
    others = plugins("metrics") if ":" not in name else {}
    if ":" not in name and name not in others:
        known = (*BUILT_IN, *others)
        raise UsageError(
            f"unknown metric {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}, "
            "and module:function or file.py:function names your own"
        )
    function = others[name].load() if name in others else resolve(name, folder)
    if not callable(function):
        raise UsageError(f"the metric {name} is not a function")
    return Metric(name, function)


def drop_interval(metric: Metric, before: Score, after: Score, confidence: float = 0.975) -> tuple[float, float] | None:
    """How much worse a metric gets at the least and at the most; None if there are too few samples to tell.

    It goes by which samples change sides where the metric is a share of them, by a paired bootstrap of other metrics,
    and by how the drops of groups of samples scatter where a metric is slow.

    Args:
        metric: the metric that was computed.
        before: the score of one model.
        after: the score of the other model, on the same samples.
        confidence: the confidence in each end of the interval; 0.975 makes an interval of 95 %.

    Source: A. Agresti and Y. Min, Simple Improved Confidence Intervals for Comparing Matched Proportions (Statistics in
    Medicine, 2005); B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals;
    K. Wolter, Introduction to Variance Estimation (1985), random groups.
    """
    from scipy.special import ndtri, stdtrit  # imported ten times as fast as scipy.stats

    changes = flips(before, after)
    if changes is not None and before.hits is not None and before.hits.size:
        count, difference = before.hits.size + 2, changes[0] - changes[1]
        middle, deviation = difference / count, math.sqrt(sum(changes) + 1 - difference**2 / count) / count
        reach = float(ndtri(confidence)) * deviation
        return max(middle - reach, -1.0), min(middle + reach, 1.0)
    drops = _drops(metric, before.resamples, after.resamples)
    if drops.size >= _ENOUGH:
        low, high = np.quantile(drops, (1 - confidence, confidence))
        return float(low), float(high)
    drops = _drops(metric, before.groups, after.groups)
    if drops.size < FEWEST:
        return None
    drop, reach = metric.drop(before.value, after.value), float(stdtrit(drops.size - 1, confidence))
    deviation = float(drops.std(ddof=1)) / math.sqrt(drops.size)
    return drop - reach * deviation, drop + reach * deviation


def largest_drop(metric: Metric, before: Score, after: Score, confidence: float) -> float:
    """How much worse a metric gets at the most, with a confidence; the drop itself where nothing tells more."""
    interval = drop_interval(metric, before, after, confidence)
    return metric.drop(before.value, after.value) if interval is None else interval[1]


def _drops(metric: Metric, before: Sequence[float], after: Sequence[float]) -> np.ndarray:
    drops = np.array([metric.drop(*pair) for pair in zip(before, after, strict=False)])
    return drops[np.isfinite(drops)]


def flips(before: Score, after: Score) -> tuple[int, int] | None:
    """How many samples only the first of two models gets right, and how many only the second, where that is known."""
    if before.hits is None or after.hits is None:
        return None
    return int((before.hits & ~after.hits).sum()), int((after.hits & ~before.hits).sum())


def mcnemar(changes: tuple[int, int]) -> float:
    """The probability of flips that are as uneven or more, if both models were equally good.

    Source: Q. McNemar, Note on the sampling error of the difference between correlated proportions or percentages
    (Psychometrika, 1947), in its exact form.
    """
    from scipy.special import bdtr  # imported ten times as fast as scipy.stats

    return min(1.0, 2 * float(bdtr(min(changes), sum(changes), 0.5)))


def evaluate(metric: Metric, run: Run, batches: Sequence[Batch], *, resamples: bool = False) -> Score:
    """The metric of a model on labelled batches.

    Args:
        metric: the metric to compute.
        run: the model.
        batches: the batches, with labels.
        resamples: whether to compute it on groups of batches as well, and on batches drawn anew unless that takes long.

    Raises:
        ModelError: the metric fails, or is no finite number.
    """
    predictions = [list(run(batch.inputs)) for batch in batches]
    labels = [batch.labels for batch in batches]
    start = time.monotonic()
    value = _value(metric, predictions, labels)
    seconds = time.monotonic() - start
    if metric.function in HITS:
        return Score(value, HITS[metric.function](predictions, labels))
    count = len(labels)
    if not resamples or count < FEWEST:
        return Score(value)

    def on(places: Iterable[int]) -> float:
        try:
            return _value(metric, [predictions[place] for place in places], [labels[place] for place in places])
        except ModelError:  # some samples may have no metric: all labels the same
            return math.nan

    groups = count // math.ceil(count / _GROUPS)
    drawn = _draws(count) if seconds * _ENOUGH <= _SECONDS else ()
    return Score(value, None, [on(range(first, count, groups)) for first in range(groups)], list(map(on, drawn)))


def _draws(count: int) -> Iterator[np.ndarray]:
    """Indices of batches drawn with replacement, as often as there is time for."""
    draw, end = np.random.default_rng(0), time.monotonic() + _SECONDS
    for _ in range(_RESAMPLES):
        yield draw.integers(0, count, count)
        if time.monotonic() > end:
            return


def _value(metric: Metric, predictions: Predictions, labels: Sequence[Any]) -> float:
    value = np.asarray(call(metric.name, metric.function, predictions, labels))
    if value.ndim or value.dtype.kind not in "fiu" or not np.isfinite(value):
        raise ModelError(f"the metric {metric.name} is {value}, not a finite number")
    return float(value)


def interpreted(graph: Graph) -> Run:
    """A graph as a function from inputs to the list of outputs, run by the interpreter."""
    from ..ir.interpreter import Interpreter  # brings torch; comparing artifacts needs none

    interpreter = Interpreter(graph)
    return lambda feeds: list(interpreter.run(feeds).values())
