"""How much errors of a layer's weight matter to the model's outputs, in every direction."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Graph, Node
from ..base import Feeds, PassContext
from ..gradients import DRAWS, Gradients
from ..measures import choose_measures
from ..moments import WIDEST_WINDOW
from ..windows import window_rows
from .matrix import channel_axis, data_of, reads_windows

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

_ENOUGH_ROWS = 4096
"""Rows of the median layer after which no more gradients are drawn, if there were enough outputs."""
_ENOUGH_OUTPUTS = 512
"""Rows of outputs after which no more gradients are drawn: a layer's rows behind one of them share its draw."""
_MOST_ROWS = 16384
"""Rows of the median layer after which no more gradients are drawn in any case."""
_BLOCK = 1024
"""Rows of a sample whose errors are taken together."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What the outputs for a batch lose by a change `D` of a weight: the trace of `D^T A D B`.

    Attributes:
        inputs: `A`, float64 `[K, K]` with a trace of 1, or its diagonal, `[K]`.
        outputs: `B`, float64 `[N, N]`, or its diagonal, `[N]`.
    """

    inputs: np.ndarray
    outputs: np.ndarray


def weight_metrics(
    graph: Graph, means: Mapping[Node, np.ndarray], batches: Sequence[Feeds], context: PassContext
) -> dict[Node, Metric]:
    """Second moments of the loss's gradients at weights, for their rows and for their columns.

    The product of the two stands for the outputs' Fisher information, as in Gupta et al., "Shampoo", ICML 2018, by
    which errors of a sample's rows add up where they point the same way. For a model with an output for each row, such
    as a language model, there are too few samples to tell these directions. So the moments are averaged with those of
    rows on their own, the moments of inputs and of outputs' gradients (Martens and Grosse, "K-FAC", ICML 2015), without
    rows that don't matter, such as padding; the average keeps the trace of the gradients' moments. Samples lie along
    the first axis. The fewer outputs there were, the more both moments are drawn to a multiple of the identity. A model
    without gradients, or without outputs in float, has no metrics.

    Args:
        graph: the graph to run.
        means: the mean of what each layer reads, as far as a bias can make up for it, float64 `[K]`.
        batches: the inputs, one batch after another.
        context: the context that has the seed, and that progress is reported to.
    """
    import torch

    measures = choose_measures(graph, "auto")
    places = {node.output: node for node in means}
    judged = [graph.outputs[name] for name in measures]
    kept = {*judged, *(data_of(node) for node in means)}
    gradients = Gradients(graph, set(places), measures, torch.Generator().manual_seed(context.seed), kept)
    sums: dict[Node, list[np.ndarray]] = {}
    rows: Counter[Node] = Counter()
    draws = outputs = 0
    for done, feeds in enumerate(list(batches) * DRAWS if measures and means else ()):
        seen = int(np.median([rows[node] for node in means]))
        is_enough = (seen >= _ENOUGH_ROWS and outputs >= _ENOUGH_OUTPUTS) or seen >= _MOST_ROWS
        if is_enough or (done == len(batches) and not sums):
            break
        context.progress("ranking layers", min(outputs, seen), _ENOUGH_OUTPUTS)
        for drawn in gradients.draw(feeds, 1):
            draws += 1
            outputs += min(gradients.values[value].shape[:-1].numel() for value in judged)
            for value, gradient in drawn.items():
                node = places[value]
                gradient = gradient.movedim(channel_axis(node), -1)
                gradient = gradient.flatten(1, -2) if gradient.ndim > 2 else gradient[:, None]
                blocks = _blocks(node, gradient.shape[1], draws)
                rows[node] += len(gradient) * sum(map(len, blocks))
                found = _moments(node, gradients.values[data_of(node)], gradient, means[node], blocks)
                sums[node] = [one + other for one, other in zip(sums.get(node, (0.0, 0.0)), found, strict=True)]
    return {
        node: Metric(_shrunk(one / _trace(one), outputs), _shrunk(other / draws, outputs))
        for node, (one, other) in sums.items()
        if np.isfinite(other).all() and np.isfinite(one).all() and _trace(other) > 0 and _trace(one) > 0
    }


def _shrunk(moment: np.ndarray, samples: int) -> np.ndarray:
    """A moment of few samples, drawn to a multiple of the identity: the more directions count, the further."""
    if moment.ndim == 1:
        return moment
    directions = np.trace(moment) ** 2 / np.square(moment).sum()
    weight = directions / (directions + samples)
    return (1 - weight) * moment + weight * np.trace(moment) / len(moment) * np.eye(len(moment))


def _blocks(node: Node, count: int, draw: int) -> Sequence[range]:
    """The rows of each sample whose errors are taken together: all, or one block of windows, another one in each draw.

    Windows of large images are many, and take several times as much as the image.
    """
    blocks = [range(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]
    return [blocks[draw % len(blocks)]] if blocks and reads_windows(node) else blocks


def _moments(
    node: Node, x: "Tensor", gradient: "Tensor", mean: np.ndarray, blocks: Sequence[range]
) -> "tuple[np.ndarray, np.ndarray]":
    """Second moments of a batch's gradients at the weight, for its rows and for its columns; a bias takes the mean.

    The moments of a table's rows are left to `count_rows`, which there are more data for.
    """
    import torch

    if node.operator == "Gather":
        return np.ones(1), _product(gradient.flatten(0, -2), gradient.flatten(0, -2))
    inputs, outputs = 0.0, 0.0
    for block in blocks:
        slope = gradient[:, block.start : block.stop]
        if node.operator == "Conv":
            given = window_rows(x, node, torch.arange(block.start, block.stop))
        else:
            given = x.reshape(*gradient.shape[:2], -1)[:, block.start : block.stop]
        given = (given - torch.from_numpy(mean).to(x)) * slope.any(-1, keepdim=True)
        seen, weight = (slope @ slope.mT) @ given, (given @ given.mT) @ slope
        inputs = inputs + _averaged(given.flatten(0, 1), seen.flatten(0, 1))
        outputs = outputs + _averaged(slope.flatten(0, 1), weight.flatten(0, 1))
    share = sum(map(len, blocks)) / max(gradient.shape[1], 1)
    return np.asarray(inputs), np.asarray(outputs) / (share or 1.0)


def _averaged(rows: "Tensor", joint: "Tensor") -> np.ndarray:
    """The mean of the moment of a sample's rows together and of that of each on its own, scaled to one trace."""
    together, alone = _product(rows, joint), _product(rows, rows)
    return (together + _trace(together) / (_trace(alone) or 1.0) * alone) / 2


def _product(one: "Tensor", other: "Tensor") -> np.ndarray:
    """The sum of the outer products of two matrices' rows, or its diagonal where it is wide."""
    product = (one * other).sum(0) if one.shape[1] > WIDEST_WINDOW else one.T @ other
    return product.double().numpy()


def _trace(moment: np.ndarray) -> float:
    return float(np.trace(moment) if moment.ndim == 2 else moment.sum())
