"""Losses, which models exported for training carry."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import operator


@operator("NegativeLogLikelihoodLoss")
def negative_log_likelihood_loss(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    ignored = -100 if ignore_index is None else ignore_index  # no class has that number
    flat = F.nll_loss(
        x.flatten(2) if x.ndim > 2 else x,
        target.long().flatten(1) if x.ndim > 2 else target.long(),
        weight,
        ignore_index=ignored,
        reduction=reduction,
    )
    return flat.reshape(target.shape) if reduction == "none" else flat


@operator("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy_loss(
    scores: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
    outputs: int = 1,
) -> Tensor | tuple[Tensor, Tensor]:
    logarithms = torch.log_softmax(scores, 1)
    loss = negative_log_likelihood_loss(logarithms, labels, weights, ignore_index=ignore_index, reduction=reduction)
    return loss if outputs == 1 else (loss, logarithms)
