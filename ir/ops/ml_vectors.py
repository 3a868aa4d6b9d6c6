"""Models of support vectors (`ai.onnx.ml`), after libsvm; what they leave open is as ONNX Runtime does it."""

from itertools import accumulate, combinations, pairwise

import torch
from torch import Tensor

from .ml_scores import Floats, Texts, Whole, classified, labelled, transformed
from .registry import operator


def _kernel(x: Tensor, vectors: Tensor, kind: str, parameters: Floats) -> Tensor:
    """How alike rows and vectors are; the parameters are gamma, coef0 and the degree."""
    gamma, offset, degree = parameters or (0.0, 0.0, 0.0)
    if kind == "RBF":
        return torch.exp(-gamma * ((x.unsqueeze(1) - vectors) ** 2).sum(-1))
    products = x @ vectors.T
    match kind:
        case "POLY":
            return (gamma * products + offset) ** degree
        case "SIGMOID":
            return torch.tanh(gamma * products + offset)
        case _:
            return products


@operator("ai.onnx.ml::SVMRegressor", types=lambda x, **attributes: x.new_empty(_rows(x), 1, dtype=torch.float32))
def svm_regressor(
    x: Tensor,
    *,
    coefficients: Floats = None,
    kernel_params: Floats = None,
    kernel_type: str = "LINEAR",
    n_supports: int = 0,
    one_class: int = 0,
    post_transform: str = "NONE",
    rho: Floats = None,
    support_vectors: Floats = None,
) -> Tensor:
    """A sum over the vectors, or with `one_class` its sign; without vectors, over the features."""
    x, weights = x.float().reshape(-1, x.shape[-1]), torch.tensor(coefficients or ()).unsqueeze(1)
    if n_supports:
        x = _kernel(x, torch.tensor(support_vectors or ()).reshape(n_supports, -1), kernel_type, kernel_params)
    y = x @ weights + torch.tensor((rho or (0.0,))[0])
    return torch.where(y > 0, 1.0, -1.0) if one_class else y


def _rows(x: Tensor) -> int:
    return x.shape[0] if x.ndim > 1 else 1


def _classified(
    x: Tensor,
    *,
    classlabels_ints: Whole = None,
    classlabels_strings: Texts = None,
    prob_a: Floats = None,
    vectors_per_class: Whole = None,
    **attributes: object,
) -> tuple[Tensor, Tensor]:
    count = len(classlabels_strings or classlabels_ints or ())
    is_of_pairs = vectors_per_class and not prob_a and count > 2
    return classified(x, count * (count - 1) // 2 if is_of_pairs else count, classlabels_strings)


@operator("ai.onnx.ml::SVMClassifier", types=_classified)
def svm_classifier(
    x: Tensor,
    *,
    classlabels_ints: Whole = None,
    classlabels_strings: Texts = None,
    coefficients: Floats = None,
    kernel_params: Floats = None,
    kernel_type: str = "LINEAR",
    post_transform: str = "NONE",
    prob_a: Floats = None,
    prob_b: Floats = None,
    rho: Floats = None,
    support_vectors: Floats = None,
    vectors_per_class: Whole = None,
) -> tuple[Tensor, Tensor]:
    """The class that wins most comparisons of two, and what they give; with `prob_a`, probabilities of classes.

    Without vectors there is a linear score for each class.
    """
    labels = classlabels_strings or classlabels_ints or ()
    x = x.float().reshape(-1, x.shape[-1])
    weights, offsets = torch.tensor(coefficients or ()), torch.tensor(rho or (0.0,))
    if not vectors_per_class:
        scores = x @ weights.reshape(len(labels), -1).T + offsets[0]
        places = scores.argmax(1)
        if len(labels) == 2:
            places = torch.where(scores.amax(1) > (0.5 if (weights >= 0).all() else 0), 1, places)
        return labelled(places, labels), transformed(scores, post_transform)
    vectors = torch.tensor(support_vectors or ()).reshape(sum(vectors_per_class), -1)
    kernel = _kernel(x, vectors, kernel_type, kernel_params)
    sums, votes = _compared(kernel, weights.reshape(len(labels) - 1, -1), offsets, vectors_per_class)
    if prob_a:
        odds = torch.sigmoid(-(sums * torch.tensor(prob_a) + torch.tensor(prob_b or ()))).clamp(1e-7, 1 - 1e-7)
        scores = transformed(_coupled(odds, len(labels)), post_transform)
    elif len(labels) == 2:
        scores = torch.cat([-sums if post_transform == "NONE" else 1 - sums, sums], 1)
    else:
        scores = transformed(sums, post_transform)
    return labelled(votes.argmax(1), labels), scores


def _compared(kernel: Tensor, weights: Tensor, offsets: Tensor, counts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A score for each two classes, positive for the first of them, and how many of these each class wins."""
    starts = (0, *accumulate(counts))
    parts = [slice(*bounds) for bounds in pairwise(starts)]
    votes = torch.zeros((len(kernel), len(counts)))
    sums: list[Tensor] = []
    for number, (first, second) in enumerate(combinations(range(len(counts)), 2)):
        one, other = parts[first], parts[second]
        weighed = (kernel[:, one] @ weights[second - 1, one], kernel[:, other] @ weights[first, other])
        sums.append(sum(weighed, offsets[number]))
        votes[:, first] += sums[-1] > 0
        votes[:, second] += sums[-1] <= 0
    return torch.stack(sums, 1), votes


def _coupled(odds: Tensor, count: int) -> Tensor:
    """Probabilities of classes from those of each two.

    The second method of https://www.csie.ntu.edu.tw/~cjlin/papers/svmprob/svmprob.pdf.
    """
    r = odds.new_zeros((len(odds), count, count))
    for number, (first, second) in enumerate(combinations(range(count), 2)):
        r[:, first, second], r[:, second, first] = odds[:, number], 1 - odds[:, number]
    q = -r.transpose(1, 2) * r + torch.diag_embed((r**2).sum(1))
    p = odds.new_full((len(odds), count), 1 / count)
    going = torch.ones(len(odds), dtype=torch.bool)
    for _ in range(100):
        products = (q @ p.unsqueeze(2)).squeeze(2)
        total = (p * products).sum(1, keepdim=True)
        going = going & ((products - total).abs().amax(1) >= 0.005 / count)
        if not going.any():
            break
        p = torch.where(going.unsqueeze(1), _improved(p, q, products, total), p)
    return p


def _improved(p: Tensor, q: Tensor, products: Tensor, total: Tensor) -> Tensor:
    """The probabilities after one round over the classes."""
    for index in range(p.shape[1]):
        own = q[:, index, index, None]
        step = (total - products[:, index, None]) / own
        total = (total + step * (step * own + 2 * products[:, index, None])) / (1 + step) ** 2
        products = (products + step * q[:, index]) / (1 + step)
        p = p.index_add(1, torch.tensor([index]), step) / (1 + step)
    return p
