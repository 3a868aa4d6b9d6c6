"""Calibration: runs real inputs through the float graph and watches the values that will be quantized."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ...ir.errors import UsageError
from ...ir.graph import Value
from ..base import Feeds, PassContext
from ..judge import Reference, sample_count
from .clipping import STEPS, UNBOUNDED, Bounds
from .observers import Observer

if TYPE_CHECKING:
    from torch import Tensor

_STRETCHED = 8.0
"""How many times the median sample's reach a range must extend to, to count as stretched by a few samples."""

LOST = 0.005
"""The share of a sample's power that rounding may lose, in the mean over samples."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What calibration data tell of a value.

    Attributes:
        range: the range that the grid should hold.
        reach: the largest magnitude in each sample.
        power: the mean square of what isn't zero in each sample.
    """

    range: Bounds
    reach: np.ndarray
    power: np.ndarray

    @property
    def stretch(self) -> float:
        """How many times the median sample's reach the range extends to, where 8 bits don't hold both; 1 elsewhere.

        Each sample counts alike, however large its numbers are.
        """
        low, high = self.range
        seen = (self.power > 0) & np.isfinite(self.power)
        if not seen.any():
            return 1.0
        stretch = max(-low, high) / float(np.median(self.reach[seen]))
        lost = np.minimum(((high - low) / STEPS) ** 2 / 12 / self.power[seen], 1)
        return stretch if stretch > _STRETCHED and lost.mean() > LOST else 1.0


@dataclass(slots=True)
class _Watch:
    """A value that is watched, with what was seen of it in each batch."""

    observer: Observer
    reach: list[np.ndarray] = field(default_factory=list[np.ndarray])
    power: list[np.ndarray] = field(default_factory=list[np.ndarray])

    def update(self, array: np.ndarray, count: int) -> None:
        """Take a batch of `count` samples into account."""
        self.observer.update(array)
        samples = array.reshape(count if array.ndim and array.shape[0] % count == 0 else 1, -1)
        squares = np.array([row @ row for row in samples], np.float64)
        self.reach.append(np.maximum(samples.max(axis=1, initial=0.0), -samples.min(axis=1, initial=0.0)))
        self.power.append(squares / np.maximum(np.count_nonzero(samples, axis=1), 1))

    @property
    def found(self) -> Calibrated:
        """What was seen in all batches."""
        return Calibrated(self.observer.range(), np.concatenate([[], *self.reach]), np.concatenate([[], *self.power]))


See: TypeAlias = "Callable[[int, Value, Tensor], None]"
"""A callback that is shown the place of a batch, a value, and the value's tensor on that batch."""


def show(
    graph: Reference, batches: Sequence[Feeds], sees: Sequence[See], context: PassContext, doing: str = "calibrating"
) -> None:
    """Run batches, and show every tensor to all who want to see it: nobody needs a run of their own.

    Args:
        graph: the graph to run.
        batches: the inputs, one batch after another.
        sees: the callbacks that are shown the tensors.
        context: the context that progress is reported to.
        doing: what the run is for, as progress describes it.
    """
    for done, batch in enumerate(batches):
        context.progress(doing, done, len(batches))

        def observe(value: Value, tensor: "Tensor", done: int = done) -> None:
            for see in sees:
                see(done, value, tensor)

        graph.run(batch, observe)
    if batches:
        context.progress(doing, len(batches), len(batches))


class Calibration:
    """What the calibration data tell of some values.

    Args:
        values: the values to watch in a float graph, with the bounds beyond which nobody sees a difference.
        observer: how a range is chosen.
        batches: the inputs, one batch after another, which somebody else runs.
    """

    def __init__(self, values: Mapping[Value, Bounds], observer: type[Observer], batches: Sequence[Feeds]) -> None:
        self._bounds = values
        self._watched = {value: _Watch(observer()) for value in values}
        self._counts = [sample_count(batch) for batch in batches]

    def see(self, batch: int, value: Value, tensor: "Tensor") -> None:
        """Take a tensor into account."""
        if value in self._watched:
            array, bounds = tensor.numpy(), self._bounds[value]
            self._watched[value].update(array if bounds == UNBOUNDED else array.clip(*bounds), self._counts[batch])

    @property
    def found(self) -> dict[Value, Calibrated]:
        """What was seen of each value."""
        return {value: watch.found for value, watch in self._watched.items()}


def first_batches(context: PassContext, samples: int) -> list[Feeds]:
    """The calibration batches that hold the first samples; the first axis counts them.

    Raises:
        UsageError: there is no calibration data.
    """
    if not context.calibration:
        raise UsageError(
            "static int8 quantization needs calibration data: give it with --data, as `calibration` under `data` "
            "in the recipe, or as data= from Python; or use quantize{scheme=int8-dynamic}, which needs none"
        )
    return first_batches_of(context.calibration, samples)


def first_batches_of(batches: Sequence[Feeds], samples: int) -> list[Feeds]:
    """The batches that hold the first samples."""
    kept: list[Feeds] = []
    for batch in batches:
        if samples <= 0:
            break
        kept.append(batch)
        samples -= sample_count(batch)
    return kept
