"""Structured pruning of depth: whole residual branches go, such as attention and feed-forward blocks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Interval, Unit

from ...ir.analysis.cost import flops
from ...ir.analysis.residuals import ResidualBranch, residual_branches
from ...ir.errors import BudgetError, UsageError
from ...ir.graph import Graph, Node
from ..base import Effect, Pass, PassContext, PassResult, Timing
from ..judge import Judge, divided, require_held_out
from ..pipeline import format_pass
from ..quantization.calibrate import first_batches_of
from .block_importance import Importance
from .branches import Shortened
from .comparison import enough_to_fit
from .shortening import Shortening, Trial

_JUDGED_ON = 512
"""Held-out samples on which choices are compared, where no bound has to be kept."""
_LITTLE = 1e-6
"""A share of the cost that is nothing."""
_TOLERANCE = 0.05
"""How much slower than it was asked for a model may be measured, relative to that."""


@dataclass(frozen=True)
class BlockPruning(Pass):
    """Remove the residual branches that the outputs need least, such as attention and feed-forward blocks.

    A branch is all that is computed between a value x and the sum of x and f(x), where nothing else reads it and it
    holds a layer. The value takes the place of the sum, and a normalization behind the sum stays. A whole layer of a
    transformer is two branches.

    Branches go one after another. Each that is left is tried, or where models are large only those that turn what they
    are added to the least (Men et al., "ShortGPT", 2024): layers behind are fitted by least squares to what they
    computed in the whole model, those that are added to a sum to all that the sum lacks (as channels' are by He et al.,
    "Channel Pruning", ICCV 2017). The branch goes without which the outputs lose least for what it saves. Where as
    many of the last branches lose less on held-out batches, these go (Gromov et al., "The Unreasonable Ineffectiveness
    of the Deeper Layers", 2024). No labels are needed.

    With none of `blocks`, `ratio`, `flops` and `speedup`, as many go as possible while the outputs stay within
    `max_drop` on held-out batches.

    Attributes:
        blocks: how many branches to remove; 0 leaves the amount to the other options.
        ratio: the share of all branches to remove instead; 0 leaves the amount to the other options.
        flops: the share of the model's operations to remove at the least instead; 0 leaves the amount to the other
            options.
        speedup: how many times as fast the model becomes at the least instead, for one sample on the backend that it is
            built for, as it is measured there, within 5 %; 0 leaves the amount to the other options.
        max_drop: the most that may be lost on held-out batches. Where the calibration data have labels, it is the drop
            of the metric, in hundredths of its own scale. Where they have none, it is the loss of the output that loses
            most, in percent: for classes the share of rows whose largest element is elsewhere than before, for other
            outputs 100 (1 - cosine) of what varies among samples, and for a sigmoid's numbers also 100 (1 - F1) of
            those beyond a half.
        repair: whether layers are fitted; they stay as they are where held-out batches lose less then.
    """

    name: ClassVar[str] = "prune-blocks"
    effect: ClassVar[Effect] = Effect.LOSSY
    needs: ClassVar[frozenset[str]] = frozenset({"float"})
    after: ClassVar[tuple[str, ...]] = ("fold-constants",)
    max_drift: ClassVar[float] = 10.0  # without half of its blocks, the outputs of a network may be any

    blocks: Annotated[int, Ge(0)] = 0
    ratio: Annotated[float, Interval(ge=0, lt=1), Unit("1")] = 0.0
    flops: Annotated[float, Interval(ge=0, lt=1), Unit("1")] = 0.0
    speedup: Annotated[float, Ge(0)] = 0.0
    max_drop: Annotated[float, Interval(gt=0, le=100), Unit("%")] = 1.0
    repair: bool = True
    required: bool = True

    def require(self, context: PassContext) -> None:
        if 0 < self.speedup <= 1:
            raise UsageError(f"{self.name}{{speedup={self.speedup:g}}} would be no faster: give more than 1")
        if self.speedup and context.timing is None:
            raise UsageError(
                f"{self.name}{{speedup=...}} measures the model on the backend that it is built for, on the machine at "
                "hand: say `backend:` in the recipe, --lower-to BACKEND, or backend=... from Python"
            )
        if not context.calibration:
            raise UsageError(f"{self.name} needs calibration data to find the blocks that the outputs need least")
        if not (self.blocks or self.ratio or self.flops or self.speedup):
            require_held_out(self.name, "ratio=0.25", context)

    def foresee(self, graph: Graph, context: PassContext) -> PassResult:
        branches, misses = self._choose(graph, context)
        return PassResult({"blocks": len(branches)}, misses)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        self.require(context)
        branches, misses = self._choose(graph, context)
        if not branches:
            return PassResult(misses=misses or ["no layer is added to what it is computed from"])
        if (share := self._share(len(branches))) == 0:
            return PassResult(misses=[f"ratio={self.ratio:g} of {len(branches)} blocks is none: give a larger ratio"])
        batches, held_out, labelled = divided(context)
        judge = Judge(graph, held_out, labelled)
        if self._is_bound:
            judge.require_rows(self.name, "ratio=0.25")
        else:
            judge = Judge(graph, first_batches_of(held_out, _JUDGED_ON))
        if not judge.measures:
            return PassResult(misses=["no output is in float, by which losses are judged"])
        fitted = enough_to_fit(graph, batches)
        costs = self._costs(graph, branches, context)
        importance = Importance(graph, costs, fitted, repair=self.repair, about=self._about(context), context=context)
        start = Shortened.of(graph, branches)
        shortening = Shortening(start, importance, judge, fitted if self.repair else (), context)
        found, notes = self._found(graph, shortening, share, context)
        if self._is_bound:
            notes += judge.doubts(self.max_drop)
        if isinstance(found, str):
            return PassResult({"blocks": 0}, [found, *misses], notes)
        model = found.model
        kept = [number for number in model.gone if context.applies("remove", *branches[number].layers)]
        if len(kept) < len(model.gone):
            model = start.without(kept, context, fitted if model.fits else ())
        if kept:
            graph.become(model.finished())
        return PassResult({"blocks": len(kept), "fits": model.fits}, misses, [*notes, str(found)])

    # -- which

    def _choose(self, graph: Graph, context: PassContext) -> tuple[list[ResidualBranch], list[str]]:
        """The branches that may go, and why others may not."""
        chosen = [branch for branch in residual_branches(graph) if all(map(context.selects, branch.layers))]
        misses = [f"{it.add.location}: the block stays, because {it.frozen}" for it in chosen if it.frozen]
        return [branch for branch in chosen if not branch.frozen], misses

    def _costs(self, graph: Graph, branches: Sequence[ResidualBranch], context: PassContext) -> dict[Node, float]:
        """What nodes cost: operations or seconds, or as much for each branch where branches are counted."""
        if self.blocks or self.ratio or self._is_bound:
            return dict.fromkeys((branch.add for branch in branches), 1.0)
        if self.flops:
            return {node: float(flops(node, context.sizes)) for node in graph.nodes}
        assert context.timing is not None
        (seconds,) = context.timing.layers([graph])
        return {node: seconds.get(node.outputs[0].name, 0.0) for node in graph.nodes}

    def _about(self, context: PassContext) -> str:
        """The options that comparisons of branches depend on, as text: all but those that say how much is removed."""
        same = replace(self, blocks=0, ratio=0.0, flops=0.0, speedup=0.0, max_drop=100.0)
        return f"{format_pass(same)} of {context.selection.rows} but {sorted(context.selection.barred)}"

    # -- how many

    @property
    def _is_bound(self) -> bool:
        """Whether a bound on the outputs says how many branches go."""
        return not (self.blocks or self.ratio or self.flops or self.speedup)

    def _share(self, count: int) -> float | None:
        """The share of the cost that is to be saved; None where a measured time or a bound on the outputs decides."""
        if self.blocks:
            return min(self.blocks, count) / count
        if self.ratio:
            return floor(self.ratio * count + 0.5) / count
        return self.flops or None

    def _found(
        self, graph: Graph, shortening: Shortening, share: float | None, context: PassContext
    ) -> tuple[Trial | str, list[str]]:
        """What was asked for, or why there is no such thing; and notes."""
        if self._is_bound:
            return self._within(shortening), []
        if share is not None:
            return self._asked_for(shortening, share)
        assert context.timing is not None
        return self._fast(graph, shortening, context.timing)

    def _within(self, shortening: Shortening) -> Trial | str:
        """The trial with the fewest branches whose outputs stay within bounds, or why there is none."""
        best, miss = None, ""
        for trial in shortening.stages():
            if not trial.verdict.drop <= self.max_drop:
                miss = f"{trial}, more than max_drop={self.max_drop:g}"
                break
            best = trial
        saved, gone = (0.0, ()) if best is None else (best.saved, best.model.gone)
        last = shortening.without_last(saved + _LITTLE, gone)
        return last if last is not None and last.verdict.drop <= self.max_drop else best or miss

    def _asked_for(self, shortening: Shortening, share: float) -> tuple[Trial, list[str]]:
        """The trial that saves a share of the cost and loses least, and notes."""
        trials = shortening.stages()
        trial = next(trials)
        while trial.saved < share - _LITTLE and (following := next(trials, None)) is not None:
            trial = following
        is_less = trial.saved < share - _LITTLE
        notes = [f"no more than {100 * trial.saved:.0f} % of the operations can be removed"] if is_less else []
        last = shortening.without_last(min(share, trial.saved) - _LITTLE, trial.model.gone)
        return (trial if last is None or trial.verdict.loss <= last.verdict.loss else last), notes

    def _fast(self, graph: Graph, shortening: Shortening, timing: Timing) -> tuple[Trial, list[str]]:
        """The first trial that is measured to be as fast as was asked for, and what was measured."""
        speedup = 0.0
        for trial in shortening.stages():
            before, after = timing.rounds([graph, trial.model.finished()])
            speedup = float(np.median(before / after))
            if speedup >= self.speedup * (1 - _TOLERANCE):
                return trial, [f"the model is {speedup:.2f} times as fast as before"]
        raise BudgetError(
            f"speedup={self.speedup:g} can't be reached: without all blocks that may go, the model is "
            f"{speedup:.2f} times as fast"
        )
