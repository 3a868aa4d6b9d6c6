"""In which directions errors of what layers yield matter to the model's outputs."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ...ir.drafts import workspace
from ...ir.graph import Graph
from ..base import Feeds, PassContext
from ..gradients import Gradients
from ..measures import choose_measures
from ..precision import fast_precision
from ..probes import first_samples
from ..storage import Storage
from .layers import Layer
from .sweep import shares

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

_MOST_ROWS = 8192
"""Rows of a layer's outputs after which no more gradients are drawn."""
_SAMPLES = 8
"""The most samples of a batch that gradients are drawn for: all that was computed for them is held at once."""
_WIDEST = 4096
"""The most channels that a layer's directions have: beyond, moments and their factors take long."""
_MOST_JUDGES = 1024
"""The most rows that errors are judged by."""
_LONGEST = 5.0
"""How much a row may count, where one counts 1 in the mean."""
_DOUBT = 4.0
"""What is added to the diagonal of moments, as a share of it, where there are as many rows as channels."""


@dataclass(frozen=True, slots=True)
class Directions:
    """Directions in which errors of what a layer yields matter, the more the longer they are.

    Attributes:
        fit: those that roundings are fitted to, float32 `[rows, N]`.
        held_out: those that they are judged by; some of `fit` where there are too few batches to hold some out.
    """

    fit: np.ndarray
    held_out: np.ndarray

    @property
    def moments(self) -> np.ndarray:
        """The second moments of those that roundings are fitted to, shrunk as far as they aren't well known."""
        moments, lengths = self.fit.T @ self.fit, np.square(self.fit).sum(axis=1)
        rows = lengths.sum() ** 2 / (np.square(lengths).sum() or 1)  # Kish's effective sample size
        return moments + np.diag(np.diagonal(moments) * np.float32(_DOUBT * len(moments) / max(rows, 1)))


DirectionsOf: TypeAlias = Callable[[Layer], Directions | None]


@contextmanager
def directions(
    graph: Graph, layers: Sequence[Layer], batches: Sequence[Feeds], context: PassContext
) -> Generator[DirectionsOf]:
    """Draw the loss's gradients at what layers yield, which are kept in files, one for each row.

    The loss is the divergence of the outputs from what they are; its second derivative is the mean square of gradients
    for outputs that are drawn at random (Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored
    Approximate Curvature", ICML 2015). The square of a row counts by its root, as few rows have most of it.

    Args:
        graph: the graph in float.
        layers: its layers that multiply matrices.
        batches: the inputs, one batch after another; the first samples of the first ones are looked at.
        context: the context that has the seed, and that progress is reported to.

    Yields:
        What finds a layer's directions: None if it has no gradients, or some that aren't finite.
    """
    import torch

    measures, generator = choose_measures(graph, "auto"), torch.Generator().manual_seed(context.seed)
    narrow = [layer for layer in layers if measures and layer.matrix.shape[1] <= _WIDEST]
    places = {layer: place for place, layer in enumerate(narrow)}
    shapes = {value.name: value.type.dims for value in graph.inputs}
    watched = {layer.node.output for layer in narrow}
    gradients = Gradients(graph, watched, measures, generator, products=fast_precision())
    with workspace() as folder:
        storage: Storage[int, Tensor] = Storage(folder)
        drawn = rows = 0
        while narrow and drawn < len(batches) and rows < _MOST_ROWS:
            context.progress("drawing gradients", rows, _MOST_ROWS)
            found = next(gradients.draw(first_samples(batches[drawn], shapes, _SAMPLES), draws=1), {})
            for layer, place in places.items():
                gradient = found.get(layer.node.output, torch.empty(0, 1))
                storage.put(drawn * len(narrow) + place, {0: gradient.reshape(-1, gradient.shape[-1]).bfloat16()})
            drawn, rows = drawn + 1, rows + max((one.shape[:-1].numel() for one in found.values()), default=0)

        def find(layer: Layer) -> Directions | None:
            if layer not in places:
                return None
            held = [storage.get(number * len(narrow) + places[layer])[0].float() for number in range(drawn)]
            if not held or not all(map(len, held)):
                return None
            squares = torch.cat([rows.double().square().sum(1) for rows in held])
            if not squares.isfinite().all() or not squares.any():
                return None
            mean = squares.sqrt().mean()
            parts: dict[bool, list[Tensor]] = {True: [], False: []}
            for number, rows in enumerate(held):
                for is_held_out, part in shares(rows, number, len(batches)):
                    parts[is_held_out].append(part)
            fit, judges = (_evened(torch.cat(parts[key] or parts[False]), float(mean)) for key in (False, True))
            return Directions(fit, judges[:: -(-len(judges) // _MOST_JUDGES)])

        yield find


def _evened(rows: "Tensor", mean: float) -> np.ndarray:
    """Rows whose squared lengths are the lengths that they had, over the mean length, but bounded."""
    lengths = rows.double().norm(dim=1, keepdim=True).clamp_min(1e-300)
    return (rows / lengths * (lengths / mean).clamp_max(_LONGEST).sqrt()).float().numpy()
