"""Passes as one step, to give them something in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ..ir.graph import Graph
from .base import Effect, Pass, PassContext, PassResult


@dataclass(frozen=True)
class Group(Pass):
    """Run passes one after the other: `group(cse,dce){skip=head*}`.

    Each is checked by itself, and by its own effect.

    Attributes:
        steps: the passes.
    """

    name: ClassVar[str] = "group"
    effect: ClassVar[Effect] = Effect.EXACT
    steps: tuple[Pass, ...] = ()

    def schedule(self, run: Callable[[Pass], bool]) -> None:
        """Hand the passes in order to `run`, which tells whether one changed anything."""
        for step in self.steps:
            run(step)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Run the passes without a check between them; the manager doesn't use this."""
        counts: dict[str, int] = {}
        misses: list[str] = []

        def run(step: Pass) -> bool:
            result = step.apply(graph, context)
            misses.extend(result.misses)
            for name, count in result.counts.items():
                counts[name] = counts.get(name, 0) + count
            return result.changed

        self.schedule(run)
        return PassResult(counts, misses)
