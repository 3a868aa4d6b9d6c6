"""A walk from layer to layer with all batches at once, in which layers are rounded as soon as their inputs are known.

So each layer sees what the rounded ones before it yield. What is kept of a batch between two layers are the values that
are alive there, in temporary files where they are many, and of what layers read only sums of products, so that memory
doesn't grow with the amount of data.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from typing import TYPE_CHECKING, Self, TypeAlias

import numpy as np

from ...ir.graph import Constant, Graph, Value
from ..base import Feeds, PassContext
from ..judge import ONE_IN
from ..walk import walk
from ..windows import windows
from .layers import Layer

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

_MOST_ROWS = 1 << 14
"""The most windows of a convolution that are looked at in a batch."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Second moments of what some layers read: the means over rows of `x^T x`, float32 `[K, K]`.

    Attributes:
        fit: the moments over the batches that roundings are fitted to.
        held_out: the moments over the others; the same as `fit` where there are too few rows to hold some out.
        share: the share of rows that are held out.
        rows: the number of rows that weights are fitted to.
        lacks: the same two means of `x^T (y - x)`, where the layers would read y if no layer had been changed, times
            the share of it that they are to make up for; None if they make up for nothing.
    """

    fit: np.ndarray
    held_out: np.ndarray
    share: float = 0.0
    rows: int = 0
    lacks: tuple[np.ndarray, np.ndarray] | None = None

    def divided(self, scale: np.ndarray) -> Self:
        """The moments of the inputs divided by some numbers `[K]`."""
        products = np.outer(scale, scale).astype(np.float32)
        return type(self)(self.fit / products, self.held_out / products, self.share, self.rows)

    @property
    def shrunk(self) -> np.ndarray:
        """The moments that roundings are fitted to, shrunk as in `estimate`, but by K / (K + rows) at least.

        Few batches have some of their own rows held out, which says little of how far apart other batches would be.
        """
        return self._shrunk(self.fit, self.share, self.rows / (self.rows + len(self.fit)))

    def estimate(self, *, of_all: bool) -> np.ndarray:
        """The moments that pruning is fitted to, or those of all batches, shrunk as far as batches differ."""
        if not of_all:
            return self._shrunk(self.fit, self.share)
        return self._shrunk(self._mean, self.share * (1 - self.share))

    @property
    def _mean(self) -> np.ndarray:
        return np.float32(1 - self.share) * self.fit + np.float32(self.share) * self.held_out

    def _shrunk(self, moments: np.ndarray, doubt: float, most: float = 1.0) -> np.ndarray:
        """Moments in which what two channels have in common is shrunk, as it is not well known.

        The share that goes is the variance of the correlations over their mean square (Ledoit and Wolf, "A
        Well-Conditioned Estimator for Large-Dimensional Covariance Matrices", 2004; Schaefer and Strimmer, "A Shrinkage
        Approach to Large-Scale Covariance Matrix Estimation", 2005). Rows of one sample resemble each other, so that
        the variance is estimated by how far apart the moments of different batches are.

        Args:
            moments: the moments to shrink.
            doubt: the variance of an element, where that of the difference of the two parts' is 1.
            most: the largest share that stays.
        """
        energy = np.diagonal(self._mean).astype(np.float64)
        mean = energy.mean()
        with np.errstate(all="ignore"):  # moments of huge numbers are infinite
            weights = np.where(energy > 0, mean / energy, 0).astype(np.float32)

            def size(matrix: np.ndarray) -> np.float64:
                squares = np.square(matrix / np.float32(mean))
                return np.float64(weights @ squares @ weights - np.square(weights) @ np.diagonal(squares))

            known = 1 - doubt * size(self.fit - self.held_out) / size(moments) if self.share else 0.0
        found = moments * np.float32(min(known, most)) if known > 0 else np.zeros_like(moments)
        np.fill_diagonal(found, np.diagonal(moments))
        return found

    def error(self, found: np.ndarray, weight: np.ndarray) -> float:
        """How much squared error of the output a weight `[K, N]` adds if it takes the place of another one.

        It is the mean over held-out rows, and below zero if the weight makes up for what the rows lack.
        """
        change = found - weight
        made = float(np.vdot(change, self.held_out @ change))
        return made if self.lacks is None else made - 2 * float(np.vdot(change, self.lacks[1] @ weight))

    def target(self, weight: np.ndarray) -> np.ndarray:
        """The weight `[K, N]` that does best on rows that are not held out; zeros of the layer's own weight stay."""
        if self.lacks is None:
            return weight
        damped = self.shrunk.astype(np.float64)
        damped[np.diag_indices_from(damped)] += 1e-6 * (np.diagonal(damped).mean() or 1.0)
        change = np.linalg.solve(damped, self.lacks[0] @ weight)
        stays = (weight == 0) | ~np.isfinite(change)  # moments of huge numbers are infinite
        return np.where(stays, weight, weight + change.astype(np.float32))


Visitor: TypeAlias = Callable[[Sequence[Layer], Moments], Mapping[Layer, np.ndarray]]
"""A callback for the layers that read one value, and its moments; returns the weights `[K, N]` to go on with."""


class Sums:
    """The sums whose means are second moments, added up batch by batch.

    Args:
        layer: one of the layers that read the value.
        count: how many batches are taken into account, from the first on.

    Attributes:
        x: the value that the layer reads.
    """

    def __init__(self, layer: Layer, count: int) -> None:
        self.x = layer.x
        self._layer, self._count = layer, count
        self._sums: dict[bool, Tensor] = {}
        self._lacks: dict[bool, Tensor] = {}
        self._rows: dict[bool, int] = {}

    def see(self, batch: int, value: Value, tensor: "Tensor") -> None:
        """Take a batch, by its place, into account, if the layer reads the value."""
        if value is self.x and batch < self._count:
            self.add(batch, tensor)

    def add(self, batch: int, x: "Tensor", before: "Tensor | None" = None) -> None:
        """Take into account what the layer reads in a batch, and what it would read if no layer had been changed."""
        rows = _rows(x, self._layer)
        for is_held_out, part in shares(rows, batch, self._count):
            self._sums[is_held_out] = self._sums.get(is_held_out, 0) + part.T @ part
            self._rows[is_held_out] = self._rows.get(is_held_out, 0) + len(part)
        if before is None:
            return
        missed = shares(_rows(before, self._layer) - rows, batch, self._count)
        for (is_held_out, part), (_, lack) in zip(shares(rows, batch, self._count), missed, strict=True):
            self._lacks[is_held_out] = self._lacks.get(is_held_out, 0) + part.T @ lack

    @property
    def moments(self) -> Moments:
        """The second moments: the means of the sums over rows."""
        share = self._rows.get(True, 0) / max(sum(self._rows.values()), 1)
        lacks = self._means(self._lacks) if self._lacks else None
        return Moments(*self._means(self._sums), share, self._rows[False], lacks)

    def _means(self, sums: "Mapping[bool, Tensor]") -> tuple[np.ndarray, np.ndarray]:
        """The means over rows that are fitted to, and over those that are held out."""
        means = {is_held_out: (total / max(self._rows[is_held_out], 1)).numpy() for is_held_out, total in sums.items()}
        return means[False], means.get(True, means[False])


def sweep(
    graph: Graph,
    layers: Sequence[Layer],
    batches: Sequence[Feeds],
    context: PassContext,
    visit: Visitor,
    first: Moments | None = None,
    asymmetry: float = 0.0,
) -> None:
    """Visit layers in the graph's order, with the moments of what they read.

    Args:
        graph: the graph to walk through; it isn't changed.
        layers: its layers to visit; a Conv's rows are what its windows hold.
        batches: the inputs, one batch after another.
        context: the context that progress is reported to.
        visit: called for each value that some of the layers read, with these layers.
        first: the moments of what the first layer reads, where they are known already.
        asymmetry: the share of what layers lack, since others before them have changed, that they are to make up for.
    """
    import torch

    from ...ir.ops.dtypes import to_torch

    walked = graph.clone()
    twins = {node: (place, twin) for place, (node, twin) in enumerate(zip(graph.nodes, walked.nodes, strict=True))}
    own: dict[Layer, Constant] = {}
    groups: dict[tuple[object, ...], list[Layer]] = {}
    for layer in layers:
        own[layer] = walked.add_constant(layer.laid_out(layer.matrix))  # others may read the same weight
        walked.set_input(twins[layer.node][1], 1, own[layer])
        groups.setdefault((layer.x, *_window(layer)), []).append(layer)
    start = 0
    unchanged = walk(graph, batches) if asymmetry else nullcontext()
    with walk(walked, batches) as rounded, unchanged as exact, torch.no_grad():

        def observe(group: Sequence[Layer]) -> list[np.ndarray]:
            nonlocal start
            stop, twin = twins[group[0].node]
            sums = Sums(group[0], len(batches))
            for number in range(len(batches)):
                x = rounded.advance(number, start, stop)[twin.operand(0)]
                assert isinstance(x, torch.Tensor)
                before = None if exact is None else exact.advance(number, start, stop)[group[0].x]
                assert before is None or isinstance(before, torch.Tensor)
                sums.add(number, x, before)
            start, found = stop, sums.moments
            lacks = [np.float32(asymmetry) * one for one in found.lacks or ()]
            return [found.fit, found.held_out, np.array([found.share, found.rows]), *lacks]

        for done, group in enumerate(groups.values()):
            context.progress("walking through layers", done, len(groups))
            if done or first is None:
                fit, held_out, (share, rows), *lacks = context.remember(partial(observe, group))
                moments = Moments(fit, held_out, float(share), int(rows), (lacks[0], lacks[1]) if lacks else None)
            else:
                moments = first
            for layer in layers:
                if twins[layer.node][0] < start:
                    rounded.constants.pop(own[layer], None)  # nobody reads it again
            for layer, weight in visit(group, moments).items():
                rounded.constants[own[layer]] = to_torch(layer.laid_out(weight))
    context.progress("walking through layers", len(groups), len(groups))


def _window(layer: Layer) -> tuple[object, ...]:
    """What layers that read the same value must share so that their rows are the same."""
    if layer.node.operator != "Conv":
        return ()
    get = layer.node.attributes.get
    return (layer.weight.data.shape[2:], *map(get, ("strides", "dilations", "pads", "auto_pad")))


def _rows(x: "Tensor", layer: Layer) -> "Tensor":
    """The rows that a layer multiplies with its weight; of a convolution's windows no more than some, evenly spread."""
    if layer.node.operator != "Conv":
        return x.reshape(-1, x.shape[-1])
    held = windows(x, layer.node).movedim(1, x.ndim - 1)  # [N, *positions, C, *kernel]
    positions = held.shape[1 : x.ndim - 1]
    step = max(ceil((prod(positions) * len(x) / _MOST_ROWS) ** (1 / len(positions))), 1)
    return held[:, *(slice(None, None, step) for _ in positions)].reshape(-1, len(layer.matrix))


def shares(x: "Tensor", number: int, count: int) -> Iterator[tuple[bool, "Tensor"]]:
    """Parts of a batch, and whether each is held out: every fourth batch is, or every fourth row if batches are few."""
    if count >= ONE_IN or len(x) < ONE_IN:
        yield count > 1 and number % ONE_IN == ONE_IN - 1, x
        return
    yield True, x[ONE_IN - 1 :: ONE_IN]
    yield from ((False, x[place::ONE_IN]) for place in range(ONE_IN - 1))
