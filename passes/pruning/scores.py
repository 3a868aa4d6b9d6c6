"""What channels are worth by the field's other importances, each of which is one number for a channel.

A group's number is the sum over the layers that compute its channels, or over those that read them. Where the scale of
a layer says nothing, a layer's numbers are divided by their mean, so that none outvotes the others.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from ...ir.graph import Constant, Graph, Node, Value
from ..base import Feeds, PassContext
from ..gradients import Gradients
from ..measures import choose_measures
from ..moments import Inputs, Read
from .readers import Reader, reader

if TYPE_CHECKING:  # networkx, scipy and torch come with these, which listing the passes must not import
    from torch import Tensor

    from ...ir.analysis.channels import ChannelGroup, Member

Norm: TypeAlias = Literal["l1", "l2", "fpgm"]
"""What filters are compared by: their norms, or their distances."""
_BLOCK = 1024
"""The filters whose distances to all others are computed at once."""


# -- without data


def score_filters(group: "ChannelGroup", norm: Norm) -> np.ndarray:
    """Add up what the filters that compute a channel are worth, with the scale of a batch norm behind them.

    `l1` and `l2` are sums of absolute weights and of squares (Li et al., "Pruning Filters for Efficient ConvNets", ICLR
    2017). `fpgm` is the sum of distances to the layer's other filters: what is near their geometric median, the others
    can stand for (He et al., "Filter Pruning via Geometric Median", CVPR 2019).
    """
    score = np.zeros(group.size)
    for node, (value, axis, indices) in group.producers:
        assert isinstance(value, Constant)
        rows = np.moveaxis(value.data, axis, 0).reshape(value.data.shape[axis], -1).astype(np.float64)
        scale = _scale_behind(node)
        if scale is not None and len(scale) == len(rows):
            rows = rows * scale[:, None]
        score += _by_mean(_worth(rows[indices].reshape(group.size, -1), norm))
    return score


def _worth(filters: np.ndarray, norm: Norm) -> np.ndarray:
    if norm == "l1":
        return np.abs(filters).sum(axis=1)
    squares = np.square(filters).sum(axis=1)
    if norm == "l2":
        return squares
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(filters), _BLOCK)]
    apart = (squares[block, None] + squares - 2 * filters[block] @ filters.T for block in blocks)
    return np.concatenate([np.sqrt(np.maximum(squared, 0.0)).sum(axis=1) for squared in apart])


def _by_mean(worth: np.ndarray) -> np.ndarray:
    return worth / (worth.mean() or 1.0)


def score_batch_norms(group: "ChannelGroup") -> np.ndarray:
    """Average the absolute scales of a channel's batch norms; zeros where there is none.

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017.
    """
    scales = [
        np.abs(value.data[indices].astype(np.float64)).mean(axis=1)
        for value, _, indices in group.members
        if isinstance(value, Constant)
        and any(use.node.operator == "BatchNormalization" and use.index == 1 for use in value.uses)
    ]
    return np.mean(scales, axis=0) if scales else np.zeros(group.size)


def unscaled(group: "ChannelGroup") -> str | None:
    """Why the scales of batch norms can't rank the channels of a group; None where they can."""
    if np.ptp(score_batch_norms(group)):
        return None
    return "no batch norm's scale tells them apart; if `fuse` has folded the batch norms, put it behind prune-channels"


def _norm_behind(node: Node) -> Node | None:
    """The batch norm that alone reads what a layer computes."""
    uses = node.outputs[0].uses
    if len(uses) != 1 or uses[0].node.operator != "BatchNormalization" or uses[0].index:
        return None
    return uses[0].node


def _scale_behind(node: Node) -> np.ndarray | None:
    """What a batch norm multiplies each channel of a layer's output by, where it can be folded into the layer."""
    norm = _norm_behind(node)
    scale, variance = (None, None) if norm is None else (norm.constant(1), norm.constant(4))
    if norm is None or scale is None or variance is None or norm.attributes.get("training_mode"):
        return None
    return scale / np.sqrt(variance.astype(np.float64) + norm.attributes.get("epsilon", 1e-5))


# -- with data


def readings(group: "ChannelGroup", inputs: Mapping[Read, Inputs]) -> list[tuple[Reader, np.ndarray]] | None:
    """The layers that read a group, each with the indices of the channels in what it reads.

    Returns:
        None where a layer is not understood, or wasn't seen to read anything.
    """
    found: list[tuple[Reader, np.ndarray]] = []
    for node in dict.fromkeys(node for node, _ in group.consumers):
        layer = reader(node)
        place = None if layer is None else _member(group, layer.x, layer.axis)
        if layer is None or place is None or (layer.x, layer.axis) not in inputs:
            return None
        found.append((layer, place.indices))
    return found or None


def _member(group: "ChannelGroup", value: Value, axis: int) -> "Member | None":
    return next((member for member in group.members if member.value is value and member.axis == axis), None)


def score_inputs(group: "ChannelGroup", inputs: Mapping[Read, Inputs]) -> np.ndarray | None:
    """Add up what layers that read a channel multiply it by, times the norm of what they read.

    Source: Sun et al., "Wanda: A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024, summed
    over an input channel's weights; with the scale of a batch norm behind each output.

    Args:
        group: the group of coupled channels.
        inputs: the moments of what layers read.

    Returns:
        None where a layer is not understood, or wasn't seen to read anything.
    """
    read = readings(group, inputs)
    if read is None:
        return None
    score = np.zeros(group.size)
    for layer, indices in read:
        moment = inputs[layer.x, layer.axis].moment
        scale = _scale_behind(layer.node)
        weights = np.abs(layer.rows() if scale is None else layer.rows() * scale[:, None]).sum(axis=(1, 2))
        norms = np.sqrt(np.maximum(moment if moment.ndim == 1 else moment.diagonal(), 0.0))
        score += _by_mean((weights * norms)[indices].sum(axis=1))
    return score


def score_gradients(
    graph: Graph, groups: Sequence["ChannelGroup"], batches: Sequence[Feeds], context: PassContext
) -> list[np.ndarray | None]:
    """Average the square of what the loss changes without a channel, to first order: gradient times activation.

    The sum is over all that a sample's channel computes, behind a batch norm, in all layers that compute it (Molchanov
    et al., "Importance Estimation for Neural Network Pruning", CVPR 2019). There are no labels, so that classes are
    drawn from the model's own probabilities, anew for each sample; the squares then estimate how far outputs diverge.

    Args:
        graph: the graph of the groups.
        groups: the groups of coupled channels.
        batches: the inputs, one batch after another; each is run back once.
        context: the context that has the seed, and that progress is reported to.

    Returns:
        None for groups whose gradients aren't known, or vanish where the model is too sure of its classes.
    """
    import torch

    gates = [_gates(group) for group in groups]
    watched = {gate.value for members in gates for gate in members}
    measures = choose_measures(graph, "auto")
    gradients = Gradients(graph, watched, measures, torch.Generator().manual_seed(context.seed))
    scores = [np.zeros(group.size) for group in groups]
    for done, feeds in enumerate(batches if measures else ()):
        context.progress("ranking channels", done, len(batches))
        for drawn in gradients.draw(feeds, 1):
            products = {value: gradient.double() * gradients.values[value] for value, gradient in drawn.items()}
            for score, members in zip(scores, gates, strict=True):
                score += _squares([gate for gate in members if gate.value in drawn], products) / len(batches)
    return [score if score.any() and np.isfinite(score).all() else None for score in scores]


def _gates(group: "ChannelGroup") -> "list[Member]":
    """What layers compute of a group's channels, behind their batch norms."""
    computed = {(_norm_behind(node) or node).outputs[0] for node, _ in group.producers}
    return [member for member in group.members if member.value in computed]


def _squares(gates: "Sequence[Member]", products: "Mapping[Value, Tensor]") -> np.ndarray | float:
    """The squares of sums over each channel of a sample, summed over samples."""
    import torch

    sums: defaultdict[int, Tensor | float] = defaultdict(float)
    for value, axis, indices in gates:
        rows = torch.atleast_2d(products[value].movedim(axis, -1))
        rows = rows.reshape(len(rows), -1, rows.shape[-1]).sum(1)
        sums[len(rows)] += rows[:, torch.from_numpy(indices)].sum(-1)  # by length, since not all rows are samples
    return sum((np.square(it).sum(axis=0) for it in map(np.asarray, sums.values())), start=0.0)
