"""Means and second moments of what layers read, over calibration data."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ..ir.graph import Graph, Value
from .base import Feeds, PassContext

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

Read: TypeAlias = tuple[Value, int]
"""A value, and the axis of its channels, perhaps counted from the back."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a layer reads.

    Attributes:
        mean: of each channel, float64 `[K]`.
        moment: the mean over rows of `x^T x`, float64 `[K, K]`, or of its diagonal alone, `[K]`.
    """

    mean: np.ndarray
    moment: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """What varies: the moment around the mean, which a bias can stand for."""
        return self.moment - (np.outer(self.mean, self.mean) if self.moment.ndim == 2 else np.square(self.mean))


@dataclass(slots=True)
class _Sums:
    moment: np.ndarray
    total: np.ndarray
    rows: int

    def means(self) -> Inputs:
        return Inputs(self.total / self.rows, self.moment / self.rows)


def observe(
    graph: Graph,
    reads: Iterable[Read],
    batches: Sequence[Feeds],
    context: PassContext,
    widest: int | None = None,
) -> dict[Read, Inputs]:
    """Observe values; nothing of those that hold no rows, or numbers that are not finite.

    Args:
        graph: that is run.
        reads: values of it.
        batches: of inputs.
        context: to whom progress is reported.
        widest: the channels beyond which a diagonal is all that is held of a moment.
    """
    reads = list(dict.fromkeys(reads))
    nothing = Inputs(np.empty(0), np.empty(0))

    def compute() -> list[np.ndarray]:
        found = _observed(graph, reads, batches, context, widest)
        return [array for read in reads for it in [found.get(read, nothing)] for array in (it.mean, it.moment)]

    held = context.remember(compute)
    found = zip(reads, held[::2], held[1::2], strict=True)
    return {read: Inputs(mean, moment) for read, mean, moment in found if mean.size}


def _observed(
    graph: Graph,
    reads: Sequence[Read],
    batches: Sequence[Feeds],
    context: PassContext,
    widest: int | None,
) -> dict[Read, Inputs]:
    from ..ir.interpreter import Interpreter  # brings torch, which listing the passes must not

    axes: defaultdict[Value, set[int]] = defaultdict(set)
    for value, axis in reads:
        axes[value].add(axis)
    sums: dict[Read, _Sums] = {}

    def look(value: Value, tensor: "Tensor") -> None:
        for axis in axes.get(value, ()):
            rows = tensor.movedim(axis, -1).flatten(0, -2).double()
            is_wide = widest is not None and rows.shape[1] > widest
            moment = (rows.square().sum(0) if is_wide else rows.T @ rows).numpy()
            total = rows.sum(0).numpy()
            held = sums.setdefault((value, axis), _Sums(np.zeros_like(moment), np.zeros_like(total), 0))
            held.moment += moment
            held.total += total
            held.rows += len(rows)

    interpreter = Interpreter(graph)
    for done, feeds in enumerate(batches):
        context.progress("observing layers", done, len(batches))
        interpreter.run(feeds, look)
    return {read: held.means() for read, held in sums.items() if held.rows and np.isfinite(held.moment).all()}
