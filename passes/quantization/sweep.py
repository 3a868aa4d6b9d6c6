"""A walk from layer to layer with all batches at once, in which layers are rounded as soon as their inputs are known.

So each layer sees what the rounded ones before it yield. What is kept of a batch between two layers are the values that
are alive there, in temporary files where they are many, and of what layers read only sums of products, so that memory
doesn't grow with the amount of data.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

import numpy as np

from ...ir.graph import Constant, Graph, Value
from ..base import Feeds, PassContext
from ..judge import ONE_IN
from ..walk import Walk, walk
from .layers import Layer

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Moments:
    """Second moments of what some layers read: the mean over rows of `x^T x`, float32 `[K, K]`.

    Attributes:
        fit: over the batches that roundings are fitted to.
        held_out: over the others; the same where there is one row only.
        drift: the mean over rows of `x^T (x0 - x)`, where x0 is what the layers read in float, on the batches that
            roundings are fitted to; 0 where that isn't known.
        held_out_drift: the same on the others.
    """

    fit: np.ndarray
    held_out: np.ndarray
    drift: np.ndarray | None = None
    held_out_drift: np.ndarray | None = None

    def error(self, change: np.ndarray, weight: np.ndarray) -> float:
        """The mean over held-out rows of the squared error of the output, without what no change has a part in.

        Args:
            change: of the weight, `[K, N]`.
            weight: what the float model multiplies by.
        """
        wanted = 0.0 if self.held_out_drift is None else np.vdot(change, self.held_out_drift @ weight)
        return float(np.vdot(change, self.held_out @ change) - 2 * wanted)

    def target(self, weight: np.ndarray, damping: float) -> np.ndarray:
        """The weight `[K, N]` that comes closest to the float model's output, by least squares.

        Args:
            weight: what the float model multiplies by.
            damping: added to the second moments, as a share of their mean.
        """
        if self.drift is None:
            return weight
        damped = self.fit.astype(np.float64)
        damped[np.diag_indices_from(damped)] += damping * (np.trace(damped) / len(damped) or 1.0)
        return (weight + np.linalg.solve(damped, self.drift @ weight)).astype(np.float32)


Visitor: TypeAlias = Callable[[Sequence[Layer], Moments], Mapping[Layer, np.ndarray]]
"""What is called with the layers that read one value; returns the weights `[K, N]` that the walk goes on with."""


def sweep(
    graph: Graph,
    layers: Sequence[Layer],
    batches: Sequence[Feeds],
    context: PassContext,
    visit: Visitor,
    *,
    sees_drift: bool = False,
) -> None:
    """Visit layers in the graph's order, with the moments of what they read.

    Args:
        graph: that is walked through; it isn't changed.
        layers: MatMul and Gemm nodes of it.
        batches: of inputs.
        context: to whom progress is reported.
        visit: called for the layers of each value that is read by some.
        sees_drift: whether a second walk, in float, tells how far off is what layers read.
    """
    import torch

    from ...ir.ops.dtypes import to_torch

    walked = graph.clone()
    twins = {node: (place, twin) for place, (node, twin) in enumerate(zip(graph.nodes, walked.nodes, strict=True))}
    own: dict[Layer, Constant] = {}
    groups: dict[Value, list[Layer]] = {}
    for layer in layers:
        own[layer] = walked.add_constant(_laid_out(layer, layer.matrix))  # others may read the same weight
        walked.set_input(twins[layer.node][1], 1, own[layer])
        groups.setdefault(layer.x, []).append(layer)
    with (
        walk(walked, batches) as rounded,
        walk(graph, batches) if sees_drift else nullcontext() as exact,
        torch.no_grad(),
    ):
        start = 0
        for done, group in enumerate(groups.values()):
            context.progress("walking through layers", done, len(groups))
            stop, twin = twins[group[0].node]
            sums: dict[bool, _Sums] = {}
            for number in range(len(batches)):
                x = _rows(rounded, number, start, stop, twin.operand(0))
                exact_x = None if exact is None else _rows(exact, number, start, stop, group[0].x)
                for is_held_out, places in _shares(len(x), number, len(batches)):
                    found = _Sums.of(x[places], None if exact_x is None else exact_x[places])
                    sums[is_held_out] = sums[is_held_out] + found if is_held_out in sums else found
            for layer in layers:
                if twins[layer.node][0] < stop:
                    rounded.constants.pop(own[layer], None)  # nobody reads it again
            start = stop
            for layer, weight in visit(group, _moments(sums)).items():
                rounded.constants[own[layer]] = to_torch(_laid_out(layer, weight))
    context.progress("walking through layers", len(groups), len(groups))


@dataclass(slots=True)
class _Sums:
    """Sums over rows of what layers read."""

    rows: int
    moment: "Tensor"
    drift: "Tensor | None"

    @classmethod
    def of(cls, x: "Tensor", exact: "Tensor | None") -> Self:
        return cls(len(x), x.T @ x, None if exact is None else x.T @ (exact - x))

    def __add__(self, other: Self) -> Self:
        drift = None if self.drift is None or other.drift is None else self.drift + other.drift
        return type(self)(self.rows + other.rows, self.moment + other.moment, drift)

    @property
    def means(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The mean over rows of each sum."""
        rows = max(self.rows, 1)
        return (self.moment / rows).numpy(), None if self.drift is None else (self.drift / rows).numpy()


def _moments(sums: Mapping[bool, _Sums]) -> Moments:
    """The moments by sums of rows that are held out, and of others."""
    (fit, drift), (held_out, held_out_drift) = sums[False].means, sums.get(True, sums[False]).means
    return Moments(fit, held_out, drift, held_out_drift)


def _rows(walk: Walk, number: int, start: int, stop: int, value: Value) -> "Tensor":
    import torch

    x = walk.advance(number, start, stop)[value]
    assert isinstance(x, torch.Tensor)
    return x.reshape(-1, x.shape[-1])


def _shares(rows: int, number: int, count: int) -> Iterator[tuple[bool, slice]]:
    """Parts of a batch, by its number among some, and whether they are held out: rows are, of few batches."""
    if count >= ONE_IN or rows < ONE_IN:
        yield count > 1 and number % ONE_IN == ONE_IN - 1, slice(None)
        return
    yield True, slice(ONE_IN - 1, None, ONE_IN)
    yield from ((False, slice(place, None, ONE_IN)) for place in range(ONE_IN - 1))


def _laid_out(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """A weight `[K, N]` as the layer's node reads it."""
    return weight.T if layer.node.operator == "Gemm" and not layer.axis else weight
