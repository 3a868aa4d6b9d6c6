"""What a student learns from: samples in pieces that make up steps, and the outputs that are wanted for them."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ...ir.graph import Graph
from ..base import Feeds
from ..storage import Storage

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

    Outputs: TypeAlias = Mapping[str, Tensor]

ROWS = 32
"""The most samples of a piece, and as many as a step takes where there are enough."""
_PIECES = 10
"""Into how many pieces data are divided at least, as far as they can be: one is held out."""
MOST_ON_DISK = 1 << 33
"""The bytes of answers that are kept in files at the most; other answers are computed each time."""


class TrainingBatch(NamedTuple):
    """Samples to learn from: inputs in the student's order, wanted outputs by name, and the number of samples."""

    inputs: "tuple[Tensor, ...]"
    wanted: "Outputs"
    rows: int = 1


class Piece(NamedTuple):
    """Some samples, with their labels if there are any."""

    feeds: Feeds
    labels: Any
    rows: int


Answer: TypeAlias = "Callable[[Sequence[Piece]], Sequence[Outputs]]"
"""Gives the outputs that are wanted for each of some pieces, by name."""


def divide(graph: Graph, batches: Sequence[Feeds], labels: Sequence[Any] = ()) -> list[Piece]:
    """Divide batches into pieces of at most `ROWS` samples, and small enough for `_PIECES` of them, where that works.

    A batch whose labels can't be divided with it stays whole.
    """
    labels = labels or [None] * len(batches)
    rows = [_rows(graph, feeds) for feeds in batches]
    most = min(ROWS, max(sum(rows) // _PIECES, 1))
    pieces: list[Piece] = []
    for feeds, held, count in zip(batches, labels, rows, strict=True):
        if count <= most or (held is not None and (not hasattr(held, "__len__") or len(held) != count)):
            pieces.append(Piece(feeds, held, count))
            continue
        for start in range(0, count, most):
            part = slice(start, min(start + most, count))
            cut = {name: array[part] for name, array in feeds.items()}
            pieces.append(Piece(cut, None if held is None else held[part], part.stop - part.start))
    return pieces


def _is_divisible(graph: Graph) -> bool:
    """Whether samples lie along the same open dimension, the first, of all inputs and outputs."""
    values = [*graph.inputs, *graph.outputs.values()]
    firsts = {value.shape[0] if value.type.is_ranked and value.type.rank else None for value in values}
    return len(firsts) == 1 and isinstance(next(iter(firsts)), str)


def _rows(graph: Graph, feeds: Feeds) -> int:
    """The number of samples in a batch; a batch that can't be divided counts as one."""
    first = graph.inputs[0].name if graph.inputs else ""
    return len(feeds[first]) if first in feeds and _is_divisible(graph) else 1


class Lessons:
    """Pieces with their answers, the wanted outputs, which are computed when they are first needed, and kept.

    Args:
        answer: gives the wanted outputs.
        student: the graph that is trained.
        pieces: the samples.
        known: the storage that answers are kept in.
    """

    def __init__(
        self,
        answer: Answer,
        student: Graph,
        pieces: Sequence[Piece],
        known: "Storage[str, Tensor]",
    ) -> None:
        self.pieces = pieces
        self._answer = answer
        self._known = known
        self._names = [value.name for value in student.inputs]
        self._is_divisible = _is_divisible(student)

    def apart(self, places: Sequence[int]) -> list[TrainingBatch]:
        """Some pieces, each as a batch."""
        from ...ir.ops.dtypes import to_torch

        missing = [place for place in dict.fromkeys(places) if place not in self._known]
        answers = dict(zip(missing, self._answer([self.pieces[place] for place in missing]), strict=True))
        for place, outputs in answers.items():
            self._known.put(place, dict(outputs))
        batches: list[TrainingBatch] = []
        for place in places:
            piece, wanted = self.pieces[place], answers[place] if place in answers else self._known.get(place)
            inputs = tuple(to_torch(np.asarray(piece.feeds[name])) for name in self._names)
            batches.append(TrainingBatch(inputs, wanted, piece.rows))
        return batches

    def batches(self, places: Sequence[int]) -> list[TrainingBatch]:
        """Some pieces as batches, those of one shape joined if the student takes any number of samples."""
        import torch

        apart = self.apart(places)
        if not self._is_divisible:
            return apart
        alike: defaultdict[Any, list[TrainingBatch]] = defaultdict(list)
        for batch in apart:
            shapes = tuple(tensor.shape[1:] for tensor in (*batch.inputs, *batch.wanted.values()))
            alike[shapes].append(batch)
        return [_joined(batches, torch.cat) for batches in alike.values()]


def _joined(batches: Sequence[TrainingBatch], join: Any) -> TrainingBatch:
    if len(batches) == 1:
        return batches[0]
    inputs = tuple(join(tensors) for tensors in zip(*(batch.inputs for batch in batches), strict=True))
    wanted = {name: join([batch.wanted[name] for batch in batches]) for name in batches[0].wanted}
    return TrainingBatch(inputs, wanted, sum(batch.rows for batch in batches))
