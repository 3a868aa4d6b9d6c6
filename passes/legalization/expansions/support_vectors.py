"""Models of support vectors (`ai.onnx.ml`), spelled out in the standard's own operators."""

from collections.abc import Callable
from itertools import accumulate, combinations, pairwise

import numpy as np

from ....ir.builder import Builder
from ....ir.graph import Node, Value
from ....ir.types import DType
from ..expansion import Expansion, attribute, cast
from .classical import floats, labelled, rows_of, transformed

_ROUNDS = 6
"""Rounds in which probabilities of classes are found: 4 were the most for 100,000 random odds of 2 to 10 classes."""


def _svm_regressor(op: Builder, node: Node) -> Value:
    x, count = cast(op, rows_of(op, node), DType.float32), attribute(node, "n_supports", 0)
    if count:
        x = _alike(op, node, x, count)
    y = op.Add(op.MatMul(x, floats(node.attributes["coefficients"], -1, 1)), float(attribute(node, "rho", (0.0,))[0]))
    return op.Where(op.Greater(y, 0.0), op.constant(1.0), op.constant(-1.0)) if attribute(node, "one_class", 0) else y


def _svm_classifier(op: Builder, node: Node) -> tuple[Value, Value]:
    """The class that wins most comparisons of two, or has the best linear score where there are no vectors."""
    names, counts = attribute(node, "classlabels_ints", ()), attribute(node, "vectors_per_class", ())
    count = len(names or attribute(node, "classlabels_strings", ()))
    x, transform = cast(op, rows_of(op, node), DType.float32), attribute(node, "post_transform", "NONE")
    weights, offsets = floats(node.attributes["coefficients"]), floats(attribute(node, "rho", (0.0,)))
    if not counts:
        scores = op.Add(op.MatMul(x, weights.reshape(count, -1).T), offsets[:1])
        places = op.ArgMax(scores, axis=1, keepdims=0)
        if count == 2:
            limit = 0.5 if (weights >= 0).all() else 0.0
            places = op.Where(op.Greater(op.ReduceMax(scores, [1], keepdims=0), limit), op.constant(1), places)
        return labelled(op, places, names), transformed(op, scores, transform)
    pairs = list(combinations(range(count), 2))
    kernel = _alike(op, node, x, sum(counts))
    sums = op.Add(op.MatMul(kernel, _by_pair(weights.reshape(count - 1, -1), counts)), offsets)
    gained = np.array([[(place == one) - (place == other) for place in range(count)] for one, other in pairs])
    wins = op.MatMul(op.Cast(op.Greater(sums, 0.0), to=DType.float32), gained.astype(np.float32))
    votes = op.Add(wins, np.array([sum(place == other for _, other in pairs) for place in range(count)], np.float32))
    if attribute(node, "prob_a", None):
        scaled = op.Add(op.Mul(sums, floats(node.attributes["prob_a"])), floats(attribute(node, "prob_b", None)))
        odds = op.Clip(op.Sigmoid(op.Neg(scaled)), np.float32(1e-7), np.float32(1 - 1e-7))
        scores = transformed(op, _coupled(op, odds, count), transform)
    elif count == 2:
        scores = op.Concat(op.Neg(sums) if transform == "NONE" else op.Sub(op.constant(1.0), sums), sums, axis=1)
    else:
        scores = transformed(op, sums, transform)
    return labelled(op, op.ArgMax(votes, axis=1, keepdims=0), names), scores


def _by_pair(weights: np.ndarray, counts: tuple[int, ...]) -> np.ndarray:
    """The weights of all vectors in the comparison of each two classes, of which others' have none."""
    parts = [slice(*bounds) for bounds in pairwise((0, *accumulate(counts)))]
    columns: list[np.ndarray] = []
    for first, second in combinations(range(len(counts)), 2):
        column = np.zeros(weights.shape[1], np.float32)
        column[parts[first]] = weights[second - 1, parts[first]]
        column[parts[second]] = weights[first, parts[second]]
        columns.append(column)
    return np.stack(columns, 1)


def _coupled(op: Builder, odds: Value, count: int) -> Value:
    """Probabilities of classes from those of each two, in rounds that end for each row where they change little.

    The second method of https://www.csie.ntu.edu.tw/~cjlin/papers/svmprob/svmprob.pdf.
    """
    square, start = np.zeros((count * (count - 1) // 2, count, count), np.float32), np.zeros((count, count), np.float32)
    for number, (first, second) in enumerate(combinations(range(count), 2)):
        square[number, first, second], square[number, second, first], start[second, first] = 1, -1, 1

    def matrix(factors: np.ndarray, offsets: np.ndarray) -> Value:
        flat = op.Add(op.MatMul(odds, factors.reshape(len(factors), -1)), offsets.reshape(-1))
        return op.Reshape(flat, [-1, count, count])

    r, turned = matrix(square, start), matrix(square.transpose(0, 2, 1).copy(), start.T.copy())
    diagonal = op.Mul(op.ReduceSumSquare(r, [1]), np.eye(count, dtype=np.float32))
    q = op.Sub(diagonal, op.Mul(turned, r))
    p = op.Add(op.Mul(op.Slice(odds, [0], [1], [1]), 0.0), np.full(count, 1 / count, np.float32))
    going: Value | None = None
    for _ in range(_ROUNDS):
        products = op.Squeeze(op.MatMul(q, op.Unsqueeze(p, [2])), [2])
        total = op.ReduceSum(op.Mul(p, products), [1])
        change = op.ReduceMax(op.Abs(op.Sub(products, total)), [1])
        changes = op.GreaterOrEqual(change, 0.005 / count)
        going = changes if going is None else op.And(going, changes)
        p = op.Where(going, _improved(op, p, q, products, total), p)
    return p


def _improved(op: Builder, p: Value, q: Value, products: Value, total: Value) -> Value:
    """The probabilities after one round over the classes."""
    count = p.shape[1]
    assert isinstance(count, int)
    for index in range(count):
        row, place = op.Gather(q, op.constant(index), axis=1), np.eye(count, dtype=np.float32)[index]
        own, product = (op.Slice(value, [index], [index + 1], [1]) for value in (row, products))
        step = op.Div(op.Sub(total, product), own)
        whole = op.Add(step, 1.0)
        added = op.Mul(step, op.Add(op.Mul(step, own), op.Mul(product, 2.0)))
        total = op.Div(op.Add(total, added), op.Mul(whole, whole))
        products = op.Div(op.Add(products, op.Mul(step, row)), whole)
        p = op.Div(op.Add(p, op.Mul(step, place)), whole)
    return p


Kernel = Callable[[Builder, Value, np.ndarray, tuple[float, ...]], Value]


def _alike(op: Builder, node: Node, x: Value, count: int) -> Value:
    """How alike rows and each of some vectors are."""
    vectors = floats(node.attributes["support_vectors"], count, -1)
    return _KERNELS[attribute(node, "kernel_type", "LINEAR")](op, x, vectors, attribute(node, "kernel_params", ()))


def _distances(op: Builder, x: Value, vectors: np.ndarray, parameters: tuple[float, ...]) -> Value:
    squares = op.ReduceSumSquare(op.Sub(op.Unsqueeze(x, [1]), vectors), [-1], keepdims=0)
    return op.Exp(op.Mul(squares, -parameters[0]))


def _products(op: Builder, x: Value, vectors: np.ndarray, parameters: tuple[float, ...]) -> Value:
    return op.Add(op.Mul(op.MatMul(x, vectors.T), parameters[0]), parameters[1])


_KERNELS: dict[str, Kernel] = {
    "LINEAR": lambda op, x, vectors, parameters: op.MatMul(x, vectors.T),
    "POLY": lambda op, x, vectors, parameters: op.Pow(_products(op, x, vectors, parameters), parameters[2]),
    "RBF": _distances,
    "SIGMOID": lambda op, x, vectors, parameters: op.Tanh(_products(op, x, vectors, parameters)),
}

EXPANSIONS: dict[str, Expansion] = {
    "ai.onnx.ml::SVMClassifier": _svm_classifier,
    "ai.onnx.ml::SVMRegressor": _svm_regressor,
}
