"""Finding the rewrite at fault, in as few checks as a binary search takes.

The pipeline runs once, without checks, and the graph is kept as each pass was given it. A search over these graphs
finds the pass after which the outputs are wrong first. Then that pass alone runs again, each time ended at another
number of rewrites.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ..ir.errors import CheckError, PlanishError, TargetError
from ..ir.graph import Graph, now
from ..ir.verify import verify
from .base import Effect, Pass, PassContext
from .check import NumericCheck
from .debug_counter import DebugCounter
from .group import run_each
from .pipeline import format_pass
from .yardstick import Yardstick


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong first.

    Attributes:
        step: the pass with its options, as in a pipeline.
        position: the position of the pass in the pipeline, from 1.
        rewrite: the name of the rewrite at fault; empty where it is the whole pass, or the pass counts no rewrites.
        node: what was rewritten: operator, name and layer; empty likewise.
        number: the number of the application in its pass, the start of which is 1.
        applications: how many applications the whole pipeline had, as far as it came.
        reason: what is wrong, in words.
        checks: how many checks it took to find.
    """

    step: str
    position: int
    rewrite: str
    node: str
    number: int
    applications: int
    reason: str
    checks: int

    def __str__(self) -> str:
        where = f"rewrite {self.rewrite} of {self.node}" if self.rewrite else "the pass as a whole"
        count = f"application {self.number} of the pass; the pipeline has {self.applications}"
        return f"pass {self.position}, {self.step}: {where} ({count})\n{self.reason}\nfound in {self.checks} checks"


def bisect(
    passes: Sequence[Pass],
    check: NumericCheck,
    context: PassContext,
    progress: Callable[[str], None] = lambda text: None,
) -> Fault | None:
    """Find the first application after which a pipeline's graph is malformed or means something else; None if none is.

    Args:
        passes: the passes in order; each must do the same every time.
        check: the numeric check; the pipeline starts from a copy of its source.
        context: the context of the passes.
        progress: called with a text that says how far the search has come.

    Raises:
        TargetError: a backend can't run what the passes make of the source, and none of them is at fault.
    """
    run = _Run(check, context)
    run.all(passes)
    position = run.first_fault(progress)
    return None if position is None else run.rewrite_at_fault(position, progress)


@dataclass(frozen=True, slots=True)
class _Step:
    """A pass that ran: the graph that it was given, and whether it changed that."""

    step: Pass
    context: PassContext
    graph: Graph
    changed: bool
    applications: int

    @property
    def effect(self) -> Effect | None:
        """What the step may have done to the outputs; None if it changed nothing."""
        return self.step.effect if self.changed else None


class _Run:
    """A pipeline that has run, and the search in it.

    Boundary 0 is the source, boundary n the graph after n passes.
    """

    def __init__(self, check: NumericCheck, context: PassContext) -> None:
        self._check = check
        self._context = context
        self._steps: list[_Step] = []
        self._graph = check.source.clone()
        self._crash: Exception | None = None
        self._known: dict[int, Yardstick] = {0: check.start}
        self._checks = 0

    def all(self, passes: Sequence[Pass]) -> None:
        """Run the passes, as far as they get."""
        try:
            run_each(passes, self._context, self._step)
        except Exception as error:  # it may be what is looked for, or follow from that
            self._crash = error

    def _step(self, step: Pass, context: PassContext) -> bool:
        before, counter, moment = self._graph.clone(), DebugCounter(), now()
        context = replace(context, counter=counter)
        returned = dict(self._graph.outputs)
        try:
            return step.apply(self._graph, context).changed
        finally:  # the pass may have edited the graph, whatever it says of itself
            changed = self._graph.is_edited_since(moment) or self._graph.outputs != returned
            self._steps.append(_Step(step, context, before, changed, counter.count))

    # -- which pass

    def first_fault(self, progress: Callable[[str], None]) -> int | None:
        """The position of the first pass after which something is wrong, from 0."""
        ends = len(self._steps) - (self._crash is not None)
        for tolerant in (True, False):  # a small error of an exact pass hides in what others may round
            for start, end in self._stretches(ends, tolerant):
                if self._reason(start, end):
                    progress(f"the fault is in one of {end - start} passes")
                    return self._search(start, end)
        if isinstance(self._crash, TargetError):  # a backend refuses a graph that was made rightly
            raise self._crash
        return None if self._crash is None else ends

    def _stretches(self, ends: int, tolerant: bool) -> list[tuple[int, int]]:
        """The stretches of passes to check: lossy passes, and rounding ones too if not tolerant, stand alone.

        Stretches in which no pass changed anything are left out.
        """
        apart = {Effect.LOSSY} if tolerant else {Effect.LOSSY, Effect.ROUNDING}
        cuts = {0, ends}
        for index, step in enumerate(self._steps[:ends]):
            if step.effect in apart:
                cuts |= {index, index + 1}
        rows = sorted(cuts)
        return [row for row in pairwise(rows) if any(step.changed for step in self._steps[slice(*row)])]

    def _search(self, start: int, end: int) -> int:
        good, bad = start, end
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (good, middle) if self._reason(start, middle) else (middle, bad)
        return bad - 1

    def _reason(self, start: int, end: int) -> str:
        """What is wrong between two boundaries, by the weakest promise of the passes between; empty if nothing is."""
        changing = [step.step for step in self._steps[start:end] if step.changed]
        if not changing:
            return ""
        weakest = max(changing, key=lambda step: _ORDER.index(step.effect))
        return self._fault(self._boundary(end), weakest, self._reference(start), end)

    def _fault(self, graph: Graph, step: Pass, reference: Yardstick, boundary: int | None = None) -> str:
        self._checks += 1
        try:
            verify(graph)
            outputs = self._check.run(graph, step)
            if boundary is not None:
                self._known[boundary] = Yardstick(graph, self._check.probes, outputs)
            self._check.compare(reference, outputs, graph, step)
        except PlanishError as error:
            return str(error)
        return ""

    def _boundary(self, index: int) -> Graph:
        return self._steps[index].graph if index < len(self._steps) else self._graph

    def _reference(self, boundary: int) -> Yardstick:
        if boundary not in self._known:
            self._checks += 1
            graph = self._boundary(boundary)
            outputs = self._check.run(graph, self._steps[boundary - 1].step)
            self._known[boundary] = Yardstick(graph, self._check.probes, outputs)
        return self._known[boundary]

    # -- which rewrite in it

    def rewrite_at_fault(self, position: int, progress: Callable[[str], None]) -> Fault:
        """Find the first application of a pass after which something is wrong."""
        faulty = self._steps[position]
        good, bad = 0, faulty.applications
        reason = self._again(position, None)
        while bad - good > 1:
            progress(f"the fault is among {bad - good} rewrites of {faulty.step.name}")
            middle = (good + bad) // 2
            found = self._again(position, middle)
            good, bad, reason = (good, middle, found) if found else (middle, bad, reason)
        last = self._last
        assert last is not None  # a pass that goes wrong was started
        return Fault(
            step=format_pass(faulty.step),
            position=position + 1,
            rewrite=last.rewrite,
            node=last.node,
            number=bad,
            applications=sum(step.applications for step in self._steps),
            reason=reason,
            checks=self._checks,
        )

    def _again(self, position: int, limit: int | None) -> str:
        """Run a pass again with a limit; returns what is wrong after it."""
        faulty = self._steps[position]
        counter = DebugCounter(limit)
        graph = faulty.graph.clone()
        try:
            faulty.step.apply(graph, replace(faulty.context, counter=counter))
        except Exception as error:  # a crash is a fault as well
            self._checks += 1
            reason = str(error) if isinstance(error, CheckError) else f"{type(error).__name__}: {error}"
        else:
            reason = self._fault(graph, faulty.step, self._reference(position))
        if reason:
            self._last = counter.last
        return reason


_ORDER = (Effect.EXACT, Effect.ROUNDING, Effect.LOSSY)
"""The effects in order, from the strongest promise to the weakest."""
