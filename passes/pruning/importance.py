"""What a group's channels are worth: the order in which they go, and what is lost with them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from ...ir.graph import Graph, Value
from ..base import Feeds, PassContext
from ..gradients import DRAWS, Gradients
from ..measures import choose_measures
from ..moments import Inputs, Read, observe
from ..quantization.calibrate import first_batches_of
from .readers import Reader, reader
from .scores import Norm, readings, score_batch_norms, score_filters, score_gradients, score_inputs

if TYPE_CHECKING:  # networkx, scipy and torch come with these, which listing the passes must not import
    from ...ir.analysis.channels import ChannelGroup

WIDEST = 4096
"""The channels of a layer's input beyond which each is judged by itself."""
_DAMPING = 0.01
"""The share of the mean variance that is added to each, as in GPTQ's Hessian (Frantar et al., ICLR 2023)."""
_LEAST = 0.01
"""The share of the mean weight that is added to each output's: few samples don't tell that an output never matters."""
_OBSERVED = 256
"""Samples that are run in any case, where there are as many, to see how channels vary together."""
_DRAWN_ON = 32
"""Samples that gradients are drawn for."""
_ROUNDS = 128
"""In how many rounds a group's channels are taken at the most."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The channels of a group, the least important first.

    Attributes:
        order: the channels in this order.
        losses: the loss without the first 0, 1, 2 ... of them.
    """

    order: np.ndarray
    losses: np.ndarray

    @classmethod
    def of(cls, order: np.ndarray, costs: np.ndarray) -> "Ranking":
        """The ranking with an order of channels, and the cost of each channel in that order."""
        return cls(order, np.concatenate([[0.0], np.cumsum(np.maximum(costs, 0.0))]))


Importance: TypeAlias = Literal["auto", "loss", "l1", "l2", "fpgm", "bn-scale", "taylor", "wanda"]
"""What channels are ranked by; `auto` is `loss` where there are data, and `l1` where there are none."""


def rank_by_score(score: np.ndarray, *, is_absolute: bool = False) -> Ranking:
    """Rank by one number for each channel.

    Args:
        score: the number of each channel, `[channels]`.
        is_absolute: whether numbers of different groups can be compared; if not, a loss is the share of a group's.
    """
    order = np.argsort(score, kind="stable")
    return Ranking.of(order, score[order] / (1.0 if is_absolute else score.sum() or 1.0))


def rank_by_norm(group: "ChannelGroup", norm: Norm) -> Ranking:
    """Rank by the norms of the filters that compute a channel."""
    return rank_by_score(score_filters(group, norm))


@dataclass(frozen=True, slots=True)
class Observations:
    """What layers read, and how much errors of what they compute matter to the model's outputs.

    Attributes:
        inputs: the moments of layers' inputs, by the value that is read and the axis of its channels.
        weights: the weight of a squared error of each output channel, by output; empty for a model without gradients.
    """

    inputs: Mapping[Read, Inputs]
    weights: Mapping[Value, np.ndarray]


def rank(
    graph: Graph,
    groups: Sequence["ChannelGroup"],
    importance: Importance,
    batches: Sequence[Feeds],
    context: PassContext,
    about: str,
) -> list[Ranking]:
    """Rank the channels of groups; by the L1 norms of filters where their importance isn't known.

    Args:
        graph: the graph of the groups.
        groups: the groups of coupled channels.
        importance: what to rank by.
        batches: the inputs, one batch after another; only norms and the scales of batch norms need none.
        context: the context that has the seed, shares what was found, and that progress is reported to.
        about: what the rankings depend on beside the graph, as text.
    """
    if importance == "auto":
        importance = "loss" if batches else "l1"
    if importance in ("l1", "l2", "fpgm"):
        return [rank_by_norm(group, importance) for group in groups]
    if importance == "bn-scale":
        return [rank_by_score(score_batch_norms(group), is_absolute=True) for group in groups]

    def compute() -> list[np.ndarray]:
        found = _estimates(graph, groups, importance, batches, context)
        rankings = [known or rank_by_norm(group, "l1") for group, known in zip(groups, found, strict=True)]
        return [array for it in rankings for array in (it.order, it.losses)]

    held = context.share(f"rankings by {about}", compute)
    return list(map(Ranking, held[::2], held[1::2]))


def _estimates(
    graph: Graph,
    groups: Sequence["ChannelGroup"],
    importance: Literal["loss", "taylor", "wanda"],
    batches: Sequence[Feeds],
    context: PassContext,
) -> Iterator[Ranking | None]:
    """The rankings of groups by data; None where a group's importance isn't known."""
    if importance == "taylor":
        for score in score_gradients(graph, groups, first_batches_of(batches, _OBSERVED), context):
            yield None if score is None else rank_by_score(score, is_absolute=True)
        return
    nodes = dict.fromkeys(node for group in groups for node, _ in group.consumers)
    readers = [known for node in nodes if (known := reader(node)) is not None]
    if importance == "wanda":
        inputs = observe(graph, [(it.x, it.axis) for it in readers], batches, context, 0, _enough(batches))
        for group in groups:
            score = score_inputs(group, inputs)
            yield None if score is None else rank_by_score(score)
        return
    observed = observe_readers(graph, readers, batches, first_batches_of(batches, _DRAWN_ON), context)
    for done, group in enumerate(groups):
        context.progress("ranking channels", done, len(groups))
        yield rank_by_loss(group, observed)


def _enough(batches: Sequence[Feeds]) -> int:
    """How many batches are observed in any case."""
    return len(first_batches_of(batches, _OBSERVED))


def observe_readers(
    graph: Graph, readers: Sequence[Reader], batches: Sequence[Feeds], few: Sequence[Feeds], context: PassContext
) -> Observations:
    """Observe what layers read, and how much errors of what they compute matter.

    Args:
        graph: the graph to run.
        readers: the layers to observe.
        batches: the inputs, one batch after another.
        few: batches on which gradients are drawn.
        context: the context that has the seed, and that progress is reported to.
    """
    import torch

    inputs = observe(graph, [(it.x, it.axis) for it in readers], batches, context, WIDEST, _enough(batches))
    axes = {it.node.output: it.output_axis for it in readers}
    weights: dict[Value, np.ndarray] = {}
    measures = choose_measures(graph, "auto")
    gradients = Gradients(graph, set(axes), measures, torch.Generator().manual_seed(context.seed))
    for done, feeds in enumerate(few if measures else ()):
        context.progress("ranking layers", done, len(few))
        for drawn in gradients.draw(feeds):
            for value, gradient in drawn.items():
                others = [axis for axis in range(gradient.ndim) if axis != axes[value]]
                total = gradient.double().square().sum(others).numpy() / (DRAWS * len(few))
                weights[value] = weights.get(value, 0.0) + total
    return Observations(inputs, weights)


def rank_by_loss(group: "ChannelGroup", observed: Observations) -> Ranking | None:
    """Rank by what is lost where a channel is gone and the others make up for it as well as they can.

    That is the squared error of what the layers that read it compute (Hassibi and Stork, "Optimal Brain Surgeon",
    NeurIPS 1992; Kurtic et al., "ZipLM", NeurIPS 2023), weighed by Fisher's information of each output (Martens and
    Grosse, "K-FAC", ICML 2015). Only what varies counts: a bias stands for the mean.

    Returns:
        None where a layer is not understood, or wasn't seen to read anything.
    """
    read = readings(group, observed.inputs)
    if read is None:
        return None
    views = [_reading(layer, indices, observed) for layer, indices in read]
    alive, order, costs = np.ones(group.size, bool), list[int](), list[float]()
    at_once = -(-group.size // _ROUNDS)
    while alive.any():
        left = np.flatnonzero(alive)
        scores = np.sum([view.costs(left) for view in views], axis=0)
        chosen = np.argsort(scores, kind="stable")[:at_once]
        order += left[chosen].tolist()
        costs += scores[chosen].tolist()
        alive[left[chosen]] = False
        if alive.any():
            for view in views:
                view.remove(left[chosen])
    return Ranking.of(np.array(order), np.array(costs))


def _reading(layer: Reader, indices: np.ndarray, observed: Observations) -> "_Reading":
    inputs = observed.inputs[layer.x, layer.axis]
    rows = layer.rows()
    weights = observed.weights.get(layer.node.output)
    covariance = inputs.covariance
    if weights is not None and weights.any():
        weights = weights + _LEAST * weights.mean()
    else:
        matrix = rows.reshape(len(rows), -1)
        spread = covariance * (matrix @ matrix.T) if covariance.ndim == 2 else covariance * np.square(matrix).sum(1)
        weights = np.full(rows.shape[1], 1 / max(float(spread.sum()), 1e-30))
    weighed = (rows * np.sqrt(weights)[:, None]).reshape(len(rows), -1)[indices]
    places = indices.ravel()
    if covariance.ndim == 1:
        return _Reading(weighed, None, np.square(weighed).sum(-1) * covariance[indices])
    near = covariance[np.ix_(places, places)]
    damped = near + np.eye(len(near)) * (_DAMPING * (np.trace(near) / len(near)) or 1e-12)
    return _Reading(weighed, np.linalg.inv(damped), None)


class _Reading:
    """One layer's view of a group, while channels go.

    Args:
        weight: the layer's weight, `[channels, rows of each, outputs]`.
        inverse: the inverse of the covariance of the rows; None where only their own costs are known.
        alone: the costs of each row by itself, `[channels, rows of each]`; None where `inverse` is given.
    """

    def __init__(self, weight: np.ndarray, inverse: np.ndarray | None, alone: np.ndarray | None) -> None:
        self._channels, self._rows, outputs = weight.shape
        self._inverse, self._alone = inverse, alone
        flat = weight.reshape(-1, outputs)
        if outputs > len(flat) and inverse is not None:  # costs depend on the products of rows alone
            values, vectors = np.linalg.eigh(flat @ flat.T)
            flat = vectors * np.sqrt(np.maximum(values, 0.0))
        self._weight = flat

    def costs(self, channels: np.ndarray) -> np.ndarray:
        """The loss of removing each of some channels, and moving the weights of those that are left."""
        if self._alone is not None:
            return self._alone[channels].sum(-1)
        assert self._inverse is not None
        rows = channels[:, None] * self._rows + np.arange(self._rows)
        weight, blocks = self._weight[rows], self._inverse[rows[:, :, None], rows[:, None, :]]
        return np.einsum("crm,crm->c", weight, np.linalg.solve(blocks, weight))

    def remove(self, channels: np.ndarray) -> None:
        """Take channels out."""
        if self._inverse is None:
            return
        rows = (channels[:, None] * self._rows + np.arange(self._rows)).ravel()
        gain = np.linalg.solve(self._inverse[np.ix_(rows, rows)], self._inverse[rows]).T
        self._weight -= gain @ self._weight[rows]
        self._inverse -= gain @ self._inverse[rows]
