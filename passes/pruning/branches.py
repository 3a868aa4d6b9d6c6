"""Residual branches that go, and the layers behind them, which make up for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir.analysis.residuals import ResidualBranch
from ...ir.graph import Constant, Graph, Node
from ...ir.unused import drop_unused
from ..base import Feeds, PassContext
from ..judge import split
from .repair import repair


@dataclass(frozen=True, slots=True)
class Shortened:
    """A graph that does without some of its residual branches.

    Attributes:
        source: the whole graph.
        branches: the residual branches of the whole graph.
        copy: a copy of the whole graph with all of its nodes, in which nobody reads what is gone.
        gone: the branches that are gone, by their numbers.
        fits: how many layers were fitted so far.
    """

    source: Graph
    branches: Sequence[ResidualBranch]
    copy: Graph
    gone: tuple[int, ...] = ()
    fits: int = 0

    @classmethod
    def of(cls, graph: Graph, branches: Sequence[ResidualBranch]) -> "Shortened":
        """A graph that has all of its branches still."""
        return cls(graph, branches, graph.clone())

    @property
    def left(self) -> list[int]:
        """The branches that are left, and not part of one that is gone, by their numbers."""
        gone = self.gone_nodes()
        return [number for number, branch in enumerate(self.branches) if branch.add not in gone]

    def gone_nodes(self, *more: int) -> set[Node]:
        """The nodes of the whole graph that are gone with some more branches."""
        gone = (self.branches[number] for number in (*self.gone, *more))
        return {node for branch in gone for node in (branch.add, *branch.nodes)}

    def without(
        self, numbers: Sequence[int], context: PassContext, fitted: Sequence[Feeds] = (), *, is_draft: bool = False
    ) -> "Shortened":
        """The same graph without more branches.

        Args:
            numbers: the branches that go.
            context: the context that has the selection and the seed, and that progress is reported to.
            fitted: the batches that layers behind are fitted to, to compute what they did in the whole graph; they stay
                as they are where there are none.
            is_draft: whether little work goes into fitting.
        """
        copy = self.copy.clone()
        twins = dict(zip(self.source.nodes, copy.nodes, strict=True))
        for branch in (self.branches[number] for number in numbers):
            add = twins[branch.add]
            copy.replace_uses(add.output, add.operand(branch.index))
        gone, fits = (*self.gone, *numbers), self.fits
        if fitted:
            fit, judging = ([fitted[place] for place in places] for places in split(len(fitted), len(fitted)))
            dead = [output.name for node in self.gone_nodes(*numbers) for output in node.outputs]
            narrowed = replace(context, selection=context.selection.without(dead))
            sums = [self.branches[number].add.output for number in gone]
            fits += len(repair(self.source, copy, {}, fit, judging, narrowed, missing=sums, is_draft=is_draft))
        return Shortened(self.source, self.branches, copy, gone, fits)

    def finished(self) -> Graph:
        """A copy from which all that is gone is erased."""
        graph = self.copy.clone()
        twins = dict(zip(self.source.nodes, graph.nodes, strict=True))
        left = dict.fromkeys(twins[self.branches[number].add] for number in self.gone)
        while left:
            node, _ = left.popitem()
            if any(output.use_count or graph.is_output(output) for output in node.outputs):
                continue
            read = [value for value in (*node.inputs, *node.captured) if value is not None]
            graph.erase(node)
            drop_unused(graph, (value for value in read if isinstance(value, Constant)))
            left |= {value.producer: None for value in read if value.producer is not None and not value.use_count}
        return graph
