"""Which residual branch the outputs of a graph need least, as it is by now."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...ir.analysis.residuals import ResidualBranch
from ...ir.graph import Graph, Node, Value
from ..base import Feeds, PassContext
from ..judge import Judge, split
from .branches import Shortened
from .comparison import enough_to_draft, operations
from .readers import reader

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

_MOST_OPERATIONS = 3e12
"""How many floating-point operations it may take to compare branches once, about a minute of two cores."""
_RUNS = 3
"""How often a model runs on the data for each branch: as it is, while it is fitted, and to be judged."""
_LEAST_OPERATIONS = 2e11
"""How many operations a graph may take on the samples that angles are measured on."""


class Importance:
    """Finds the branch that goes next.

    The outputs are likely to need a branch little where it hardly turns what it is added to (Men et al., "ShortGPT",
    2024; Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers", 2024). That is an estimate, which
    knows nothing of what other layers make of it. So as many of the likeliest branches as there is time for are taken
    out one at a time, layers behind are fitted, and the outputs are compared on data that nothing was fitted to.

    Args:
        graph: the whole graph.
        costs: what each node costs: those branches go first that lose least for what they save.
        batches: the batches to fit to and to judge on.
        repair: whether layers are fitted.
        about: the options that all this depends on, as text.
        context: the context that shares what was measured, and that progress is reported to.
    """

    def __init__(
        self,
        graph: Graph,
        costs: Mapping[Node, float],
        batches: Sequence[Feeds],
        *,
        repair: bool,
        about: str,
        context: PassContext,
    ) -> None:
        self._costs, self._about, self._context = costs, about, context
        few = enough_to_draft(graph, batches)
        fit, judging = split(len(few), len(few))
        self._fitted = [few[place] for place in fit] if repair else []
        self._judge = Judge(graph, [few[place] for place in judging])
        runs = _MOST_OPERATIONS / ((_RUNS if repair else 1) * max(operations(graph, few), 1))
        self._shortlist = int(runs) if self._judge.measures else 0
        angles = _LEAST_OPERATIONS / max(operations(graph, few[:1]), 1)
        self._seen = few[: max(int(angles), 1)]

    def saved(self, nodes: set[Node]) -> float:
        """The share of the cost that is saved without some nodes."""
        return sum(self._costs.get(node, 0.0) for node in nodes) / (sum(self._costs.values()) or 1.0)

    def least(self, now: Shortened) -> int:
        """The number of the branch that is left and loses least for what it saves."""
        before = self.saved(now.gone_nodes())
        worth = {it: max(self.saved(now.gone_nodes(it)) - before, 1e-9) for it in now.left}
        turns = self._turns(now)
        likely = sorted(worth, key=lambda it: turns[it] / worth[it])[: max(self._shortlist, 1)]
        if len(likely) < 2:
            return likely[0]

        def losses() -> list[np.ndarray]:
            found: list[float] = []
            for done, number in enumerate(likely):
                self._context.progress("comparing blocks", done, len(likely))
                shorter = now.without([number], self._context, self._fitted, is_draft=True)
                found.append(self._judge.judge(shorter.finished()).loss)
            return [np.array([self._judge.judge(now.finished()).loss, *found])]

        ((whole, *lost),) = self._context.share(f"losses without {now.gone}, then {likely} by {self._about}", losses)
        rises = np.nan_to_num((np.array(lost) - whole) / [worth[it] for it in likely], nan=np.inf)
        return likely[int(np.argmin(rises))]

    def _turns(self, now: Shortened) -> dict[int, float]:
        """1 - cosine between what each branch that is left starts from and its sum, in the mean over rows."""
        from torch.nn.functional import cosine_similarity

        from ...ir.interpreter import Interpreter  # brings torch, which listing the passes must not

        twins = dict(zip(now.source.nodes, now.copy.nodes, strict=True))
        branches = {it: now.branches[it] for it in now.left}
        sums = {twins[it.add].output: (number, twins[it.add].operand(it.index)) for number, it in branches.items()}
        starts = {x for _, x in sums.values()}
        axes = {number: _axis(branch) for number, branch in branches.items()}
        turns: dict[int, list[float]] = {number: [] for number in branches}
        held: dict[Value, Tensor] = {}

        def look(value: Value, tensor: "Tensor") -> None:
            if value in sums:
                number, x = sums[value]
                cosine = cosine_similarity(held[x].double(), tensor.double(), axes[number])
                turns[number].append(1 - cosine.mean().item())
            if value in starts:
                held[value] = tensor

        interpreter = Interpreter(now.copy)
        for batch in self._seen:
            interpreter.run(batch, look)
        return {number: float(np.nan_to_num(np.mean(found), nan=np.inf)) for number, found in turns.items()}


def _axis(branch: ResidualBranch) -> int:
    """The axis of a sum's channels: the one along which the branch's last layer has them."""
    layers = (known for node in reversed(branch.layers) if (known := reader(node)) is not None)
    last = next(layers, None)
    return -1 if last is None else last.output_axis
