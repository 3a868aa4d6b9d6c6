"""How far a graph's outputs are from the float model's, on inputs that nothing was fitted to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.errors import UsageError
from ..ir.graph import Graph
from .base import Feeds, Labelled, PassContext
from .choices import leads, share_moved
from .measures import LossKind, choose_measures, is_of_sigmoid, measure, sized
from .output_parts import OutputParts

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

    from ..ir.interpreter import Observer

ONE_IN = 4
"""How many batches there are for one that is held out to judge what is fitted to the others."""
_HALF = 0.5
"""The number above which a sigmoid says yes."""
_SAME = 0.95
"""The share of rows of the same class from which on classes say little: they may be no classes at all."""
_LEAST_OTHERS = 1 - _SAME
"""The least share of rows that counts as all those of other classes than the commonest."""
_FEWEST_ROWS = 20
"""The rows of classes below which no bound on them is kept: 8 of them let through what changed 19 % of others."""
_LEAST_VARYING = 1e-6
"""The share of an output's sum of squares below which what varies is taken for noise."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a graph loses.

    Attributes:
        drop: the drop of the outputs in percent, or of a metric in hundredths of its own scale.
        loss: the divergence from the float model's outputs, summed over outputs.
    """

    drop: float
    loss: float


class Reference:
    """A graph whose outputs stay as they are.

    Args:
        graph: the graph to run.
        batches: the batches that it is run on more than once; their outputs are kept.
    """

    def __init__(self, graph: Graph, batches: Sequence[Feeds] = ()) -> None:
        self._batches = batches
        self._outputs: dict[int, dict[str, Any]] = {}
        self.renew(graph)

    def renew(self, graph: Graph) -> None:
        """Go on with another form of the graph, whose outputs equal those that are kept but for rounding."""
        from ..ir.interpreter import Interpreter

        self.graph = graph
        self._interpreter = Interpreter(graph)

    def detach(self) -> None:
        """Go on with a copy of the graph, which somebody is about to change."""
        self.renew(self.graph.clone())

    def run(self, batch: Feeds, observe: "Observer | None" = None) -> dict[str, Any]:
        """The outputs on a batch; those that are kept are computed anew only to be observed."""
        place = next((place for place, kept in enumerate(self._batches) if kept is batch), -1)
        if place in self._outputs and observe is None:
            return self._outputs[place]
        outputs = self._interpreter.run(batch, observe)
        if place >= 0:
            self._outputs[place] = outputs
        return outputs


class Judge:
    """Compares graphs with the float model.

    With labels, the drop is that of the metric. Without, it is that of the output that loses most:

    - An output of classes loses the share of rows that choose another class (`choices`). Where samples have several
      rows it is a share of the rows that aren't of the commonest class, such as blanks between letters or background.
    - An output of numbers, or one in which hardly any class but one is chosen, loses 1 - cosine of what varies among
      samples, and a sigmoid's output also 1 - F1 of the numbers beyond a half. One that holds scores beside other
      numbers is compared as two.

    Args:
        graph: the float model; a `Reference` where somebody else runs it on some of the batches.
        batches: the batches to judge on.
        labelled: the labels of these batches, with the metric; None to compare outputs.
        loss: how outputs are compared, as for `choose_measures`.
        offsets: whether offsets of logits count in the loss, as for `measure`.

    Attributes:
        measures: how each output, or part of one, is compared.
        parts: splits outputs into these parts.
        rows: how many choices among classes count on the batches, in the output with the fewest; 0 where no output
            holds classes, or a metric is what drops.
    """

    def __init__(
        self,
        graph: Graph | Reference,
        batches: Sequence[Feeds],
        labelled: Labelled | None = None,
        loss: str = "auto",
        *,
        offsets: bool = False,
    ) -> None:
        reference = _runnable(graph)
        self._offsets = offsets
        self._batches = batches
        self._labelled = labelled
        self._wanted = _run(reference, batches)
        self.parts = OutputParts(reference.graph, choose_measures(reference.graph, loss))
        for feeds, outputs in zip(batches, self._wanted, strict=True):
            self.parts.learn(feeds, outputs)
        self._parted = [self.parts.split(outputs) for outputs in self._wanted]
        self.measures = {
            name: kind
            if loss == "mse" or not _are_probabilities([one[name] for one in self._parted])
            else LossKind.PROBABILITIES
            for name, kind in self.parts.measures.items()
        }
        self._numbers = {
            name for name, kind in self.measures.items() if kind is LossKind.NUMBERS or self._commonest(name) >= _SAME
        }
        self._decisions = {name for name, value in reference.graph.outputs.items() if is_of_sigmoid(value)}
        self._decisions |= set(self.parts.scores.values())
        counts = {
            name: sum(found[name][..., 0].numel() for found in self._parted)
            for name, kind in self.measures.items()
            if kind is not LossKind.NUMBERS
        }
        samples = sum(map(sample_count, batches))
        self._counting = {
            name: max(1 - self._commonest(name), _LEAST_OTHERS) if count > samples else 1.0
            for name, count in counts.items()
        }
        self.rows = 0 if labelled else min((int(counts[name] * it) for name, it in self._counting.items()), default=0)
        self._reference = self._metric(self._wanted)

    def judge(self, graph: Graph | Reference) -> Verdict:
        """Compare a graph with the float model."""
        return self.weigh(_run(_runnable(graph), self._batches))

    def drop(self, make: Callable[[], Graph], context: PassContext) -> float:
        """The drop of a graph that is made and judged now, or was by a run that was killed."""
        return float(context.remember(lambda: [np.array(self.judge(make()).drop)])[0])

    def weigh(self, found: "Sequence[Mapping[str, Tensor]]") -> Verdict:
        """Compare outputs for the batches with those of the float model."""
        alike = [
            {name: sized(tensor, wanted[name]) for name, tensor in got.items() if name in wanted}
            for got, wanted in zip(found, self._wanted, strict=True)
        ]
        pairs = list(zip(map(self.parts.split, alike), self._parted, strict=True))
        losses = [measure(self.measures, got, wanted, 1.0, offsets=self._offsets).item() for got, wanted in pairs]
        if self._labelled is not None:
            drop = self._metric(found) - self._reference
            return Verdict(100 * (drop if self._labelled.lower_is_better else -drop), float(np.mean(losses)))
        drops: list[float] = []
        for name, kind in self.measures.items():
            outputs = [(got[name], wanted[name]) for got, wanted in pairs]
            drops += [_moved(outputs)] if name in self._numbers else []
            if name in self._counting:
                drops.append(min(_chosen_otherwise(kind, outputs) / self._counting[name], 100.0))
            drops += [_decided_otherwise(outputs)] if name in self._decisions else []
        return Verdict(max(drops, default=0.0), float(np.mean(losses)))

    def drop_of_commonest(self) -> float:
        """The drop, in percent, of always choosing the class that an output of the float model has most often.

        Of several outputs of classes the one that loses least counts; the drop is 0 where there is none.
        """
        drops = [min((1 - self._commonest(name)) / share, 1.0) for name, share in self._counting.items()]
        return 100 * min(drops, default=0.0)

    def _commonest(self, name: str) -> float:
        """The share of rows that have the commonest class in an output of the float model."""
        chosen = np.concatenate([found[name].argmax(-1).flatten().numpy() for found in self._parted] or [np.empty(0)])
        return np.unique(chosen, return_counts=True)[1].max(initial=0) / max(chosen.size, 1)

    def doubts(self, max_drop: float) -> list[str]:
        """A sentence where the batches have too few rows to tell whether a bound is kept.

        Args:
            max_drop: the bound, in percent.
        """
        enough = int(300 / max_drop)  # the rule of three
        if not 0 < self.rows < enough:
            return []
        return [f"{self.rows} rows can't tell {max_drop:g} % from nothing: give {enough} to judge on"]

    def require_rows(self, name: str, how_much: str) -> None:
        """Refuse to keep a bound on so few choices among classes that most changes show in none of them.

        Args:
            name: the pass.
            how_much: the option that says how much is removed, in place of a bound.

        Raises:
            UsageError: there are fewer than 20.
        """
        if 0 < self.rows < _FEWEST_ROWS:
            what = f"these have {self.rows} rows of classes, where it takes {_FEWEST_ROWS} at the least"
            raise _too_few(name, what, how_much)

    def _metric(self, outputs: "Sequence[Mapping[str, Tensor]]") -> float:
        if self._labelled is None:
            return 0.0
        predictions = [
            [found[name].numpy() for name in wanted] for found, wanted in zip(outputs, self._wanted, strict=True)
        ]
        return self._labelled.metric(predictions, self._labelled.labels)


def _runnable(graph: Graph | Reference) -> Reference:
    return graph if isinstance(graph, Reference) else Reference(graph)


def _run(reference: Reference, batches: Sequence[Feeds]) -> list[dict[str, Any]]:
    from ..ir.ops.dtypes import to_torch

    return [
        {name: to_torch(array) for name, array in reference.run(feeds).items() if isinstance(array, np.ndarray)}
        for feeds in batches
    ]


def _are_probabilities(outputs: "Sequence[Tensor]") -> bool:
    """Whether the elements along the last axis form probability distributions, however they were computed."""
    if not outputs or not outputs[0].ndim or outputs[0].shape[-1] < 2:
        return False
    sums = [output.double().sum(-1) for output in outputs]
    return all(
        bool((output >= 0).all() and ((total - 1).abs() < 1e-3).all())
        for output, total in zip(outputs, sums, strict=True)
    )


def _chosen_otherwise(kind: LossKind, pairs: "Sequence[tuple[Tensor, Tensor]]") -> float:
    """The share of rows that choose another class, in percent."""
    rows = [leads(kind, wanted, got) for got, wanted in pairs if wanted.numel()]
    before, after = (np.concatenate(parts) for parts in zip(*rows, strict=True)) if rows else (np.empty(0),) * 2
    return 100 * share_moved(before, after)


def _decided_otherwise(pairs: "Sequence[tuple[Tensor, Tensor]]") -> float:
    """1 - F1 of the numbers beyond a half, in percent; 0 where the float model has none."""
    both = sum(int(((got > _HALF) & (wanted > _HALF)).sum()) for got, wanted in pairs)
    ours, theirs = (sum(int((it[place] > _HALF).sum()) for it in pairs) for place in (0, 1))
    return 100 * (1 - 2 * both / (ours + theirs)) if theirs else 0.0


def _moved(pairs: "Sequence[tuple[Tensor, Tensor]]") -> float:
    """1 - cosine between the outputs and the float model's, both less the float model's mean, in percent."""
    middle = _middle([wanted for _, wanted in pairs])
    flat = [[(it.double() - middle).flatten() for it in pair] for pair in pairs]
    product = sum(float(got @ wanted) for got, wanted in flat)
    ours, theirs = (sum(float(it[place] @ it[place]) for it in flat) for place in (0, 1))
    if not 0 < ours * theirs < np.inf:  # nothing varies, or what does is no number
        return 100.0 if theirs else 0.0
    return float(100 * (1 - product / np.sqrt(ours * theirs)))


def _middle(outputs: "Sequence[Tensor]") -> "Tensor | float":
    """The mean over samples, or over all rows if samples differ in size; 0 if what varies is next to nothing."""
    shapes, widths = ({tuple(it.shape[first:]) for it in outputs} for first in (1, -1))
    if len(widths) > 1 or () in widths:
        return 0.0
    rows = outputs if len(shapes) == 1 else [it.flatten(0, -2) for it in outputs]
    mean = sum(it.double().sum(0) for it in rows) / max(sum(map(len, rows)), 1)
    varying = sum(float((it.double() - mean).square().sum()) for it in rows)
    return mean if varying > _LEAST_VARYING * sum(float(it.double().square().sum()) for it in rows) else 0.0


def sample_count(batch: Feeds) -> int:
    """How many samples a batch holds, which the first axis counts; 1 at the least."""
    lengths = [array.shape[0] for array in batch.values() if isinstance(array, np.ndarray) and array.ndim]
    return max(lengths, default=1) or 1


def split(batches: int, enough: int) -> tuple[list[int], list[int]]:
    """The indices of the batches to fit to and of those to judge on, which are the same only for a single batch.

    Args:
        batches: how many batches there are.
        enough: how many batches fitting takes at the most.
    """
    places = list(range(batches))
    if batches - enough >= max(batches // ONE_IN, 1):
        return places[:enough], places[enough:]
    if batches < 2:
        return places, places
    every = min(ONE_IN, batches)
    judging = places[every - 1 :: every]
    return [place for place in places if place not in judging], judging


def require_held_out(name: str, how_much: str, context: PassContext) -> None:
    """Refuse to keep a bound on what was fitted to.

    Args:
        name: the pass.
        how_much: the option that says how much is removed, in place of a bound.
        context: the context that holds the calibration data.

    Raises:
        UsageError: there is a single batch of calibration data, so that nothing can be held out.
    """
    if len(context.calibration) == 1:
        raise _too_few(name, "there is a single batch of calibration data", how_much)


def _too_few(name: str, what: str, how_much: str) -> UsageError:
    return UsageError(
        f"{name} judges by held-out batches how much may go, and {what}: give a few hundred samples in several "
        f"batches, or say how much as in {name}{{{how_much}}}"
    )


def divided(context: PassContext, enough: int | None = None) -> tuple[list[Feeds], list[Feeds], Labelled | None]:
    """The calibration data in two: batches to fit to, and batches to judge on with their labels.

    Args:
        context: the context that holds the calibration data.
        enough: how many batches fitting takes at the most; None for all that aren't needed to judge.
    """
    batches, labelled = context.calibration, context.labelled
    fitted, judging = split(len(batches), len(batches) if enough is None else enough)
    if labelled is not None:
        labelled = replace(labelled, labels=[labelled.labels[place] for place in judging])
    return [batches[place] for place in fitted], [batches[place] for place in judging], labelled
