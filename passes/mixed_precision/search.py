"""The budget of loss that the bound on accuracy stands for, found by judging what is chosen within it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..base import PassContext
from ..judge import Verdict
from ..quantization.allocation import allocate
from ..quantization.rounding import Losses
from ..quantization.times import Times
from ..units import show_seconds

_NEAR = 1.1
"""The ratio of two budgets between which no better choice is looked for."""
_WIDEST = 64.0
"""The ratio of a budget that was too much to the least that is tried, as long as none was small enough."""


_FASTER = 0.97
"""The share of the best choice's time that another choice must stay below to replace it, as it may lose more."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Layers to quantize.

    Attributes:
        layers: the layers, by the names of their outputs.
        seconds: the predicted seconds of one inference.
        verdict: what the outputs lose.
        budget: the budget of loss within which these layers are the fastest choice.
    """

    layers: frozenset[str]
    seconds: float
    verdict: Verdict
    budget: float


@dataclass(slots=True)
class Search:
    """Looks for the fastest choice that the judge lets pass.

    Attributes:
        times: the predicted time of each choice.
        losses: what rounding adds to the loss.
        judge: returns what a choice of layers loses.
        max_drop: the largest drop that is allowed, in percent.
        attempts: the most choices that are judged.
        context: the context that progress is reported to.
    """

    times: Times
    losses: Losses
    judge: Callable[[frozenset[str]], Verdict]
    max_drop: float
    attempts: int
    context: PassContext
    _failed: Verdict | None = field(default=None, init=False)

    def run(self, order: int) -> Choice | None:
        """The fastest choice found; it is empty where floats are the fastest, and None where nothing passes.

        Args:
            order: the power of the drop that the loss grows with: 2 for the share of rows that choose another class.
        """
        low, high = 0.0, np.inf  # budgets that passed, and losses that didn't
        best: Choice | None = None
        budget = self._loss(frozenset(self.times.rounding.layers))
        for attempt in range(self.attempts):
            self.context.progress("judging choices", attempt, self.attempts)
            choice = self._choice(self.times, budget)
            used = self._loss(choice.layers)
            if choice.verdict.drop <= self.max_drop:
                low = max(low, budget)
                best = choice if best is None or choice.seconds < _FASTER * best.seconds else best
                if np.isinf(high):
                    return best
            elif not choice.layers:
                self._failed = choice.verdict
                return None
            else:
                high, self._failed = min(high, used), choice.verdict
            if high <= low * _NEAR:
                break
            least = low or high / _WIDEST
            guess = used * (self.max_drop / max(choice.verdict.drop, 1e-9)) ** order
            budget = guess if least * 1.02 < guess < high * 0.98 else float(np.sqrt(least * high))
        return best

    def again(self, choice: Choice, seconds: float) -> Choice | None:
        """The best choice once times are corrected by a measurement; None if it is no other one, or doesn't pass."""
        other = self._choice(self.times.corrected(choice.layers, seconds), choice.budget)
        is_new = other.layers and other.layers != choice.layers
        return other if is_new and other.verdict.drop <= self.max_drop else None

    def obstacle(self, full: Verdict) -> str:
        """Why nothing is quantized."""
        if self._failed is None:
            whole, none = (show_seconds(it) for it in (self.times.whole, self.times.predict(frozenset())))
            return f"no mix of int8 and float is faster than float alone, which takes {none}, while int8 takes {whole}"
        drops = f"{full.drop:.3g} % with all layers in int8, and {self._failed.drop:.3g} % with the last choice tried"
        return f"no choice of layers keeps the drop within {self.max_drop:g} %: it is {drops}; raise max_drop"

    def _choice(self, times: Times, budget: float) -> Choice:
        layers = allocate(times, self.losses, budget)
        return Choice(layers, times.predict(layers), self.judge(layers), budget)

    def _loss(self, layers: frozenset[str]) -> float:
        return self.losses.of(self.times.rounding.plan(layers), layers)
