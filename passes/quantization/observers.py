"""Observers: what range of a tensor's values deserves the 256 integers, learnt batch by batch.

Zeros are left out of every statistic but the range: any grid represents them exactly.
"""

from abc import ABC, abstractmethod

import numpy as np

from .clipping import STEPS

_BINS = 8192
_BLOCK = 1 << 16  # numbers that are counted at once, so that they stay in the cache
_KEPT = 0.99999  # the share of values in the range; less cuts the few large activations that transformers depend on
_LEAST = 1e-30  # the least reach of the bins; smaller ones would overflow in reciprocals


class Observer(ABC):
    """Sees batches of one tensor and then names its range."""

    @abstractmethod
    def update(self, batch: np.ndarray) -> None:
        """Take a batch into account; infinities and NaN are ignored."""

    @abstractmethod
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value that the grid should hold; (0, 0) where nothing was seen."""


class MinMaxObserver(Observer):
    """The range of everything that was seen."""

    def __init__(self) -> None:
        self.low = self.high = 0.0

    def update(self, batch: np.ndarray) -> None:
        low, high = float(batch.min(initial=0.0)), float(batch.max(initial=0.0))
        if not (np.isfinite(low) and np.isfinite(high)):
            self.update(batch[np.isfinite(batch)])
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        if low or high:
            self._count(batch)

    def _count(self, batch: np.ndarray) -> None:
        """Take a batch of finite numbers into account beyond its ends, which are known already."""

    def range(self) -> tuple[float, float]:
        return self.low, self.high


class HistogramObserver(MinMaxObserver):
    """Counts values in equal bins around 0; the bins double in width, two by two, when a value falls outside.

    Attributes:
        counts: the number of values in each bin; the bins cover -limit to limit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts = np.zeros(_BINS, np.int64)
        self.limit = 0.0

    def _count(self, batch: np.ndarray) -> None:
        self._widen(max(-self.low, self.high))
        flat = batch.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            places = (flat[start : start + _BLOCK] * (_BINS / 2 / self.limit) + _BINS / 2).astype(np.int64)
            self.counts += np.bincount(np.minimum(places, _BINS - 1, out=places), minlength=_BINS)
        self.counts[_BINS // 2] -= batch.size - np.count_nonzero(batch)

    @property
    def centers(self) -> np.ndarray:
        """The centers of the bins."""
        return (np.arange(_BINS) + 0.5) * (2 * self.limit / _BINS) - self.limit

    def _widen(self, reach: float) -> None:
        self.limit = self.limit or max(reach, _LEAST)
        quarter = _BINS // 4
        while self.limit < reach:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.pad(merged, quarter)
            self.limit *= 2


class PercentileObserver(HistogramObserver):
    """The range of all but the outermost 0.001 % of the values, half of these on either side."""

    def range(self) -> tuple[float, float]:
        if not self.counts.any():
            return 0.0, 0.0
        share = np.cumsum(self.counts) / self.counts.sum()
        width = 2 * self.limit / _BINS
        tail = (1 - _KEPT) / 2
        first, last = np.searchsorted(share, [tail, 1 - tail])
        low, high = first * width - self.limit, (last + 1) * width - self.limit
        return max(self.low, min(low, 0.0)), min(self.high, max(high, 0.0))


class MseObserver(HistogramObserver):
    """The range with the least expected squared error: of rounding inside it, of clipping outside."""

    def range(self) -> tuple[float, float]:
        fractions = np.linspace(1 / 64, 1, 64)
        lows, highs = np.unique(self.low * fractions), np.unique(self.high * fractions)
        inside, below, above = self._moments(lows, highs)
        rounding = (highs - lows[:, None]) ** 2 / STEPS**2 / 12
        error = rounding * inside + below[:, None] + above
        low, high = np.unravel_index(np.argmin(error), error.shape)
        return float(lows[low]), float(highs[high])

    def _moments(self, lows: np.ndarray, highs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How many values lie inside each range, and the squared distances of those below and above to its ends."""
        centers = self.centers
        sums = np.stack([np.cumsum(self.counts * centers**power) for power in range(3)])
        sums = np.pad(sums, ((0, 0), (1, 0)))
        first, last = np.searchsorted(centers, lows), np.searchsorted(centers, highs)
        under, over = sums[:, first], sums[:, -1:] - sums[:, last]
        inside = sums[0, -1] - under[0][:, None] - over[0]
        below = under[2] - 2 * lows * under[1] + lows**2 * under[0]
        above = over[2] - 2 * highs * over[1] + highs**2 * over[0]
        return inside, below, above


OBSERVERS: dict[str, type[Observer]] = {
    "minmax": MinMaxObserver,
    "percentile": PercentileObserver,
    "mse": MseObserver,
}
