"""Distillation: the model as it was read, or another one, teaches the model as it is now."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Gt

from ...ir.errors import ModelError, UsageError
from ...ir.graph import Graph
from ..base import PassContext
from ..judge import Judge
from ..measures import measure
from ..training.lessons import Piece
from ..training.train import Task, Training, judged
from .teacher import aligned

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

_SAME = 1e-10
"""The loss below which a student gives what its teacher gives: relative errors are squared in it."""


@dataclass(frozen=True)
class Distillation(Training):
    """Train the weights on calibration data so that the outputs come back to those of the source model.

    No labels are needed. A quantized graph is trained with rounding in place, its integer weights included. A tenth of
    the data is held out, and judges: by the metric where there are labels, otherwise by how often the student chooses
    its teacher's class, or by the cosine of other outputs; and by the loss. What makes things worse is undone: the
    model ends with a lower loss there than it began with, and loses no more than chance explains, or it stays as it is.

    Attributes:
        loss: `kl` compares outputs as classes' softened probabilities (Hinton et al., "Distilling the Knowledge in a
            Neural Network", 2015), `mse` as numbers, relative to their size. `auto` takes `kl` for what a softmax gives
            and for logits, which are what a linear layer gives in two dimensions, and `mse` for the rest.
        temperature: softens the probabilities of `kl`.
        teacher: a model to learn from in place of the one that was read, named as a recipe names models.
    """

    name: ClassVar[str] = "distill"

    loss: Literal["auto", "kl", "mse"] = "auto"
    temperature: Annotated[float, Gt(0)] = 4.0
    teacher: str = ""

    def _task(self, graph: Graph, student: Graph, judging: Sequence[Piece], context: PassContext) -> Task:
        teacher = aligned(context.read_model(self.teacher), graph) if self.teacher else context.source
        judge = Judge(teacher, [piece.feeds for piece in judging], judged(context, judging), self.loss)
        if not judge.measures:
            raise UsageError(f"{self.name}: the model has no float output to match")
        compare = partial(measure, judge.measures, temperature=self.temperature)
        return Task(_answers(teacher), compare, judge, teacher, _SAME)

    def _learned(self) -> str:
        which = self.teacher or "the one that this build began with"
        hint = "" if self.teacher else "; `teacher` names another one"
        return f"the model gives what its teacher gives, {which}{hint}"


def _answers(teacher: Graph) -> "Callable[[Piece], Mapping[str, Tensor]]":
    """What a teacher says of pieces.

    Raises:
        ModelError: an input is missing, the teacher doesn't run on it, or what it says is no number.
    """
    from ...ir.interpreter import Interpreter
    from ...ir.ops.dtypes import to_torch

    interpreter = Interpreter(teacher)

    def answer(piece: Piece) -> "Mapping[str, Tensor]":
        found = interpreter.run(piece.feeds)
        outputs = {name: to_torch(array) for name, array in found.items() if isinstance(array, np.ndarray)}
        for name, tensor in outputs.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ModelError(f"the teacher's output {name!r} is not finite on the calibration data")
        return outputs

    return answer
