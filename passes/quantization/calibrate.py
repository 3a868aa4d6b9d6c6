"""Calibration: runs real inputs through the float graph and watches the values that will be quantized."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ...ir.errors import UsageError
from ...ir.graph import Graph, Value
from ..base import Feeds, PassContext
from .clipping import EVERYTHING, STEPS, Bounds
from .observers import Observer

if TYPE_CHECKING:
    from torch import Tensor

_STRETCHED = 4.0
"""How many times as far as half of the samples a range must reach to be stretched by a few."""

_LOST = 0.005
"""The share of a sample's power that rounding may lose in a stretched range, in the mean over samples."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What calibration data tell of a value.

    Attributes:
        range: that the grid should hold.
        reach: the largest magnitude in each sample.
        power: the mean square of what isn't zero in each sample.
    """

    range: Bounds
    reach: np.ndarray
    power: np.ndarray

    @property
    def stretch(self) -> float:
        """How many times as far as half of the samples a few of them reach, where 8 bits don't hold both; 1 elsewhere.

        Each sample counts alike, however large its numbers are.
        """
        low, high = self.range
        seen = (self.power > 0) & np.isfinite(self.power)
        if not seen.any():
            return 1.0
        stretch = max(-low, high) / float(np.median(self.reach[seen]))
        lost = np.minimum(((high - low) / STEPS) ** 2 / 12 / self.power[seen], 1)
        return stretch if stretch > _STRETCHED and lost.mean() > _LOST else 1.0


@dataclass(slots=True)
class _Watch:
    """A value that is watched, with what was seen of it in each batch."""

    observer: Observer
    reach: list[np.ndarray] = field(default_factory=list[np.ndarray])
    power: list[np.ndarray] = field(default_factory=list[np.ndarray])

    def update(self, array: np.ndarray, count: int) -> None:
        """Take a batch of some samples into account."""
        self.observer.update(array)
        samples = array.reshape(count if array.ndim and array.shape[0] % count == 0 else 1, -1)
        squares = np.einsum("ij,ij->i", samples, samples, dtype=np.float64)
        self.reach.append(np.maximum(samples.max(axis=1, initial=0.0), -samples.min(axis=1, initial=0.0)))
        self.power.append(squares / np.maximum(np.count_nonzero(samples, axis=1), 1))

    @property
    def found(self) -> Calibrated:
        """What was seen in all batches."""
        return Calibrated(self.observer.range(), np.concatenate([[], *self.reach]), np.concatenate([[], *self.power]))


def calibrate(
    graph: Graph,
    values: Mapping[Value, Bounds],
    observer: type[Observer],
    batches: Sequence[Feeds],
    context: PassContext,
    see: "Callable[[int, Value, Tensor], None] | None" = None,
) -> dict[Value, Calibrated]:
    """What the calibration data tell of each value.

    Args:
        graph: still in float.
        values: of the graph, with the bounds beyond which nobody sees a difference.
        observer: how a range is chosen.
        batches: of inputs.
        context: to whom progress is reported.
        see: is shown each tensor as well, with the place of its batch: who else observes needs no run of its own.
    """
    from ...ir.interpreter import Interpreter  # brings torch, which listing the passes must not

    watched = {value: _Watch(observer()) for value in values}
    interpreter = Interpreter(graph)
    for done, batch in enumerate(batches):
        context.progress("calibrating", done, len(batches))

        def observe(value: Value, tensor: "Tensor", done: int = done, count: int = _sample_count(batch)) -> None:
            if see is not None:
                see(done, value, tensor)
            if value in watched:
                array = tensor.numpy()
                watched[value].update(array if values[value] == EVERYTHING else array.clip(*values[value]), count)

        interpreter.run(batch, observe)
    context.progress("calibrating", len(batches), len(batches))
    return {value: watch.found for value, watch in watched.items()}


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
        samples -= _sample_count(batch)
    return kept


def _sample_count(batch: Feeds) -> int:
    """How many samples a batch holds, which the first axis counts; 1 at the least."""
    return max((array.shape[0] for array in batch.values() if array.ndim), default=1) or 1
