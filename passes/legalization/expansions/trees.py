"""Ensembles of trees (`ai.onnx.ml`) as steps that all rows and trees take together, each from a node to a child."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ....ir.builder import Builder
from ....ir.forest import LEAF, MODES, Forest
from ....ir.graph import Node, Value
from ....ir.types import DType
from ..expansion import Expansion, RefusedError, attribute, size_of
from .classical import labelled, rows_of, transformed

_QUESTIONS = {
    "BRANCH_LEQ": "LessOrEqual",
    "BRANCH_LT": "Less",
    "BRANCH_GTE": "GreaterOrEqual",
    "BRANCH_GT": "Greater",
    "BRANCH_EQ": "Equal",
}


def _forest(node: Node, prefix: str, count: int) -> Forest:
    try:
        return Forest.of(node.attributes, prefix, count)
    except (IndexError, KeyError, ValueError) as error:  # nothing has looked into these attributes before
        raise RefusedError(f"its trees are broken: {error}") from error


def _levels(forest: Forest) -> Iterator[np.ndarray]:
    """The nodes that are so many steps from a root, until all are leaves."""
    at = forest.roots
    for _ in range(len(forest.no) + 1):
        yield at
        inner = at[forest.no[at] != at]
        if not inner.size:
            return
        at = np.unique([forest.no[inner], forest.yes[inner]])
    raise RefusedError("its nodes lead round in a circle")


def _weights(op: Builder, forest: Forest, x: Value) -> Value:
    """The weights `[row, tree, target]` of the leaves that rows come to."""
    asked = sorted({MODES[code] for code in np.unique(forest.modes)} - {LEAF})
    if len(asked) > 1 or not _QUESTIONS.keys() >= set(asked):
        raise RefusedError(f"its nodes ask {' and '.join(asked)}, where one comparison is known")
    features, splits, missing, no, yes = map(
        op.constant,
        (forest.features, forest.splits.astype(x.dtype.numpy), forest.missing, forest.no, forest.yes),
    )
    shape = op.Concat(op.Unsqueeze(size_of(op, x, 0), [0]), [len(forest.roots)], axis=0)
    at = op.Expand(forest.roots[np.newaxis], shape)
    for _ in list(_levels(forest))[1:]:
        value = op.GatherElements(x, op.Gather(features, at), axis=1)
        answer = op(_QUESTIONS[asked[0]], value, op.Gather(splits, at))
        if forest.missing.any():
            answer = op.Or(answer, op.And(op.IsNaN(value), op.Gather(missing, at)))
        at = op.Where(answer, op.Gather(yes, at), op.Gather(no, at))
    return op.Gather(forest.table, at)


def _sums(op: Builder, forest: Forest, x: Value) -> Value:
    return op.ReduceSum(_weights(op, forest, x), [1], keepdims=0)


def _scored(forest: Forest) -> list[bool | None]:
    """Whether every row has a score for each target: None if some have and some haven't, for all that is known."""
    ever, always = (np.zeros(forest.table.shape[1], bool) for _ in range(2))
    for root in range(len(forest.roots)):
        levels = _levels(replace(forest, roots=forest.roots[root : root + 1]))
        reached = np.unique(np.concatenate(list(levels)))
        held = forest.held[reached[forest.modes[reached] == MODES.index(LEAF)]]
        ever |= held.any(0)
        always |= held.all(0)
    return [True if one else None if other else False for one, other in zip(always, ever, strict=True)]


def _regressor(op: Builder, node: Node) -> Value:
    count, function = attribute(node, "n_targets", 1) or 1, attribute(node, "aggregate_function", "SUM")
    forest = _forest(node, "target", count)
    if not all(_scored(forest)):
        raise RefusedError("its leaves have no weights for some targets")
    y, base = _aggregated(op, forest, rows_of(op, node), function), forest.base
    y = op.Add(y, base.astype(y.dtype.numpy)) if len(base) == count else y
    transform = attribute(node, "post_transform", "NONE")
    return op.Cast(transformed(op, y, transform if count > 1 or transform == "PROBIT" else "NONE"), to=DType.float32)


def _aggregated(op: Builder, forest: Forest, x: Value, function: str) -> Value:
    if function in ("MIN", "MAX"):
        if not forest.held[forest.modes == MODES.index(LEAF)].all():
            raise RefusedError(f"its leaves have weights for some targets alone, of which no {function} is known")
        return (op.ReduceMin if function == "MIN" else op.ReduceMax)(_weights(op, forest, x), [1], keepdims=0)
    y = _sums(op, forest, x)
    return op.Div(y, float(len(forest.roots))) if function == "AVERAGE" else y


def _classifier(op: Builder, node: Node) -> tuple[Value, Value]:
    labels = node.attributes["classlabels_int64s"]
    forest = _forest(node, "class", len(labels))
    scored, base = _scored(forest), forest.base
    transform = attribute(node, "post_transform", "NONE")
    y = _sums(op, forest, rows_of(op, node))
    is_probability = len(set(node.attributes["class_ids"])) == 1 and (forest.weights >= 0).all()
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
