"""Losses on labels: those that are usual, and functions of the user's."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from ...ir.errors import ModelError, PlanishError, describe

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

Loss: TypeAlias = "Callable[[Mapping[str, Tensor], Tensor], Tensor]"
"""A number from a model's outputs by name, and the labels of their samples."""


def cross_entropy(name: str, *, of_probabilities: bool) -> Loss:
    """The loss of an output with a score for each class along the last axis, or the second as torch has it for images.

    Labels are the classes' numbers; those below zero are left out.

    Args:
        name: the output's name.
        of_probabilities: whether the scores are probabilities already.
    """

    def loss(outputs: "Mapping[str, Tensor]", labels: "Tensor") -> "Tensor":
        scores, wanted = _rows(name, outputs[name], labels)
        logs = scores.clamp_min(1e-12).log() if of_probabilities else scores.log_softmax(-1)
        return -logs.gather(1, wanted.unsqueeze(1)).sum() / max(len(wanted), 1)

    return loss


def missed(name: str, output: "Tensor", labels: "Tensor") -> tuple[int, int]:
    """How many of the labels don't have the largest score, and how many there are."""
    scores, wanted = _rows(name, output, labels)
    return int((scores.argmax(-1) != wanted).sum()), len(wanted)


def _rows(name: str, output: "Tensor", labels: "Tensor") -> "tuple[Tensor, Tensor]":
    """The scores and the class of each sample that has one.

    Raises:
        ModelError: labels have another shape, or there are no classes of such numbers.
    """
    wanted = labels.shape
    if wanted != output.shape[:-1] and wanted == output.shape[:1] + output.shape[2:]:
        output = output.movedim(1, -1)
    if wanted != output.shape[:-1]:
        expected, got = list(output.shape[:-1]), list(wanted)
        raise ModelError(f"cross-entropy with {name!r} needs labels of shape {expected}, got {got}")
    scores, flat = output.float().reshape(-1, output.shape[-1]), labels.reshape(-1).long()
    if len(flat) and int(flat.max()) >= scores.shape[-1]:
        raise ModelError(f"a label is {int(flat.max())}, but {name!r} has {scores.shape[-1]} classes from 0 on")
    return scores[flat >= 0], flat[flat >= 0]


def mean_square(name: str) -> Loss:
    """The mean squared error of an output, whose labels have its shape, or the same without axes of one element."""

    def loss(outputs: "Mapping[str, Tensor]", labels: "Tensor") -> "Tensor":
        output = outputs[name].float()
        if labels.shape != output.shape and labels.squeeze().shape != output.squeeze().shape:
            raise ModelError(f"mse with {name!r} needs labels of shape {list(output.shape)}, got {list(labels.shape)}")
        return (output - labels.reshape(output.shape).float()).square().mean()

    return loss


def users_own(reference: str, function: Callable[..., Any]) -> Loss:
    """A user's function of a dict of outputs and of the labels, checked to return what a loss is.

    Raises:
        ModelError: the function raised, with the file and line where it did, or returned no number of torch's.
    """

    def loss(outputs: "Mapping[str, Tensor]", labels: "Tensor") -> "Tensor":
        try:
            found: Any = function(dict(outputs), labels)
        except PlanishError:
            raise
        except Exception as error:  # whatever the user's code raises
            raise ModelError(f"{reference} failed: {describe(error)}") from error
        if not hasattr(found, "requires_grad") or found.numel() != 1:
            raise ModelError(f"{reference} must return a tensor of one element, not {found!r}")
        return found.reshape(())

    return loss
