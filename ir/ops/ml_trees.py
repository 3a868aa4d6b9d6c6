"""Ensembles of trees (`ai.onnx.ml`): TreeEnsemble, and the two that it took the place of in version 5 of the domain.

The old ones are operators of their own, since a leaf of theirs may have a weight for each class: TreeEnsemble has one
weight to a leaf, so that a forest would be walked through once per class. What they leave open is as ONNX Runtime does
it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..forest import LEAF, MODES, Forest
from .dtypes import to_torch
from .ml_scores import Floats, Texts, Whole, classified, labelled, transformed
from .registry import operator

Array: TypeAlias = np.ndarray | None

_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
"""Transforms and aggregates, each in the order of the numbers that `TreeEnsemble` gives them."""
_MEMBER, _LEAF = MODES.index("BRANCH_MEMBER"), MODES.index(LEAF)


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
    """The sets that the nodes with mode 6 ask about, in order."""

    def answers(self, x: Tensor, at: Tensor) -> Tensor:
        """Whether what each row's `[row, tree]` node asks is true."""
        value = x.gather(1, self.feature[at])
        split, mode = self.split[at], self.mode[at]
        choices = (value <= split, value < split, value >= split, value > split, value == split, value != split)
        answer = torch.zeros_like(mode, dtype=torch.bool)
        for code, choice in enumerate(choices):
            answer = torch.where(mode == code, choice, answer)
        for node, members in zip(self._asking_of_sets(), self.members, strict=True):
            answer = torch.where(at == node, torch.isin(value, members), answer)
        return answer | (self.missing_is_true[at] & value.isnan())

    def _asking_of_sets(self) -> list[int]:
        return (self.mode == _MEMBER).nonzero().reshape(-1).tolist() if self.members else []

    def leaves(self, x: Tensor, roots: Tensor) -> Tensor:
        """The leaf that each row comes to in each tree; a root with mode 7 is one itself."""
        at = roots.expand(x.shape[0], -1)
        arrived = self.mode[at] == _LEAF
        for _ in range(len(self.mode) + 1):
            if arrived.all():
                return at
            node = torch.where(arrived, 0, at)
            turn = self.answers(x, node).long()
            at = torch.where(arrived, at, self.children[node, turn])
            arrived = arrived | self.is_leaf[node, turn]
        raise ValueError("its nodes lead round in a circle")


def _ensemble_type(x: Tensor, *, n_targets: int | None = None, **attributes: object) -> Tensor:
    return x.new_empty((x.shape[0], n_targets or 1))


@operator("ai.onnx.ml::TreeEnsemble", types=_ensemble_type)
def tree_ensemble(
    x: Tensor,
    *,
    aggregate_function: int = 1,
    leaf_targetids: tuple[int, ...],
    leaf_weights: np.ndarray,
    membership_values: Array = None,
    n_targets: int | None = None,
    nodes_falseleafs: tuple[int, ...],
    nodes_falsenodeids: tuple[int, ...],
    nodes_featureids: tuple[int, ...],
    nodes_hitrates: Array = None,
    nodes_missing_value_tracks_true: Whole = None,
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
    y = _aggregated(weights, targets, n_targets or 1, _AGGREGATES[aggregate_function], len(tree_roots))
    return transformed(y, _TRANSFORMS[post_transform])


def _sets(values: Array) -> list[Tensor]:
    """The sets in a row of members, each of which ends with a NaN."""
    if values is None:
        return []
    ends = np.flatnonzero(np.isnan(values))
    return [to_torch(part[~np.isnan(part)]) for part in np.split(values, ends + 1)[: len(ends)]]


def _aggregated(weights: Tensor, targets: Tensor, count: int, function: str, trees: int) -> Tensor:
    """What `[row, weight]` come to for each of so many targets."""
    shape = (weights.shape[0], count)
    if function in ("AVERAGE", "SUM"):
        y = weights.new_zeros(shape).scatter_add(1, targets, weights)
        return y / trees if function == "AVERAGE" else y
    limits = torch.finfo(weights.dtype)
    start = weights.new_full(shape, limits.max if function == "MIN" else limits.min)
    return start.scatter_reduce(1, targets, weights, "amin" if function == "MIN" else "amax")


# -- those of the versions before 5


def _leaf_scores(forest: Forest, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The weights `[row, target]` in the leaves that rows come to, tree by tree, and whether there are any."""
    modes, children = torch.from_numpy(forest.modes), torch.from_numpy(np.stack([forest.no, forest.yes], 1))
    nodes = _Nodes(
        torch.from_numpy(forest.features),
        modes,
        to_torch(forest.splits),
        torch.from_numpy(forest.missing),
        children,
        modes[children] == _LEAF,
        [],
    )
    x = x.reshape(-1, x.shape[-1])
    table, held = to_torch(forest.table), torch.from_numpy(forest.held)
    for leaves in nodes.leaves(x if x.is_floating_point() else x.float(), torch.from_numpy(forest.roots)).T:
        yield table[leaves], held[leaves]


def _regressed(x: Tensor, *, n_targets: int | None = None, **attributes: object) -> Tensor:
    return x.new_empty((x.shape[0] if x.ndim > 1 else 1, n_targets or 1), dtype=torch.float32)


@operator("ai.onnx.ml::TreeEnsembleRegressor", types=_regressed)
def tree_ensemble_regressor(
    x: Tensor,
    *,
    aggregate_function: str = "SUM",
    base_values: Floats = None,
    base_values_as_tensor: Array = None,
    n_targets: int | None = None,
    nodes_falsenodeids: Whole = None,
    nodes_featureids: Whole = None,
    nodes_hitrates: Floats = None,
    nodes_hitrates_as_tensor: Array = None,
    nodes_missing_value_tracks_true: Whole = None,
    nodes_modes: Texts = None,
    nodes_nodeids: Whole = None,
    nodes_treeids: Whole = None,
    nodes_truenodeids: Whole = None,
    nodes_values: Floats = None,
    nodes_values_as_tensor: Array = None,
    post_transform: str = "NONE",
    target_ids: Whole = None,
    target_nodeids: Whole = None,
    target_treeids: Whole = None,
    target_weights: Floats = None,
    target_weights_as_tensor: Array = None,
) -> Tensor:
    """What leaves say of each target, together; of a single one, PROBIT is the only function that is applied."""
    count = n_targets or 1
    forest = Forest.of(locals(), "target", count)
    base = to_torch(forest.base)
    rows = list(_leaf_scores(forest, x))
    held = torch.stack([held for _, held in rows])
    if aggregate_function in ("MIN", "MAX"):
        parts = torch.stack([row for row, _ in rows])
        y = (
            parts.masked_fill(~held, torch.inf).amin(0)
            if aggregate_function == "MIN"
            else parts.masked_fill(~held, -torch.inf).amax(0)
        )
    else:
        y = reduce(torch.add, (row for row, _ in rows))
        y = y / len(rows) if aggregate_function == "AVERAGE" else y
    y = y + base if len(base) == count else y
    y = torch.where(held.any(0), y, 0)  # what no leaf speaks of has no base value either
    return transformed(y, post_transform if count > 1 or post_transform == "PROBIT" else "NONE").float()


def _classified(
    x: Tensor, *, classlabels_int64s: Whole = None, classlabels_strings: Texts = None, **attributes: object
) -> tuple[Tensor, Tensor]:
    return classified(x, len(classlabels_strings or classlabels_int64s or ()), classlabels_strings)


@operator("ai.onnx.ml::TreeEnsembleClassifier", types=_classified)
def tree_ensemble_classifier(
    x: Tensor,
    *,
    base_values: Floats = None,
    base_values_as_tensor: Array = None,
    class_ids: Whole = None,
    class_nodeids: Whole = None,
    class_treeids: Whole = None,
    class_weights: Floats = None,
    class_weights_as_tensor: Array = None,
    classlabels_int64s: Whole = None,
    classlabels_strings: Texts = None,
    nodes_falsenodeids: Whole = None,
    nodes_featureids: Whole = None,
    nodes_hitrates: Floats = None,
    nodes_hitrates_as_tensor: Array = None,
    nodes_missing_value_tracks_true: Whole = None,
    nodes_modes: Texts = None,
    nodes_nodeids: Whole = None,
    nodes_treeids: Whole = None,
    nodes_truenodeids: Whole = None,
    nodes_values: Floats = None,
    nodes_values_as_tensor: Array = None,
    post_transform: str = "NONE",
) -> tuple[Tensor, Tensor]:
    """The label of the greatest sum of leaves' weights, and the sums; two classes may share one."""
    labels = classlabels_strings or classlabels_int64s or ()
    forest = Forest.of(locals(), "class", len(labels))
    base, weights = to_torch(forest.base), to_torch(forest.weights)
    rows = list(_leaf_scores(forest, x))
    sums = reduce(torch.add, (row for row, _ in rows))
    held = torch.stack([held for _, held in rows]).any(0)
    if len(labels) == 2:
        is_shared = len(set(class_ids or ())) == 1
        places, scores = _of_two(sums, held, base, weights, post_transform, is_shared=is_shared)
        labels = labels if is_shared or classlabels_strings else (0, 1)
    else:
        sums[:, : len(base)] += base
        held[:, : len(base)] = True
        places = sums.masked_fill(~held, -torch.inf).argmax(1)
        scores = transformed(sums, post_transform)
    return labelled(places, labels), scores.float()


def _of_two(
    sums: Tensor, held: Tensor, base: Tensor, weights: Tensor, transform: str, *, is_shared: bool
) -> tuple[Tensor, Tensor]:
    """Whether the second of two classes is chosen, and the scores of both.

    Where all weights are of one class, as converters write it, and a row has a score for the first alone, it is that of
    the second: a probability if no weight is negative, a number whose sign decides otherwise.
    """
    first, second = sums.unbind(1)
    if len(base) == 2:
        shared = base[1] + first
        first, second = torch.where(held[:, 1], -shared, first + base[0]), torch.where(held[:, 1], shared, second)
    elif len(base) == 1:
        first = first + base
    pair = torch.stack([first, second], 1).where(held, 0)
    score = torch.where(held[:, 1], pair[:, 1], pair[:, 0])
    is_probability = is_shared and bool((weights >= 0).all())
    chosen = score > (0.5 if is_probability else 0)
    other = 1 - score if is_probability and transform != "LOGISTIC" else -score
    alone = torch.stack([other, score], 1)
    alone = torch.sigmoid(alone) if transform == "LOGISTIC" else alone
    is_alone = (~held[:, 1] & (len(base) < 2)).unsqueeze(1)
    return chosen.long(), torch.where(is_alone, alone, transformed(pair, transform))
