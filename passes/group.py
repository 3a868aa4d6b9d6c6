"""Passes as one step, to give them something in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..ir.graph import Graph
from .base import Effect, Pass, PassContext, PassResult


@dataclass(frozen=True)
class Group(Pass):
    """Run passes one after the other: `group(cse,dce){skip=head*}`.

    Each pass is checked by itself, and by its own effect.

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
        results: list[PassResult] = []

        def run(step: Pass, context: PassContext) -> bool:
            results.append(step.apply(graph, context))
            return results[-1].changed

        run_each((self,), context, run)
        return PassResult.sum(results)


def run_each(steps: Sequence[Pass], context: PassContext, run: Callable[[Pass, PassContext], bool]) -> bool:
    """Hand passes to `run` one by one, a group's with its narrowed context; return whether any changed something."""
    changed = False

    def inner(step: Pass, narrowed: PassContext) -> bool:
        nonlocal changed
        found = run_each((step,), narrowed, run)
        changed |= found
        return found

    for step in steps:
        if isinstance(step, Group):
            narrowed = context.narrowed(step.only, step.skip)
            step.schedule(lambda one, narrowed=narrowed: inner(one, narrowed))
        else:
            changed |= run(step, context)
    return changed
