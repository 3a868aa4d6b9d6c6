"""Branches go one after another, each time the one that is needed least, and what is left is judged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..base import Feeds, PassContext
from ..judge import Judge, Verdict
from .block_importance import Importance
from .branches import Shortened


@dataclass(frozen=True, slots=True)
class Trial:
    """A graph without some branches.

    Attributes:
        model: the graph.
        verdict: what it loses on held-out batches.
        saved: the share of the cost that it saves.
        is_worse_fitted: whether layers stayed as they were at last, since it would lose more with them fitted.
    """

    model: Shortened
    verdict: Verdict
    saved: float
    is_worse_fitted: bool

    def __str__(self) -> str:
        gone = ", ".join(str(self.model.branches[number].add.location) for number in self.model.gone)
        told = ", where layers stay as they are, since it loses more with them fitted" if self.is_worse_fitted else ""
        return f"without the blocks of {gone}, the model loses {self.verdict.drop:z.3g} % on held-out data{told}"


class Shortening:
    """Makes graphs without branches, and judges them.

    Args:
        start: the graph with all branches.
        importance: finds the branch that goes next.
        judge: judges graphs on held-out batches.
        fitted: the batches that layers are fitted to; they stay as they are where there are none.
        context: the context that remembers what was measured, and that progress is reported to.
    """

    def __init__(
        self, start: Shortened, importance: Importance, judge: Judge, fitted: Sequence[Feeds], context: PassContext
    ) -> None:
        self._start, self._importance, self._judge = start, importance, judge
        self._fitted, self._context = fitted, context

    def stages(self) -> Iterator[Trial]:
        """The graph without the branch that is needed least, then without another as well, until none is left."""
        model = self._start
        while model.left:
            self._context.progress("removing blocks", len(model.gone), len(model.branches))
            trial = self._tried(model, [self._importance.least(model)])
            yield trial
            model = trial.model

    def without_last(self, least: float, tried: Sequence[int]) -> Trial | None:
        """The graph without its last branches, as who knows nothing of branches removes them.

        Args:
            least: the share of the cost that is to be saved at the least.
            tried: branches that there is a trial of; None is returned if it would be these.
        """
        numbers: list[int] = []
        for number, branch in reversed(list(enumerate(self._start.branches))):
            if branch.add in self._start.gone_nodes(*numbers):
                continue
            numbers.append(number)
            if self._importance.saved(self._start.gone_nodes(*numbers)) >= least:
                return None if set(numbers) == set(tried) else self._tried(self._start, numbers)
        return None

    def _tried(self, model: Shortened, numbers: Sequence[int]) -> Trial:
        """A graph without more branches, with layers fitted if it loses less then."""
        saved = self._importance.saved(model.gone_nodes(*numbers))
        plain = model.without(numbers, self._context)
        loss = self._judged(plain)
        if not self._fitted:
            return Trial(plain, loss, saved, is_worse_fitted=False)
        fitted = model.without(numbers, self._context, self._fitted)
        loss_fitted = self._judged(fitted)
        if loss_fitted.loss < loss.loss:
            return Trial(fitted, loss_fitted, saved, is_worse_fitted=False)
        return Trial(plain, loss, saved, is_worse_fitted=True)

    def _judged(self, model: Shortened) -> Verdict:
        def compute() -> list[np.ndarray]:
            verdict = self._judge.judge(model.finished())
            return [np.array([verdict.drop, verdict.loss])]

        ((drop, loss),) = self._context.remember(compute)
        return Verdict(float(drop), float(loss))
