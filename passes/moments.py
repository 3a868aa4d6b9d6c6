"""Means and second moments of what layers read, over calibration data."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ..ir.graph import Graph, Node, Value
from .base import Feeds, PassContext
from .windows import positions, window_rows

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

Read: TypeAlias = tuple[Value, int | Node]
"""A value, and the axis of its channels, perhaps counted from the back, or the convolution that reads its windows."""
WIDEST_WINDOW = 4608
"""The weights of a convolution's output, 3x3 of 512 channels, above which each counts by itself."""
_WINDOWS = 8192
"""How many windows of a batch are looked at."""
_ROWS = 8
"""How many rows for each channel tell how channels vary together."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The moments of what a layer reads.

    Attributes:
        mean: the mean of each channel, float64 `[K]`.
        moment: the mean over rows of `x^T x`, float64 `[K, K]`, or of its diagonal alone, `[K]`.
    """

    mean: np.ndarray
    moment: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """The moment around the mean: that of what varies, since a bias can stand for the mean."""
        return self.moment - (np.outer(self.mean, self.mean) if self.moment.ndim == 2 else np.square(self.mean))


@dataclass(slots=True)
class _Sums:
    """Sums over rows less a shift near their mean: single precision is enough for the few rows of one batch."""

    shift: "Tensor"
    moment: np.ndarray
    total: np.ndarray
    rows: int = 0

    def add(self, rows: "Tensor") -> None:
        rows = rows - self.shift
        moment = rows.square().sum(0) if self.moment.ndim == 1 else rows.T @ rows
        self.moment += moment.numpy()
        self.total += rows.sum(0).numpy()
        self.rows += len(rows)

    def means(self) -> Inputs:
        shift, moved = self.shift.double().numpy(), self.total / self.rows
        mean, outer = shift + moved, np.outer if self.moment.ndim == 2 else np.multiply
        return Inputs(mean, self.moment / self.rows + outer(mean, mean) - outer(moved, moved))


def observe(
    graph: Graph,
    reads: Iterable[Read],
    batches: Sequence[Feeds],
    context: PassContext,
    widest: int | None = None,
    enough: int | None = None,
) -> dict[Read, Inputs]:
    """Take the moments of values; those that hold no rows, or numbers that are not finite, are left out.

    Args:
        graph: the graph to run.
        reads: the values to observe.
        batches: the inputs, one batch after another.
        context: the context that progress is reported to.
        widest: the number of channels above which only a moment's diagonal is held; None for no bound.
        enough: the number of batches after which no more are run, as soon as there were `_ROWS` rows for each channel
            of every value; None to run all.
    """
    reads = list(dict.fromkeys(reads))
    nothing = Inputs(np.empty(0), np.empty(0))

    def compute() -> list[np.ndarray]:
        found = _observed(graph, reads, batches, context, widest, enough)
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
    enough: int | None,
) -> dict[Read, Inputs]:
    from ..ir.interpreter import Interpreter  # brings torch, which listing the passes must not

    axes: defaultdict[Value, set[int | Node]] = defaultdict(set)
    for value, axis in reads:
        axes[value].add(axis)
    sums: dict[Read, _Sums] = {}

    def look(value: Value, tensor: "Tensor") -> None:
        for axis in axes.get(value, ()):
            rows = _rows(tensor, axis).float()
            if not len(rows):
                continue
            if (held := sums.get((value, axis))) is None:
                width = rows.shape[1]
                is_wide = widest is not None and width > widest
                is_wide |= isinstance(axis, Node) and width > WIDEST_WINDOW
                moment = np.zeros(width if is_wide else (width, width))
                held = sums[value, axis] = _Sums(rows.mean(0), moment, np.zeros(width))
            held.add(rows)

    interpreter = Interpreter(graph)
    for done, feeds in enumerate(batches):
        context.progress("observing layers", done, len(batches))
        interpreter.run(feeds, look)
        if enough is not None and done + 1 >= enough and all(it.rows >= _ROWS * len(it.total) for it in sums.values()):
            break
    return {read: held.means() for read, held in sums.items() if np.isfinite(held.moment).all()}


def _rows(tensor: "Tensor", axis: int | Node) -> "Tensor":
    """The channels at each position, or those of a convolution's windows at positions that are drawn, `[rows, K]`."""
    import torch

    if isinstance(axis, int):
        return tensor.movedim(axis, -1).flatten(0, -2)
    count, generator = positions(tensor, axis), torch.Generator().manual_seed(0)
    places = torch.randperm(count, generator=generator)[: max(1, _WINDOWS // max(1, len(tensor)))]
    return window_rows(tensor, axis, places).flatten(0, 1)
