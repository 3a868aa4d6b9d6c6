"""Paired statistics: how sure one may be that two models differ, which have answered the same questions."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 10_000


class Interval(NamedTuple):
    """A statistic, and the ends of the interval that holds it in 95 % of the resamples."""

    value: float
    low: float
    high: float

    def text(self, places: int) -> str:
        """The three numbers, with so many decimals."""
        return f"{self.value:.{places}f} [{self.low:.{places}f}, {self.high:.{places}f}]"


def bootstrap(statistic: Callable[..., np.ndarray], *paired: np.ndarray) -> Interval:
    """Resample examples, the same ones of every array, and compute a statistic of their means anew.

    Args:
        statistic: a function from the means of the arrays, each of them float[resamples], to float[resamples].
        paired: the arrays, float[examples] each, in the same order of examples.
    """
    count = len(paired[0])
    picks = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    drawn = statistic(*(array[picks].mean(axis=1) for array in paired))
    value = float(statistic(*(array.mean(keepdims=True) for array in paired))[0])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def difference(found: np.ndarray, reference: np.ndarray) -> Interval:
    """How much greater one mean is than the other."""
    return bootstrap(lambda one, other: one - other, found, reference)


def share_removed(found: np.ndarray, rounding: np.ndarray, exact: np.ndarray) -> Interval:
    """The share of rounding's rise of perplexity that a method removes; the arrays are nats of a token, by window."""
    return bootstrap(
        lambda one, worst, best: 1 - (np.exp(one) - np.exp(best)) / (np.exp(worst) - np.exp(best)),
        found,
        rounding,
        exact,
    )


def mcnemar(found: np.ndarray, reference: np.ndarray) -> float:
    """The probability, by McNemar's exact test, of as many changes one way or more if both were equally good.

    Args:
        found: whether each example is right.
        reference: the same for another model.
    """
    gained, lost = int((found & ~reference).sum()), int((~found & reference).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def sqnr(found: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """The power of the signal over that of the noise, in decibels."""
    signal = sum(float(np.square(array, dtype=np.float64).sum()) for array in reference)
    noise = sum(
        float(np.square(one.astype(np.float64) - other).sum()) for one, other in zip(found, reference, strict=True)
    )
    return 10 * float(np.log10(signal / noise)) if noise else float("inf")


def spread(numbers: Sequence[float], places: int) -> str:
    """The median, and the least and the greatest where there are several."""
    middle = f"{np.median(numbers):.{places}f}"
    return middle if len(numbers) == 1 else f"{middle} ({min(numbers):.{places}f}-{max(numbers):.{places}f})"
