"""Training that is judged while it goes on: the rate is found, and what makes things worse is undone."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from ...ir.errors import ModelError
from ..judge import Verdict
from .checkpoint import Checkpoint, State
from .gradual import GradualPruning
from .lessons import Lessons
from .trainer import Trainer

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

RATES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
"""How far a step may move a weight, as shares of its size; the largest one that serves is looked for."""
_PARTS = 12
"""Into how many parts training is divided, each of them judged."""
_WAIT = 4
"""The parts in a row that bring nothing better, after which training goes back to the best weights."""
_WARM_UP = 0.05
"""The share of the steps in which the rate rises."""
_ABOUT = 0.05
"""Losses that differ by less, as a share of their size, are about the same."""
_DIVERGED = 3.0
"""How far the loss may rise, as a share of its size at first, before training goes back to the best weights."""
_HOPELESS = 9.0
"""How far the loss may rise in a trial of a rate, as a share of its size at first, before the trial ends."""
_RECENT = 5
"""The steps whose median is the loss that has risen: single batches may have a hundred times the loss of others."""
_LOST = Verdict(math.inf, math.inf)

_Draw: TypeAlias = Sequence[Sequence[int]]
"""The pieces of each batch of a step."""


class Weigher(Protocol):
    """A judge of outputs."""

    def weigh(self, found: "Sequence[Mapping[str, Tensor]]") -> Verdict:
        """The verdict on a model, by its outputs for each of the pieces that are held out."""
        ...


class Climb:
    """Weights that only ever get better, as held-out samples judge.

    What is drawn and decided depends on the seed and on the verdicts alone, and a checkpoint has the verdicts. So a
    training that goes on from a checkpoint repeats all decisions, without a step, up to where its process was killed.

    Args:
        trainer: holds the weights.
        lessons: the samples, and the outputs that are wanted for them.
        rows: how many samples a batch has.
        accumulate: how many batches a step takes.
        held_out: the indices of the pieces that are held out, to judge by.
        judge: judges the student's outputs for the pieces that are held out.
        generator: shuffles the other pieces.
        tell: called with the loss of a step, the best verdict so far, the steps done, and the most steps in all.
        checkpoint: the file that the state is kept in, to go on from.
        pruning: makes weights zero while training goes on. What is judged has all zeros: to begin with, the smallest
            weights are zero at once.

    Attributes:
        first: the verdict on the weights before training.
        best: the verdict on the best weights so far.
        steps_of_epoch: how many steps it takes to see every sample once.
        lost: how many legs of the training ended because the loss was no number, or no gradient was one.

    Raises:
        ModelError: the loss is no number before the first step.
    """

    def __init__(
        self,
        trainer: Trainer,
        lessons: Lessons,
        rows: int,
        accumulate: int,
        held_out: Sequence[int],
        judge: Weigher,
        generator: np.random.Generator,
        tell: Callable[[float, Verdict, int, int], None],
        checkpoint: Checkpoint,
        pruning: GradualPruning | None = None,
    ) -> None:
        self._trainer = trainer
        self._lessons = lessons
        self._judge = judge
        self._tell = tell
        self._checkpoint = checkpoint
        self._kept = checkpoint.read()
        self._state = State()
        self._done = self._total = self.lost = 0
        self._rows, self._accumulate = rows, accumulate
        self._judging_rows = self._count(held_out)
        together = max(rows // max(lessons.pieces[place].rows for place in held_out), 1)
        self._held_out = [held_out[start : start + together] for start in range(0, len(held_out), together)]
        training = [place for place in range(len(lessons.pieces)) if place not in held_out] or list(held_out)
        self.steps_of_epoch = math.ceil(self._count(training) / (rows * accumulate))
        self._order = self._shuffled(training, generator)
        self._pruning = pruning
        self._start = self._best_weights = trainer.weights()
        if pruning is not None:
            trainer.prune(pruning.sparsity)
            self._best_weights = trainer.weights()
        self.first = self.best = self._verdict()
        if not math.isfinite(self.first.loss):
            raise ModelError("the loss is no number before the first step: look at the model's outputs and the data")

    @property
    def losses(self) -> Sequence[float]:
        """The loss of each step, without those in which rates were tried."""
        return self._state.losses

    def find_rate(self, steps: int, more: int) -> float:
        """The rate to train with, by what some steps lead to; 0 if they lead far away at any rate.

        Large rates are tried first, and smaller ones as long as they do better. A trial is too short to make up for
        what a large rate breaks at first, as the whole training does. So of rates that do about as well as the best,
        the largest is found, and the next larger one is taken unless it led far away. Weights become zero in each trial
        as in the whole training.

        Args:
            steps: the number of steps that each rate is tried for.
            more: the number of steps that will be taken with the rate that is found.
        """
        self._total = steps * len(RATES) + more
        drawn = self._drawn(steps)
        losses = list[float]()
        for rate in RATES:
            self._trainer.restore(self._start)  # each rate starts from there
            verdict = self._run(drawn, rate, range(steps), steps)
            self._keep(verdict)
            losses.append(verdict.loss)
            if min(losses[:-1], default=math.inf) < min(verdict.loss, self.first.loss):
                break
        self._trainer.restore(self._best_weights)
        self._done = steps * len(RATES)
        found = next(place for place, loss in enumerate(losses) if loss <= _risen(min(losses), _ABOUT))
        near = [place for place in (found - 1, found) if place >= 0 and not self._has_diverged(losses[place])]
        return RATES[near[0]] if near else 0.0

    def climb(self, rate: float, steps: int, patience: int = 0) -> None:
        """Train from the best weights, and go back to them with half the rate where that led far away, or to nothing.

        Pruning begins with the weights as they were, and nothing is kept before there are as many zeros as in the end.

        Args:
            rate: the learning rate to begin with.
            steps: the number of steps to take.
            patience: how many parts in a row may make nothing better; training ends after one more. 0 for any number.
        """
        self._total, self._state.losses = self._done + steps, []
        waited, pruning = 0, self._pruning
        if pruning is not None:
            self._trainer.restore(self._start)
        for part in np.array_split(np.arange(steps), min(_PARTS, steps)):
            verdict = self._run(self._drawn(len(part)), rate, part.tolist(), steps)
            is_whole = pruning is None or pruning.is_whole(int(part[-1]), steps)
            if not is_whole and not self._has_diverged(verdict.loss):
                continue
            waited = 0 if self._keep(verdict) else waited + 1
            if waited > patience > 0:
                return
            if waited and (waited % _WAIT == 0 or self._has_diverged(verdict.loss)):
                self._trainer.restore(self._best_weights)
                rate /= 2

    def finish(self) -> None:
        """Write the best weights into the student."""
        self._trainer.restore(self._best_weights)
        self._trainer.finish()

    def _run(self, drawn: Sequence[_Draw], rate: float, part: Sequence[int], steps: int) -> Verdict:
        """Take a part of some steps, or what is left of it; the verdict is infinite where a loss was no number."""
        leg, start = len(self._state.verdicts), 0
        if leg < len(self._kept.verdicts):
            verdict = Verdict(*self._kept.verdicts[leg])
        else:
            if leg == len(self._kept.verdicts) and self._kept.steps:
                start = self._resume()
            verdict = self._walked(drawn, rate, part, steps, start)
        self._done += len(drawn)
        self._state.verdicts.append((verdict.drop, verdict.loss))
        self.lost += not math.isfinite(verdict.loss)
        return verdict

    def _walked(self, drawn: Sequence[_Draw], rate: float, part: Sequence[int], steps: int, start: int) -> Verdict:
        for done in range(start, len(part)):
            draw, step = drawn[done], part[done]
            share = None if self._pruning is None else self._pruning.share(step, steps)
            if share is not None:
                self._trainer.prune(share)
            batches = map(self._lessons.batches, draw)
            loss = self._trainer.step(batches, sum(map(self._count, draw)), rate * schedule(step, steps))
            if not math.isfinite(loss):
                return _LOST
            self._state.losses.append(loss)
            if len(part) == steps and self._is_hopeless(done):
                return Verdict(math.inf, self._recent_loss)
            if self._checkpoint.is_due:
                self._state.steps = done + 1
                best = {f"best.{place}": weight for place, weight in enumerate(self._best_weights)}
                self._state.tensors = self._trainer.state() | best
                self._checkpoint.write(self._state)
            self._tell(loss, self.best, self._done + done + 1, self._total)
        return _LOST if self._trainer.is_stuck else self._verdict()

    def _has_diverged(self, loss: float) -> bool:
        """Whether weights are so far from where they began that training won't come back by itself."""
        return loss > _risen(self.first.loss, _DIVERGED)

    def _is_hopeless(self, done: int) -> bool:
        """Whether the loss has risen so far since a leg's first step that the other steps wouldn't bring it back."""
        if self._pruning is not None or done < _RECENT:
            return False
        start = max(self._state.losses[-1 - done], self.first.loss)
        return self._recent_loss > _risen(start, _HOPELESS)

    @property
    def _recent_loss(self) -> float:
        """The median loss of the last steps."""
        return median(self._state.losses[-_RECENT:])

    def _resume(self) -> int:
        """Take up the state that was kept, and return how many steps of its leg are done."""
        try:
            self._trainer.resume(self._kept.tensors)
            self._best_weights = [self._kept.tensors[f"best.{place}"] for place in range(len(self._best_weights))]
        except (KeyError, RuntimeError) as error:
            raise ModelError(f"the checkpoint is one of another model: {error}") from error
        self._state.losses = self._kept.losses
        return self._kept.steps

    def _verdict(self) -> Verdict:
        found = [it for places in self._held_out for it in self._trainer.outputs(self._lessons.apart(places))]
        verdict = self._judge.weigh(found)
        return _LOST if math.isnan(verdict.loss) else verdict  # NaN has no order

    def _keep(self, verdict: Verdict) -> bool:
        """Keep the weights if their loss is lower, and their drop is no larger than chance explains."""
        most = min(one.drop + self._chance(one.drop) for one in (self.first, self.best))
        is_better = verdict.loss < self.best.loss and verdict.drop <= most
        if is_better:
            self.best, self._best_weights = verdict, self._trainer.weights()
        return is_better

    def _chance(self, drop: float) -> float:
        """The standard error of a share of the samples that judge, in percent."""
        share = min(max(drop / 100, 1 / self._judging_rows), 1.0)
        return 100 * math.sqrt(share / self._judging_rows)

    def _drawn(self, steps: int) -> list[_Draw]:
        """What each of the next steps takes."""
        return [[next(self._order) for _ in range(self._accumulate)] for _ in range(steps)]

    def _shuffled(self, training: Sequence[int], generator: np.random.Generator) -> Iterator[Sequence[int]]:
        """The pieces of each batch, one batch after another, without end."""
        places: list[int] = []
        while True:
            taken, rows = list[int](), 0
            while rows < self._rows:
                places = places or generator.permutation(training).tolist()
                taken.append(places.pop())
                rows += self._lessons.pieces[taken[-1]].rows
            yield taken

    def _count(self, places: Sequence[int]) -> int:
        """How many samples pieces have together."""
        return sum(self._lessons.pieces[place].rows for place in places)


def _risen(loss: float, share: float) -> float:
    """A loss, which may be below zero, plus a share of its size."""
    return loss + share * abs(loss)


def schedule(step: int, steps: int) -> float:
    """The share of the rate at a step: it rises for a while, and falls to zero along a cosine."""
    return min(1.0, (step + 1) / (_WARM_UP * steps)) * (1 + math.cos(math.pi * step / steps)) / 2
