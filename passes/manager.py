"""The pass manager: runs passes in order, and after each one verifies the graph and checks its numbers."""

import time
from collections.abc import Sequence
from enum import Enum

from ..ir.analysis.cost import summarize
from ..ir.errors import CheckError, ModelError, PlanishError, UsageError
from ..ir.graph import Graph
from ..ir.verify import verify
from .base import Pass, PassContext, PassResult
from .check import NumericCheck, make_probes
from .instrument import Instrument, PassRecord
from .pipeline import format_pass


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
            CheckError: after some pass the graph is malformed or means something else.
        """
        _check_order(self.passes)
        check = None
        if self.verify is not Verify.NONE:
            verify(graph)
        if self.verify is Verify.NUMERIC and self.passes:
            check = NumericCheck(context.source, make_probes(context.source, context.calibration, context.seed))
        for instrument in self.instruments:
            instrument.start(graph)
        return tuple(self._step(step, graph, context, check) for step in self.passes)

    def _step(self, step: Pass, graph: Graph, context: PassContext, check: NumericCheck | None) -> PassRecord:
        for instrument in self.instruments:
            instrument.before(step, graph)
        start = time.perf_counter()
        result = _run(step, graph, context)
        seconds = time.perf_counter() - start
        if self.verify is not Verify.NONE:
            _verify_after(step, graph)
        drift = None if check is None else check.check(graph, step)
        cost = summarize(graph, context.sizes)
        record = PassRecord(format_pass(step), step.name, step.effect, result, seconds, cost, drift)
        for instrument in self.instruments:
            instrument.after(record, graph)
        return record


def _run(step: Pass, graph: Graph, context: PassContext) -> PassResult:
    try:
        return step.run(graph, context)
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


def _check_order(passes: Sequence[Pass]) -> None:
    """A pass must not come before another that it declares to come after."""
    names = [step.name for step in passes]
    for index, step in enumerate(passes):
        late = [needed for needed in step.after if needed in names and needed not in names[:index]]
        if late:
            raise UsageError(f"{step.name} must come after {', '.join(late)}, but the pipeline has it before")
