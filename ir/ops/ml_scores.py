"""What classical models (`ai.onnx.ml`) make of their scores: probabilities, and labels."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .texts import STRING, from_texts

Floats: TypeAlias = tuple[float, ...] | None
Whole: TypeAlias = tuple[int, ...] | None
Texts: TypeAlias = tuple[str, ...] | None


def transformed(scores: Tensor, transform: str) -> Tensor:
    """Scores after a function, over the last axis where it looks at a row."""
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


def labelled(places: Tensor, labels: Sequence[str | int]) -> Tensor:
    """The labels at some places among all of them, which are names or numbers."""
    chosen = [labels[place] for place in places.reshape(-1).tolist()]
    if labels and isinstance(labels[0], str):
        return from_texts(map(str, chosen), places.shape)
    return torch.tensor(chosen, dtype=torch.int64).reshape(places.shape)


def classified(x: Tensor, classes: int, names: Texts) -> tuple[Tensor, Tensor]:
    """Labels and scores of rows without data."""
    rows = x.shape[0] if x.ndim > 1 else 1
    labels = x.new_empty(rows, dtype=STRING if names else torch.int64)
    return labels, x.new_empty((rows, classes), dtype=torch.float32)
