"""Classical models (`ai.onnx.ml`): linear ones and trees."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .dtypes import to_torch
from .registry import operator
from .texts import STRING, from_texts

Floats = tuple[float, ...] | None
_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
"""In the order of the numbers that `TreeEnsemble` gives them."""


def _transformed(scores: Tensor, transform: str) -> Tensor:
    match transform:
        case "LOGISTIC":
            return torch.sigmoid(scores)
        case "SOFTMAX":
            return torch.softmax(scores, -1)
        case "SOFTMAX_ZERO":
            return torch.where(scores == 0, 0, torch.softmax(scores.masked_fill(scores == 0, -torch.inf), -1))
        case "PROBIT":
            return 2**0.5 * torch.erfinv(2 * scores - 1)
        case _:
            return scores


def _linear(x: Tensor, coefficients: Floats, intercepts: Floats, rows: int) -> Tensor:
    w = torch.tensor(coefficients or (), device=x.device).reshape(rows, -1)
    y = x.float().reshape(-1, x.shape[-1]) @ w.T
    return y if intercepts is None else y + torch.tensor(intercepts, device=x.device)


@operator("ai.onnx.ml::LinearRegressor")
def linear_regressor(
    x: Tensor,
    *,
    coefficients: Floats = None,
    intercepts: Floats = None,
    post_transform: str = "NONE",
    targets: int = 1,
) -> Tensor:
    return _transformed(_linear(x, coefficients, intercepts, targets), post_transform)


def _classified_types(
    x: Tensor,
    *,
    coefficients: tuple[float, ...],
    classlabels_ints: tuple[int, ...] | None = None,
    classlabels_strings: tuple[str, ...] | None = None,
    **attributes: object,
) -> tuple[Tensor, Tensor]:
    labels = classlabels_strings or classlabels_ints or ()
    rows = x.reshape(-1, x.shape[-1]).shape[0]
    classes = len(labels) if len(labels) == 2 else len(coefficients) // x.shape[-1]
    return x.new_empty(rows, dtype=STRING if classlabels_strings else torch.int64), x.new_empty(
        (rows, classes), dtype=torch.float32
    )


@operator("ai.onnx.ml::LinearClassifier", types=_classified_types)
def linear_classifier(
    x: Tensor,
    *,
    classlabels_ints: tuple[int, ...] | None = None,
    classlabels_strings: tuple[str, ...] | None = None,
    coefficients: tuple[float, ...],
    intercepts: Floats = None,
    multi_class: int = 0,
    post_transform: str = "NONE",
) -> tuple[Tensor, Tensor]:
    """The label of the greatest score, and the scores; a single score of two classes is that of the second."""
    labels = classlabels_strings or classlabels_ints or ()
    scores = _linear(x, coefficients, intercepts, len(coefficients) // x.shape[-1])
    if scores.shape[1] == 1 and len(labels) == 2:
        scores = torch.cat([-scores, scores], 1)
    scores = _transformed(scores, post_transform)
    if scores.shape[1] > 1:
        places = scores.argmax(1)
    else:  # one class: its label, or none
        places = torch.where(scores[:, 0] >= (0 if post_transform == "NONE" else 0.5), 0, 1)
        labels = (*labels[:1], "" if classlabels_strings else 0)
    if classlabels_strings:
        return from_texts([str(labels[place]) for place in places.tolist()], places.shape), scores
    return torch.tensor(labels or range(scores.shape[1]), dtype=torch.int64)[places], scores


# -- trees

_MEMBER = 6


@dataclass(frozen=True, slots=True)
class _Nodes:
    """The inner nodes of all trees, one element each; a child is a node or a leaf."""

    feature: Tensor
    mode: Tensor
    split: Tensor
    missing_is_true: Tensor
    children: Tensor
    """`[node, 2]`: where a false and a true answer lead."""
    is_leaf: Tensor
    members: list[Tensor]
    """Of the set that each node with mode 6 asks about, in order."""

    def answers(self, x: Tensor, at: Tensor) -> Tensor:
        """Whether what each row's `[row, tree]` node asks is true."""
        value = x.gather(1, self.feature[at])
        split, mode = self.split[at], self.mode[at]
        choices = (value <= split, value < split, value >= split, value > split, value == split, value != split)
        answer = torch.zeros_like(mode, dtype=torch.bool)
        for code, choice in enumerate(choices):
            answer = torch.where(mode == code, choice, answer)
        for number, node in enumerate((self.mode == _MEMBER).nonzero().reshape(-1).tolist()):
            answer = torch.where(at == node, torch.isin(value, self.members[number]), answer)
        return answer | (self.missing_is_true[at] & value.isnan())

    def leaves(self, x: Tensor, roots: Tensor) -> Tensor:
        """The leaf that each row comes to in each tree."""
        at = roots.expand(x.shape[0], -1)
        arrived = torch.zeros_like(at, dtype=torch.bool)
        while not arrived.all():
            turn = self.answers(x, torch.where(arrived, 0, at)).long()
            node = torch.where(arrived, 0, at)
            at = torch.where(arrived, at, self.children[node, turn])
            arrived = arrived | self.is_leaf[node, turn]
        return at


def _ensemble_type(x: Tensor, *, n_targets: int | None = None, **attributes: object) -> Tensor:
    return x.new_empty((x.shape[0], n_targets or 1))


@operator("ai.onnx.ml::TreeEnsemble", types=_ensemble_type)
def tree_ensemble(
    x: Tensor,
    *,
    aggregate_function: int = 1,
    leaf_targetids: tuple[int, ...],
    leaf_weights: np.ndarray,
    membership_values: np.ndarray | None = None,
    n_targets: int | None = None,
    nodes_falseleafs: tuple[int, ...],
    nodes_falsenodeids: tuple[int, ...],
    nodes_featureids: tuple[int, ...],
    nodes_hitrates: np.ndarray | None = None,
    nodes_missing_value_tracks_true: tuple[int, ...] | None = None,
    nodes_modes: np.ndarray,
    nodes_splits: np.ndarray,
    nodes_trueleafs: tuple[int, ...],
    nodes_truenodeids: tuple[int, ...],
    post_transform: int = 0,
    tree_roots: tuple[int, ...],
) -> Tensor:
    nodes = _Nodes(
        torch.tensor(nodes_featureids),
        to_torch(nodes_modes),
        to_torch(nodes_splits),
        torch.tensor(nodes_missing_value_tracks_true or [0] * len(nodes_modes)).bool(),
        torch.tensor([nodes_falsenodeids, nodes_truenodeids]).T,
        torch.tensor([nodes_falseleafs, nodes_trueleafs]).bool().T,
        _sets(membership_values),
    )
    leaves = nodes.leaves(x, torch.tensor(tree_roots))
    weights = to_torch(leaf_weights)[leaves]
    targets = torch.tensor(leaf_targetids)[leaves]
    shape = (x.shape[0], n_targets or 1)
    if aggregate_function in (0, 1):
        y = weights.new_zeros(shape).scatter_add(1, targets, weights)
        y = y / len(tree_roots) if aggregate_function == 0 else y
    else:
        limits = torch.finfo(weights.dtype)
        start = weights.new_full(shape, limits.max if aggregate_function == 2 else limits.min)
        y = start.scatter_reduce(1, targets, weights, "amin" if aggregate_function == 2 else "amax")
    return _transformed(y, _TRANSFORMS[post_transform])


def _sets(values: np.ndarray | None) -> list[Tensor]:
    """The sets in a row of members, each of which ends with a NaN."""
    if values is None:
        return []
    ends = np.flatnonzero(np.isnan(values))
    return [to_torch(part[~np.isnan(part)]) for part in np.split(values, ends + 1)[: len(ends)]]
