"""Metrics of models before, between and after the passes, and how far apart two models are by one."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..ir.errors import ModelError, UsageError
from ..ir.graph import Graph
from ..ir.plugins import plugins
from ..passes.base import Labelled
from .data import Batch, Feeds
from .metrics import BUILT_IN, HITS, Predictions, agreement, classes_of
from .user_code import call, resolve, suggestion

Run: TypeAlias = Callable[[Feeds], Sequence[np.ndarray]]

_RESAMPLES, _FEWEST, _SECONDS = 1000, 8, 2.0
"""How often batches are drawn anew, from how many at the least, and for how long."""
_LEAST_RESAMPLES, _ENOUGH_RESAMPLES = 3, 200
"""The fewest resamples of which a standard deviation, and of which percentiles say something."""


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
        value: on all batches.
        hits: for a metric that is a share of samples, which ones were right.
        resamples: the value on batches drawn anew, with replacement, the same ones for every model; empty where it
            wasn't asked for or there are too few batches.
    """

    value: float
    hits: np.ndarray | None = None
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
    """Batches with the classes that a model gives their samples for labels.

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
            f"unknown metric {name!r}{suggestion(name, known)}; there are {', '.join(known)}, "
            "and module:function or file.py:function names your own"
        )
    function = others[name].load() if name in others else resolve(name, folder)
    if not callable(function):
        raise UsageError(f"the metric {name} is not a function")
    return Metric(name, function)


def drop_interval(metric: Metric, before: Score, after: Score) -> tuple[float, float] | None:
    """A 95 % interval of how much worse a metric gets, by a paired bootstrap; None if there is too little to draw from.

    Where there was time for few resamples of a slow metric, their standard deviation tells it, by Student's t.

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), percentile and standard intervals.
    """
    if before.hits is not None and after.hits is not None and before.hits.size:
        change = before.hits.astype(int) - after.hits.astype(int)
        shares = [float(np.mean(change == one)) for one in (1, -1, 0)]
        drawn = np.random.default_rng(0).multinomial(change.size, shares, 2000) / change.size
        drops = drawn[:, 0] - drawn[:, 1]
    else:
        drops = np.array([metric.drop(*pair) for pair in zip(before.resamples, after.resamples, strict=False)])
        drops = drops[np.isfinite(drops)]
    if drops.size < _LEAST_RESAMPLES:
        return None
    if drops.size < _ENOUGH_RESAMPLES:
        from scipy.special import stdtrit  # imported ten times as fast as scipy.stats

        drop, reach = metric.drop(before.value, after.value), float(stdtrit(drops.size - 1, 0.975) * drops.std(ddof=1))
        return drop - reach, drop + reach
    low, high = np.quantile(drops, (0.025, 0.975))
    return float(low), float(high)


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
        metric: to compute.
        run: the model.
        batches: with labels.
        resamples: whether to compute it on batches drawn anew as well, unless that takes long.

    Raises:
        ModelError: the metric fails, or is no finite number.
    """
    predictions = [list(run(batch.inputs)) for batch in batches]
    labels = [batch.labels for batch in batches]
    value = _value(metric, predictions, labels)
    if metric.function in HITS:
        return Score(value, HITS[metric.function](predictions, labels))
    return Score(value, resamples=_resampled(metric, predictions, labels) if resamples else ())


def _value(metric: Metric, predictions: Predictions, labels: Sequence[Any]) -> float:
    value = np.asarray(call(metric.name, metric.function, predictions, labels))
    if value.ndim or value.dtype.kind not in "fiu" or not np.isfinite(value):
        raise ModelError(f"the metric {metric.name} is {value}, not a finite number")
    return float(value)


def _resampled(metric: Metric, predictions: Predictions, labels: Sequence[Any]) -> list[float]:
    """The metric on batches drawn anew, as often as there is time for."""
    count, draw, end = len(labels), np.random.default_rng(0), time.monotonic() + _SECONDS
    found: list[float] = []
    while count >= _FEWEST and len(found) < _RESAMPLES and time.monotonic() < end:
        drawn = draw.integers(0, count, count)
        try:
            found.append(_value(metric, [predictions[index] for index in drawn], [labels[index] for index in drawn]))
        except ModelError:  # a draw may have no metric: all labels the same
            found.append(np.nan)
    return found


def interpreted(graph: Graph) -> Run:
    """A graph as a function from inputs to the list of outputs, run by the interpreter."""
    from ..ir.interpreter import Interpreter  # brings torch; comparing artifacts needs none

    interpreter = Interpreter(graph)
    return lambda feeds: list(interpreter.run(feeds).values())
