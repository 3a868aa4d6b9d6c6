"""Fine-tuning: labels teach the model, or those parts of it that are selected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...ir.errors import ModelError, UsageError
from ...ir.graph import Graph
from ...ir.suggestion import nearest
from ..base import Labelled, PassContext
from ..judge import Verdict
from ..measures import LossKind, choose_measures
from .lessons import Answer, Piece
from .losses import Loss, cross_entropy, mean_square, missed, users_own
from .train import Task, Training, judged

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

_AUTO, _CLASSES, _NUMBERS = "auto", "cross-entropy", "mse"
LABELS = "labels"
"""The name under which a piece's labels are among its answers."""


@dataclass(frozen=True)
class FineTuning(Training):
    """Train the weights on the labels of the calibration data.

    A tenth of the data is held out, and judges: by the metric where there is one, otherwise, for classes, by the share
    of labels that are missed; and by the loss. What makes things worse is undone, as `distill` does it. `only` and
    `skip` select what is trained: `only: "*.lora_?"` trains the adapters alone.

    Attributes:
        loss: `cross-entropy` for labels that are whole numbers, the classes; `mse` for other labels; or a function of
            the user's, `module:function` or `file.py:function`, that takes the outputs by name and the labels, as
            tensors of torch's, and returns one number. `auto` goes by the labels.
        output: the name of the output that the labels are for; the first one where empty.
    """

    name: ClassVar[str] = "fine-tune"

    loss: str = _AUTO
    output: str = ""

    def require(self, context: PassContext) -> None:
        super().require(context)
        if self.loss not in (_AUTO, _CLASSES, _NUMBERS) and ":" not in self.loss:
            near = nearest(self.loss, (_CLASSES, _NUMBERS))
            raise UsageError(f"{self.name} knows no loss {self.loss!r}{near}; module:function names your own")
        if not context.labels:
            raise UsageError(f"{self.name} learns from labels, and the calibration data have none: give `labels`")

    def _task(self, graph: Graph, student: Graph, judging: Sequence[Piece], context: PassContext) -> Task:
        name = self.output or next(iter(graph.outputs), "")
        if name not in graph.outputs:
            raise UsageError(f"{self.name}: the model has no output {name!r}{nearest(name, graph.outputs)}")
        are_classes = _are_whole(context.labels)
        if self.loss == _CLASSES and not are_classes:
            raise ModelError(f"{self.name}: {_CLASSES} needs whole numbers as labels")
        is_usual = ":" not in self.loss
        if is_usual and not graph.outputs[name].dtype.is_trainable:
            raise UsageError(f"{self.name}: the output {name!r} is {graph.outputs[name].type}, no floats to learn by")
        measures = choose_measures(graph, "kl")
        loss = (
            users_own(self.loss, context.find_function(self.loss))
            if not is_usual
            else cross_entropy(name, of_probabilities=measures[name] is LossKind.PROBABILITIES)
            if self.loss == _CLASSES or (self.loss == _AUTO and are_classes)
            else mean_square(name)
        )
        counts = name if is_usual and self.loss != _NUMBERS and are_classes else ""
        judge = _LabelJudge(loss, judging, judged(context, judging), counts)
        return Task(_answers, lambda outputs, wanted: loss(outputs, wanted[LABELS]), judge)


def _are_whole(labels: Sequence[Any]) -> bool:
    """Whether all labels are whole numbers.

    Raises:
        ModelError: some are no numbers.
    """
    kinds = {_array(batch).dtype.kind for batch in labels}
    return kinds <= set("iub")


def _array(labels: Any) -> np.ndarray:
    try:
        array = np.asarray(labels)
    except ValueError:  # rows of several lengths
        array = np.asarray(None)
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise ModelError(f"labels to learn from must be finite numbers, not {type(labels).__name__} of {array.dtype}")
    return array


def _answers(pieces: Sequence[Piece]) -> "list[Mapping[str, Tensor]]":
    from ...ir.ops.dtypes import to_torch

    return [{LABELS: to_torch(_array(piece.labels))} for piece in pieces]


def with_labels(answer: Answer) -> Answer:
    """Add the labels of pieces to their answers."""
    return lambda pieces: [{**own, **labels} for own, labels in zip(answer(pieces), _answers(pieces), strict=True)]


class _LabelJudge:
    """Weighs outputs by labels.

    Args:
        loss: the loss of outputs against labels.
        pieces: the pieces whose labels the outputs are compared with.
        labelled: the metric, if there is one; its drop is counted from the first outputs that are weighed.
        counts: the output whose missed labels are counted where there is no metric; empty for none.
    """

    def __init__(self, loss: Loss, pieces: Sequence[Piece], labelled: Labelled | None, counts: str) -> None:
        self._loss = loss
        self._labels = [answer[LABELS] for answer in _answers(pieces)]
        self._rows = [piece.rows for piece in pieces]
        self._labelled = labelled
        self._counts = counts
        self._reference: float | None = None

    def weigh(self, found: "Sequence[Mapping[str, Tensor]]") -> Verdict:
        """The loss of the outputs, and their drop."""
        pairs = list(zip(found, self._labels, strict=True))
        losses = [self._loss(outputs, labels).item() for outputs, labels in pairs]
        loss = float(np.average(losses, weights=self._rows))
        if self._labelled is not None:
            predictions = [[tensor.numpy() for tensor in outputs.values()] for outputs in found]
            value = self._labelled.metric(predictions, self._labelled.labels)
            self._reference = value if self._reference is None else self._reference
            worse = value - self._reference
            return Verdict(100 * (worse if self._labelled.lower_is_better else -worse), loss)
        if not self._counts:
            return Verdict(0.0, loss)
        counted = [missed(self._counts, outputs[self._counts], labels) for outputs, labels in pairs]
        wrong, rows = (sum(column) for column in zip(*counted, strict=True))
        return Verdict(100 * wrong / max(rows, 1), loss)
