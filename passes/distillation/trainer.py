"""Training a graph's weights with Adam, and judging them."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from ...ir.graph import Constant, Graph
from ..base import Feeds

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

    Outputs: TypeAlias = Mapping[str, Tensor]

_SETTINGS = {
    "BatchNormalization": (3, 4),  # statistics: a variance must not fall below zero
    "Clip": (1, 2),
    "DequantizeLinear": (1, 2),
    "Pad": (2,),
    "QuantizeLinear": (1, 2),
    "Resize": (1, 2),
}
"""Inputs that are floats, but no weights."""


class TrainingBatch(NamedTuple):
    """One batch: the inputs in the student's order, and the teacher's outputs by name."""

    inputs: "tuple[Tensor, ...]"
    wanted: "Outputs"


def make_batches(teacher: Graph, student: Graph, batches: Sequence[Feeds]) -> list[TrainingBatch]:
    """What the teacher gives for each batch.

    Raises:
        ModelError: an input is missing, or the teacher doesn't run on it.
    """
    from ...ir.interpreter import Interpreter
    from ...ir.ops.dtypes import to_torch

    interpreter = Interpreter(teacher)
    return [
        TrainingBatch(
            wanted={name: to_torch(array) for name, array in interpreter.run(feeds).items()},
            inputs=tuple(to_torch(np.asarray(feeds[value.name])) for value in student.inputs),
        )
        for feeds in batches
    ]


class Trainer:
    """A student in training.

    Args:
        student: the graph; its constants change only by `finish`.
        compare: the loss of the student's outputs against the teacher's.
        lr: the learning rate at the start; it falls to zero along a cosine.
        steps: how many there will be.
    """

    def __init__(self, student: Graph, compare: "Callable[[Outputs, Outputs], Tensor]", lr: float, steps: int) -> None:
        import torch

        from ...ir.module import to_module

        self._student = student
        self._compare = compare
        self._module = to_module(student, training=True)
        self._module.requires_grad_(False)
        self._weights = [
            self._module.get_parameter(f"constant_{index}").requires_grad_()
            for index, constant in enumerate(student.constants.values())
            if is_weight(constant)
        ]
        self._best = [weight.detach().clone() for weight in self._weights]
        self._optimizer = torch.optim.Adam(self._weights, lr)
        self._cosine = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, steps)

    def step(self, batch: TrainingBatch) -> float:
        """Learn from one batch; returns the loss before it."""
        loss = self._loss(batch)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._cosine.step()
        return loss.item()

    def score(self, batches: Sequence[TrainingBatch]) -> float:
        """The mean loss over some batches."""
        import torch

        with torch.no_grad():
            return sum(self._loss(batch).item() for batch in batches) / len(batches)

    def keep(self) -> None:
        """Remember the weights as they are as the best so far."""
        self._best = [weight.detach().clone() for weight in self._weights]

    def finish(self) -> None:
        """Write the best weights into the graph."""
        from ...ir.module import update_constants

        for weight, best in zip(self._weights, self._best, strict=True):
            weight.data.copy_(best)
        update_constants(self._student, self._module)

    def _loss(self, batch: TrainingBatch) -> "Tensor":
        outputs = self._module(*batch.inputs)
        return self._compare(dict(zip(self._student.outputs, outputs, strict=True)), batch.wanted)


def is_weight(constant: Constant) -> bool:
    """Whether a constant is something to learn: floats, more than one, and no mask or setting of an operator."""
    if not constant.dtype.is_trainable or constant.data.size < 2 or not np.isfinite(constant.data).all():
        return False
    return not any(use.index in _SETTINGS.get(use.node.operator, ()) for use in constant.uses)
