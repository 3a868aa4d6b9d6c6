"""Distillation: the model as it was read, or another one, teaches the model as it is now."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Interval

from ...ir.errors import ModelError, UsageError
from ...ir.graph import Graph
from ..base import PassContext
from ..judge import Judge, Reference
from ..measures import LossKind, measure
from ..training.fine_tune import LABELS, with_labels
from ..training.lessons import Answer, Piece
from ..training.losses import cross_entropy
from ..training.train import Task, Training, judged
from ..training.vectorized import Vectorized
from .features import compare_features, pairs_of, return_too
from .teacher import aligned

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

_NEAR, _FAR = 4.0, 1.0
"""Temperatures by which the fine differences among classes count, and by which the likeliest class counts most."""
_BY_CHANCE = 0.9
"""The share of what the commonest class alone would lose, from which a model is no better than chance."""
_SAME = 1e-6
"""The loss below which a student gives what its teacher gives: single precision tells divergences of logits in the tens
from nothing only above that."""


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
            and for logits, and `mse` for the rest: logits are what a linear layer gives in two dimensions, or in three
            with a number for each row of an embedding's table.
        temperature: the temperature that softens the probabilities of `kl`. 0 takes 4 where the model gives its
            teacher's class more often than chance before training, as a pruned or rounded model does: the less likely
            classes tell it more of each sample. Elsewhere 0 takes 1: a student that begins with nothing would need long
            training to profit from these classes (Beyer et al., "Knowledge Distillation: A Good Teacher Is Patient and
            Consistent", CVPR 2022).
        teacher: a model to learn from in place of the one that was read, named as a recipe names models.
        outputs: pairs of outputs, `student->teacher`, where names differ or one model has more; all where empty.
        features: pairs `student->teacher` of inner values, or of layers by module path, that are to be alike, too: as
            numbers where their shapes are the same, otherwise by where they are large.
        feature_weight: the weight of the features' loss beside that of the outputs.
        label_weight: the weight of the cross-entropy of the first output with the labels; the loss against the teacher
            has the rest of 1.
    """

    name: ClassVar[str] = "distill"

    loss: Literal["auto", "kl", "mse"] = "auto"
    temperature: Annotated[float, Ge(0)] = 0.0
    teacher: str = ""
    outputs: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    feature_weight: Annotated[float, Gt(0)] = 1.0
    label_weight: Annotated[float, Interval(ge=0, le=1)] = 0.0

    def _task(self, graph: Graph, student: Graph, judging: Sequence[Piece], context: PassContext) -> Task:
        teacher = context.read_model(self.teacher) if self.teacher else context.source
        if self.teacher or self.outputs:
            teacher = aligned(teacher, graph, pairs_of("outputs", self.outputs))
        batches = [piece.feeds for piece in judging]
        reference = Reference(teacher, batches)
        judge = Judge(reference, batches, judged(context, judging), self.loss, offsets=True)
        if not judge.measures:
            raise UsageError(f"{self.name}: the model has no float output to match")
        temperature = self.temperature or _temperature(graph, Judge(reference, batches, loss=self.loss))
        pairs = pairs_of("features", self.features)
        if pairs:
            teacher = teacher.clone()
            return_too(student, [ours for ours, _ in pairs], "model")
            return_too(teacher, [theirs for _, theirs in pairs], "teacher")
        answer = _answers(teacher)
        if self.label_weight:
            if not context.labels:
                raise UsageError(f"{self.name}: label_weight takes labels, and the calibration data have none")
            answer = with_labels(answer)
        compare = partial(self._compare, judge, len(pairs), temperature)
        return Task(answer, compare, judge, teacher, _SAME if not (pairs or self.label_weight) else -math.inf)

    def _compare(
        self,
        judge: Judge,
        features: int,
        temperature: float,
        got: "Mapping[str, Tensor]",
        wanted: "Mapping[str, Tensor]",
    ) -> "Tensor":
        loss = measure(judge.measures, judge.parts.split(got), judge.parts.split(wanted), temperature, offsets=True)
        if self.label_weight:
            name, kind = next(iter(judge.measures.items()))
            right = cross_entropy(name, of_probabilities=kind is LossKind.PROBABILITIES)
            loss = (1 - self.label_weight) * loss + self.label_weight * right(got, wanted[LABELS])
        return loss + self.feature_weight * compare_features(features, got, wanted) if features else loss

    def _learned(self) -> str:
        which = self.teacher or "the model that this build began with"
        hint = "" if self.teacher else "; name another one with teacher=MODEL"
        return f"the outputs are already those of the teacher, {which}{hint}"


def _temperature(graph: Graph, judge: Judge) -> float:
    """The temperature that suits a model as it begins, on data that are held out."""
    if all(kind is LossKind.NUMBERS for kind in judge.measures.values()):
        return 1.0  # no output holds classes
    return _NEAR if judge.judge(graph).drop < _BY_CHANCE * judge.drop_of_commonest() else _FAR


def _answers(teacher: Graph) -> Answer:
    """A function that gives a teacher's outputs for pieces.

    Raises:
        ModelError: an input is missing, the teacher doesn't run on it, or an output is not finite.
    """
    import torch

    from ...ir.interpreter import Interpreter

    interpreter = Interpreter(teacher)
    run = Vectorized(lambda *inputs: interpreter.call(inputs, {}))

    def answers(pieces: Sequence[Piece]) -> "list[Mapping[str, Tensor]]":
        with torch.no_grad():
            found = run([interpreter.arguments(piece.feeds) for piece in pieces])
        return [_finite(dict(zip(teacher.outputs, outputs, strict=True))) for outputs in found]

    return answers


def _finite(outputs: Mapping[str, object]) -> "dict[str, Tensor]":
    """The outputs that are tensors, which must be finite."""
    import torch

    tensors = {name: held for name, held in outputs.items() if isinstance(held, torch.Tensor)}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"the teacher's output {name!r} is not finite on the calibration data")
    return tensors
