"""The pass manager: runs passes in order, and after each one verifies the graph and checks its numbers."""

import time
from collections.abc import Sequence
from enum import Enum

from ..ir.analysis.cost import summarize
from ..ir.errors import CheckError, ModelError, PlanishError
from ..ir.graph import Graph
from ..ir.verify import verify
from .base import Pass, PassContext, PassResult
from .check import NumericCheck, make_probes
from .group import Group
from .instrument import Instrument, PassRecord
from .order import check_order
from .pipeline import format_pass, pass_classes

_MOST_MISSES = 5


class Verify(Enum):
    """How much is checked after every pass."""

    NONE = "none"
    STRUCTURE = "structure"
    NUMERIC = "numeric"


class PassManager:
    """Runs a pipeline over a graph.

    Args:
        passes: in order.
        instruments: what watches.
        verify: what is checked after each pass.
    """

    def __init__(
        self, passes: Sequence[Pass], instruments: Sequence[Instrument] = (), verify: Verify = Verify.NUMERIC
    ) -> None:
        self.passes = passes
        self.instruments = instruments
        self.verify = verify

    def run(self, graph: Graph, context: PassContext) -> tuple[PassRecord, ...]:
        """Run all passes on a graph, in place.

        Raises:
            UsageError: the order of the passes contradicts what they declare.
            CheckError: after some pass the graph is malformed or means something else, or a required pass changed nothing.
        """
        check_order(self.passes, tuple(pass_classes().values()))
        check = None
        if self.verify is not Verify.NONE:
            verify(graph)
        if self.verify is Verify.NUMERIC and self.passes:
            check = NumericCheck(context.source, make_probes(context.source, context.calibration, context.seed))
        for instrument in self.instruments:
            instrument.start(graph)
        records: list[PassRecord] = []
        for step in self.passes:
            self._run(step, graph, context, check, records)
        return tuple(records)

    def _run(
        self, step: Pass, graph: Graph, context: PassContext, check: NumericCheck | None, records: list[PassRecord]
    ) -> bool:
        """Run a pass, or those of a group one by one, and add what happened; returns whether anything changed."""
        before = len(records)
        if isinstance(step, Group):
            narrowed = context.narrowed(step.only, step.skip)
            step.schedule(lambda inner: self._run(inner, graph, narrowed, check, records))
        else:
            records.append(self._step(step, graph, context, check))
        results = [record.result for record in records[before:]]
        changed = any(result.changed for result in results)
        if step.required and not changed:
            raise CheckError(_unchanged(step, [miss for result in results for miss in result.misses]))
        return changed

    def _step(self, step: Pass, graph: Graph, context: PassContext, check: NumericCheck | None) -> PassRecord:
        for instrument in self.instruments:
            instrument.before(step, graph)
        start = time.perf_counter()
        result = _result(step, graph, context)
        seconds = time.perf_counter() - start
        if self.verify is not Verify.NONE:
            _verify_after(step, graph)
        drift = None if check is None else check.check(graph, step)
        cost = summarize(graph, context.sizes)
        record = PassRecord(format_pass(step), step.name, step.effect, result, seconds, cost, drift)
        for instrument in self.instruments:
            instrument.after(record, graph)
        return record


def _unchanged(step: Pass, misses: Sequence[str]) -> str:
    reasons = "".join(f"\n  {miss}" for miss in misses[:_MOST_MISSES])
    return f"pass {format_pass(step)} is required, but changed nothing" + (f":{reasons}" if reasons else "")


def _result(step: Pass, graph: Graph, context: PassContext) -> PassResult:
    try:
        return step.apply(graph, context)
    except (CheckError, ModelError) as error:  # those of usage are about the pass's options, and name it
        raise type(error)(f"pass {step.name}: {str(error).removeprefix(f'{step.name}: ')}") from error
    except Exception as error:
        error.add_note(f"in the pass {format_pass(step)}")
        raise


def _verify_after(step: Pass, graph: Graph) -> None:
    try:
        verify(graph)
    except PlanishError as error:
        raise type(error)(f"pass {step.name} left a malformed graph: {error}") from error
