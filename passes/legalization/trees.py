"""Ensembles of trees (`ai.onnx.ml`) as steps that all rows and trees take together, each from a node to one of its children."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Node, Value
from ...ir.types import DType
from .classical import floats, labelled, rows_of, transformed
from .expansion import Expansion, RefusedError, attribute, size_of

_QUESTIONS = {
    "BRANCH_LEQ": "LessOrEqual",
    "BRANCH_LT": "Less",
    "BRANCH_GTE": "GreaterOrEqual",
    "BRANCH_GT": "Greater",
    "BRANCH_EQ": "Equal",
}
_NUMBERED = (*_QUESTIONS, "BRANCH_NEQ", "BRANCH_MEMBER")
"""In the order of TreeEnsemble's numbers."""


@dataclass(frozen=True, slots=True)
class _Trees:
    """All nodes in a row, those of a tree one after the other or not; a leaf leads to itself.

    Attributes:
        features: `[node]`, like all that follow.
        questions: names of the modes of inner nodes.
        splits: what a node compares its feature with.
        missing: whether what is missing answers with yes.
        no: where a false answer leads.
        yes: where a true one leads.
        roots: `[tree]`.
        table: `[node, target]`, the weights of leaves.
        held: whether they have these.
    """

    features: np.ndarray
    questions: frozenset[str]
    splits: np.ndarray
    missing: np.ndarray
    no: np.ndarray
    yes: np.ndarray
    roots: np.ndarray
    table: np.ndarray
    held: np.ndarray

    @property
    def depth(self) -> int:
        """The most steps from a root to a leaf."""
        steps, at = 0, self.roots
        while (inner := at[self.no[at] != at]).size:
            if (steps := steps + 1) > len(self.no):
                raise RefusedError("its nodes lead round in a circle")
            at = np.unique([self.no[inner], self.yes[inner]])
        return steps

    def weights(self, op: Builder, x: Value) -> Value:
        """`[row, tree, target]`: those of the leaves that rows come to."""
        if len(self.questions) > 1 or not self.questions <= _QUESTIONS.keys():
            raise RefusedError(f"its nodes ask {' and '.join(sorted(self.questions))}, where one comparison is known")
        features, splits, missing, no, yes = map(
            op.constant, (self.features, self.splits.astype(x.dtype.numpy), self.missing, self.no, self.yes)
        )
        shape = op.Concat(op.Unsqueeze(size_of(op, x, 0), [0]), [len(self.roots)], axis=0)
        at = op.Expand(self.roots[np.newaxis], shape)
        for _ in range(self.depth):
            value = op.GatherElements(x, op.Gather(features, at), axis=1)
            answer = op(_QUESTIONS[next(iter(self.questions))], value, op.Gather(splits, at))
            if self.missing.any():
                answer = op.Or(answer, op.And(op.IsNaN(value), op.Gather(missing, at)))
            at = op.Where(answer, op.Gather(yes, at), op.Gather(no, at))
        return op.Gather(self.table, at)

    def sums(self, op: Builder, x: Value) -> Value:
        return op.ReduceSum(self.weights(op, x), [1], keepdims=0)

    def is_scored(self, target: int) -> bool | None:
        """Whether every row has a score for a target: None if some have and some haven't, for all that is known."""
        leaves = [self._leaves(root) for root in self.roots]
        if any(self.held[row, target].all() for row in leaves):
            return True
        return None if any(self.held[row, target].any() for row in leaves) else False

    def _leaves(self, root: int) -> np.ndarray:
        """Those of a tree."""
        at, found = np.array([root]), [np.array([], np.int64)]
        while at.size:
            ends = self.no[at] == at
            found.append(at[ends])
            at = np.concatenate([self.no[at[~ends]], self.yes[at[~ends]]])
        return np.concatenate(found)


def _old_trees(node: Node, prefix: str, count: int) -> _Trees:
    """The trees of an ensemble of the versions before 5, for so many targets."""
    trees, numbers, modes = (node.attributes[f"nodes_{name}"] for name in ("treeids", "nodeids", "modes"))
    place = {key: index for index, key in enumerate(zip(trees, numbers, strict=True))}
    own = np.arange(len(place))
    is_leaf = np.array([mode == "LEAF" for mode in modes])
    no, yes = (
        np.array([place.get(key, 0) for key in zip(trees, node.attributes[f"nodes_{turn}nodeids"], strict=True)])
        for turn in ("false", "true")
    )
    owners = zip(node.attributes[f"{prefix}_treeids"], node.attributes[f"{prefix}_nodeids"], strict=True)
    at = [place[owner] for owner in owners], node.attributes[f"{prefix}_ids"]
    weights = _row(node, f"{prefix}_weights")
    table = np.zeros((len(place), count), weights.dtype)
    np.add.at(table, tuple(map(np.asarray, at)), weights)
    held = np.zeros(table.shape, bool)
    held[tuple(map(np.asarray, at))] = True
    return _Trees(
        np.array(node.attributes["nodes_featureids"]),
        frozenset(modes) - {"LEAF"},
        _row(node, "nodes_values"),
        _truths(attribute(node, "nodes_missing_value_tracks_true", None), len(place)),
        np.where(is_leaf, own, no),
        np.where(is_leaf, own, yes),
        np.array(sorted({tree: index for index, tree in reversed(list(enumerate(trees)))}.values())),
        table,
        held,
    )


def _row(node: Node, name: str) -> np.ndarray:
    tensor = attribute(node, f"{name}_as_tensor", None)
    return floats(attribute(node, name, None)) if tensor is None else np.ravel(tensor)


def _truths(numbers: Sequence[int] | None, count: int) -> np.ndarray:
    return np.array(numbers or [0] * count, bool)


def _regressor(op: Builder, node: Node) -> Value:
    count, function = attribute(node, "n_targets", 1) or 1, attribute(node, "aggregate_function", "SUM")
    trees, base = _old_trees(node, "target", count), _row(node, "base_values")
    if not all(trees.is_scored(target) for target in range(count)):
        raise RefusedError("its leaves have no weights for some targets")
    y = _aggregated(op, trees, rows_of(op, node), function)
    y = op.Add(y, base.astype(y.dtype.numpy)) if len(base) == count else y
    transform = attribute(node, "post_transform", "NONE")
    return op.Cast(transformed(op, y, transform if count > 1 or transform == "PROBIT" else "NONE"), to=DType.float32)


def _aggregated(op: Builder, trees: _Trees, x: Value, function: str) -> Value:
    if function in ("MIN", "MAX"):
        if not trees.held[trees.no == np.arange(len(trees.no))].all():
            raise RefusedError(f"its leaves have weights for some targets alone, of which no {function} is known")
        return (op.ReduceMin if function == "MIN" else op.ReduceMax)(trees.weights(op, x), [1], keepdims=0)
    y = trees.sums(op, x)
    return op.Div(y, float(len(trees.roots))) if function == "AVERAGE" else y


def _classifier(op: Builder, node: Node) -> tuple[Value, Value]:
    labels = node.attributes["classlabels_int64s"]
    trees, base = _old_trees(node, "class", len(labels)), _row(node, "base_values")
    scored = [trees.is_scored(place) for place in range(len(labels))]
    transform = attribute(node, "post_transform", "NONE")
    y = trees.sums(op, rows_of(op, node))
    is_probability = len(set(node.attributes["class_ids"])) == 1 and (_row(node, "class_weights") >= 0).all()
    threshold = op.constant(np.array(0.5 if is_probability else 0, y.dtype.numpy))
    if len(labels) > 2 and all(scored):
        y = op.Add(y, base.astype(y.dtype.numpy)) if len(base) else y
        scores, places = transformed(op, y, transform), op.ArgMax(y, axis=1, keepdims=0)
    elif scored == [True, False] and len(base) < 2:
        y = op.Add(op.Gather(y, [0], axis=1), base.sum(dtype=y.dtype.numpy))
        places = op.Cast(op.Squeeze(op.Greater(y, threshold), [1]), to=DType.int64)
        other = (
            op.Sub(op.constant(np.ones((), y.dtype.numpy)), y)
            if is_probability and transform != "LOGISTIC"
            else op.Neg(y)
        )
        scores = op.Concat(other, y, axis=1)
        scores = op.Sigmoid(scores) if transform == "LOGISTIC" else scores
    elif len(labels) == 2 and scored[1] and not len(base):
        scores, places = (
            transformed(op, y, transform),
            op.Cast(op.Greater(op.Gather(y, op.constant(1), axis=1), threshold), to=DType.int64),
        )
        labels = labels if not scored[0] else (0, 1)
    else:
        raise RefusedError("its leaves have weights for some classes alone")
    return labelled(op, places, labels), op.Cast(scores, to=DType.float32)


EXPANSIONS: dict[str, Expansion] = {
    "ai.onnx.ml::TreeEnsembleClassifier": _classifier,
    "ai.onnx.ml::TreeEnsembleRegressor": _regressor,
}
