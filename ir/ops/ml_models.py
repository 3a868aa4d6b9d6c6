"""Classical models (`ai.onnx.ml`): linear ones, and those of support vectors."""

import torch
from torch import Tensor

from .ml_scores import Floats, Texts, Whole, classified, labelled, transformed
from .registry import operator


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
    return transformed(_linear(x, coefficients, intercepts, targets), post_transform)


def _classified_types(
    x: Tensor,
    *,
    coefficients: tuple[float, ...],
    classlabels_ints: Whole = None,
    classlabels_strings: Texts = None,
    **attributes: object,
) -> tuple[Tensor, Tensor]:
    labels = classlabels_strings or classlabels_ints or ()
    classes = len(labels) if len(labels) == 2 else len(coefficients) // x.shape[-1]
    return classified(x, classes, classlabels_strings)


@operator("ai.onnx.ml::LinearClassifier", types=_classified_types)
def linear_classifier(
    x: Tensor,
    *,
    classlabels_ints: Whole = None,
    classlabels_strings: Texts = None,
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
    scores = transformed(scores, post_transform)
    if scores.shape[1] > 1:
        places = scores.argmax(1)
    else:  # one class: its label, or none
        places = torch.where(scores[:, 0] >= (0 if post_transform == "NONE" else 0.5), 0, 1)
        labels = (*labels[:1], "" if classlabels_strings else 0)
    return labelled(places, labels or range(scores.shape[1])), scores
