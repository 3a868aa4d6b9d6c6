"""The pass manager: runs passes in order, and after each one verifies the graph and checks its numbers."""

import gc
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from traceback import extract_tb, walk_tb

from ..ir.errors import CheckError, ModelError, PassError, PlanishError, UsageError
from ..ir.graph import Graph, nested_nodes, now
from ..ir.operators import has_trait
from ..ir.traits import Trait
from ..ir.verify import verify
from .allocator import kept_memory
from .base import GraphwisePass, Pass, PassContext, PassResult
from .check import NumericCheck
from .group import Group
from .instrument import Instrument, PassRecord
from .order import check_order, flattened
from .pipeline import format_pass, pass_classes
from .rewrite import RewritePass
from .verification import Verification

_MOST_MISSES = 5
_MOST_LAYERS = 3
_LAYERS = Trait.CONTRACTING | Trait.RECURRENT


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where a pipeline that has run in part goes on.

    Attributes:
        done: how many of the pipeline's steps have run, and were found right.
        reference: the graph after the last LOSSY pass among these; None where none was lossy.
        drift: the drift of the graph's outputs from the source's after these steps; None if it wasn't checked.
    """

    done: int
    reference: Graph | None
    drift: float | None


class PassManager:
    """Runs a pipeline over a graph.

    Args:
        passes: the passes in order.
        instruments: the instruments that watch the run.
        verify: what is checked after each pass: a `Verification`, or a text that stands for one.
    """

    def __init__(
        self,
        passes: Sequence[Pass],
        instruments: Sequence[Instrument] = (),
        verify: Verification | str = "numeric",
    ) -> None:
        self.passes = passes
        self.instruments = instruments
        self.verification = Verification.of(verify)

    def run(self, graph: Graph, context: PassContext, resumption: Resumption | None = None) -> tuple[PassRecord, ...]:
        """Run all passes on a graph, in place.

        Args:
            graph: the graph to rewrite.
            context: what the passes may ask about their surroundings.
            resumption: the point to go on from, if some passes have run on the graph already; None to run all.

        Raises:
            UsageError: the order of the passes contradicts what they declare, one lacks something, or one that is
                required changed nothing.
            CheckError: after some pass the graph is malformed or means something else.
            PassError: a pass of the user's or of another package crashed.
        """
        check_order(self.passes, tuple(pass_classes().values()))
        for step in flattened(self.passes):
            step.require(context)
        with _unswept(), kept_memory():
            return self._run_all(graph, context, resumption)

    def _run_all(self, graph: Graph, context: PassContext, resumption: Resumption | None) -> tuple[PassRecord, ...]:
        if self.verification.level != "none":
            verify(graph)
        self._tell(lambda instrument: instrument.start(graph, context))
        judge = _Judge(graph, context, self.verification, resumption)
        done = 0 if resumption is None else resumption.done
        records: list[PassRecord] = []
        try:
            for number, step in enumerate(self.passes[done:], done + 1):
                self._run(step, graph, context, judge, records)
                self._tell(lambda instrument, number=number: instrument.reached(number, graph))
        except BaseException:
            with suppress(Exception):  # what went wrong first is what the user has to know
                self._tell(lambda instrument: instrument.finish())
            raise
        self._tell(lambda instrument: instrument.finish())
        return tuple(records)

    def _run(self, step: Pass, graph: Graph, context: PassContext, judge: "_Judge", records: list[PassRecord]) -> bool:
        """Run a pass, or those of a group one by one, and append their records; returns whether anything changed."""
        before = len(records)
        if isinstance(step, Group):
            narrowed = context.narrowed(step.only, step.skip)
            step.schedule(lambda inner: self._run(inner, graph, narrowed, judge, records))
        else:
            records.append(self._step(step, graph, context, judge))
        results = [record.result for record in records[before:]]
        changed = any(result.changed for result in results)
        if step.required and not changed and not context.counter.is_over:
            told = [it for result in results for it in (*result.notes, *result.misses)]
            raise UsageError(_unchanged(step, told + _out_of_reach(step, graph)))
        return changed

    def _step(self, step: Pass, graph: Graph, context: PassContext, judge: "_Judge") -> PassRecord:
        self._tell(lambda instrument: instrument.before(step, graph))
        start = time.perf_counter()
        result = _result(step, graph, context)
        seconds = time.perf_counter() - start
        judge.hold(step, lambda: self._tell(lambda instrument: instrument.ran(step, graph)))
        record = PassRecord(format_pass(step), step.name, step.effect, result, seconds, len(graph), judge.drift)
        self._tell(lambda instrument: instrument.after(record, graph))
        return record

    def _tell(self, hook: Callable[[Instrument], None]) -> None:
        for instrument in self.instruments:
            try:
                hook(instrument)
            except PlanishError:
                raise
            except Exception as error:
                if _package(type(instrument).__module__) == _package(__name__):
                    raise
                raise ModelError(_failed(instrument, error)) from error


@contextmanager
def _unswept() -> Generator[None]:
    """Keep Python's garbage collector from going through all objects that exist already, the graph above all.

    A pass makes as many objects as the graph has nodes, so that the collector would search the whole heap for cycles
    once or twice in a pipeline, which takes longer than some passes. What is made meanwhile is collected as ever.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _failed(instrument: Instrument, error: Exception) -> str:
    """The error message for an instrument of the user's that raised, as for other functions of theirs."""
    kind, frame = type(instrument), extract_tb(error.__traceback__)[-1]
    reason = f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
    return f"the instrument {kind.__module__}:{kind.__qualname__} failed: {reason}"


class _Judge:
    """Checks a graph after each pass that edited it, whatever the pass says of itself.

    Attributes:
        drift: the drift of the graph's outputs from the source's; None if it isn't checked.
    """

    def __init__(
        self, graph: Graph, context: PassContext, verification: Verification, resumption: Resumption | None
    ) -> None:
        self._graph = graph
        self._resumed = None if resumption is None else (resumption.reference, graph.clone())
        self._context = context
        self._verification = verification
        self._moment = now()
        self._returned = dict(graph.outputs)
        start = 0.0 if resumption is None else resumption.drift
        self.drift = start if verification.level == "numeric" else None

    def hold(self, step: Pass, verified: Callable[[], None]) -> None:
        """Check the graph after a pass.

        Args:
            step: the pass.
            verified: called when the graph is known to be well formed, before its numbers are checked.
        """
        is_edited = self._graph.is_edited_since(self._moment) or self._graph.outputs != self._returned
        if is_edited and self._verification.level != "none":
            _verify_after(step, self._graph)
        verified()
        if not is_edited:
            return
        if self._verification.level == "numeric":
            self.drift = self._check.check(self._graph, step)
        self._moment, self._returned = now(), dict(self._graph.outputs)

    @cached_property
    def _check(self) -> NumericCheck:
        """The numeric check, made once and only when needed, since it runs the source."""
        check = NumericCheck.of(self._context, self._verification)
        if self._resumed is not None:
            check.resume(*self._resumed)
        return check


def _unchanged(step: Pass, told: Sequence[str]) -> str:
    """The error message for a required pass that changed nothing: the reasons, each with its layers."""
    layers: dict[str, list[str]] = {}
    for sentence in told:
        layer, colon, reason = sentence.partition(": ")
        layers.setdefault(reason if colon else sentence, []).extend([layer] if colon else [])
    reasons = [f"{reason} ({_some(names)})" if names else reason for reason, names in layers.items()]
    text = "".join(f"\n  {reason}" for reason in reasons[:_MOST_MISSES])
    found = f"pass {format_pass(step)} is required, but changed nothing" + (f":{text}" if text else "")
    return f"{found}\nrequired=false lets it change nothing"


def _out_of_reach(step: Pass, graph: Graph) -> list[str]:
    """A sentence on each node that holds layers in graphs of its own, which few passes look at."""
    if isinstance(step, GraphwisePass):
        return []
    hint = "; if an input decides between branches, give it a value: model.onnx{input=value}"
    return [
        f"{node.location}: layers inside {node.operator} stay as they are{hint if node.operator == 'If' else ''}"
        for node in graph.nodes
        if any(has_trait(it.operator, _LAYERS) for inner in node.graphs for it in nested_nodes(inner))
    ]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LAYERS
    return ", ".join(names[:_MOST_LAYERS]) + (f" and {more} more" if more > 0 else "")


def _result(step: Pass, graph: Graph, context: PassContext) -> PassResult:
    try:
        return step.apply(graph, context)
    except (CheckError, ModelError) as error:  # a UsageError is about the pass's options, and names it
        raise type(error)(f"pass {step.name}: {str(error).removeprefix(f'{step.name}: ')}") from error
    except PlanishError:
        raise
    except Exception as error:
        if place := _place(step, error):
            raise PassError(f"pass {format_pass(step)} failed: {type(error).__name__}: {error} ({place})") from error
        error.add_note(f"in the pass {format_pass(step)}")
        raise


def _place(step: Pass, error: Exception) -> str:
    """The file and line of another package's pass or rule that raised, or called what did; empty for planish's own."""
    authors = other_packages(step)
    places = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in walk_tb(error.__traceback__)
        if _package(frame.f_globals["__name__"]) in authors
    ]
    return places[-1] if places else ""


def other_packages(step: Pass) -> set[str]:
    """The packages, other than planish, that a pass and its rules come from."""
    rules = step.rules if isinstance(step, RewritePass) else ()
    functions = [function for rule in rules for function in (rule.pattern, rule.replacement, rule.check)]
    return {_package(author.__module__) for author in (type(step), *functions)} - {_package(__name__)}


def _package(module: str) -> str:
    return module.partition(".")[0]


def _verify_after(step: Pass, graph: Graph) -> None:
    try:
        verify(graph)
    except PlanishError as error:
        raise type(error)(f"pass {step.name} left a malformed graph: {error}") from error
