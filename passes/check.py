"""The numeric check: does a graph, after a pass, still mean what its source meant?"""

from collections.abc import Sequence

import numpy as np

from ..ir.errors import CheckError, ModelError
from ..ir.graph import Graph
from ..ir.numerics import Outputs, drift, is_close, is_float, largest_difference
from .base import Effect, Feeds, Pass, PassContext
from .probes import make_probes, run_edges, run_graph
from .verification import DEFAULT, Verification
from .yardstick import Yardstick


class NumericCheck:
    """Compares a graph with its source, pass by pass.

    An EXACT pass is held to the outputs before it, a ROUNDING pass to those after the last LOSSY one, so that errors
    neither add up nor hide behind the loss; a LOSSY pass is held to its own `max_drift`. The edge values of the first
    probe are compared as well, where a model takes them, but say nothing about what is lossy or quantized: no data
    looks like that. Nor do they say anything of a ROUNDING pass where the source itself moves beyond the tolerance by
    rounding.

    Where a model decides something by its numbers, such as which boxes it returns, graphs that decide differently are
    run again with the reference's decisions (`decisions.Replay`), and judged by what they give then.

    Attributes:
        source: the graph before any pass.
        probes: the inputs on which the graphs are compared, edge values last.
        start: the source and its outputs on the probes.
    """

    def __init__(self, source: Graph, probes: Sequence[Feeds], verification: Verification = DEFAULT) -> None:
        self.source = source
        self._tolerance = verification.tolerance
        self._inputs = _inputs(source)
        self._outputs = list(source.outputs)
        self._count = len(probes)
        edges, outputs = run_edges(source, probes[0]) if probes and verification.edges else ([], [])
        self.probes = [*probes, *edges]
        try:
            expected, self._types_hold = run_graph(source, probes, held_to_types=True), True
        except CheckError:  # dimensions that are declared equal differ at a probe's sizes: no pass is to blame
            expected, self._types_hold = run_graph(source, probes), False
        self.start = self._reference = self._previous = Yardstick(source, self.probes, [*expected, *outputs])

    @classmethod
    def of(cls, context: PassContext, verification: Verification) -> "NumericCheck":
        """The check of passes that run in a context."""
        source = context.source
        made = () if context.probes else make_probes(source, context.calibration, context.seed, verification.probes)
        return cls(source, context.probes or made, verification)

    def resume(self, reference: Graph | None, graph: Graph) -> None:
        """Go on after passes that have run already and were found right.

        Args:
            reference: the graph after the last LOSSY one of these passes; None where none was lossy.
            graph: the graph after all of these passes.
        """
        if reference is not None:
            self._reference = Yardstick(reference, self.probes, run_graph(reference, self.probes))
        self._previous = Yardstick(self._reference.graph, self.probes, run_graph(graph, self.probes))

    def check(self, graph: Graph, step: Pass) -> float:
        """The drift from the source after a pass.

        Raises:
            CheckError: the outputs moved further than the pass declares; it names the pass and the output.
        """
        outputs = self.run(graph, step)
        self.compare(self._previous if step.effect is Effect.EXACT else self._reference, outputs, graph, step)
        if step.effect is Effect.LOSSY:
            self._reference = Yardstick(graph.clone(), self.probes, outputs)
        self._previous = Yardstick(
            self._reference.graph, self.probes, outputs
        )  # an exact pass is held to outputs alone
        return self._moved(self.start, graph, outputs)

    def compare(self, reference: Yardstick, outputs: Sequence[Outputs], graph: Graph, step: Pass) -> None:
        """Compare the outputs after a pass with those of a reference, within what the pass may move them.

        Args:
            reference: the graph whose outputs count as right.
            outputs: the outputs of the graph after the pass.
            graph: the graph as the pass left it.
            step: the pass.

        Raises:
            CheckError: the outputs moved too far; the error names the pass and the output.
        """
        fault = self._fault(reference, outputs, graph, step)
        if fault and step.effect is not Effect.EXACT and reference.decides:
            alike = reference.decided_alike(graph, forced=step.effect is Effect.LOSSY)
            fault = self._fault(reference, alike, graph, step)
        if fault:
            raise CheckError(fault)
        moved = self._moved(reference, graph, outputs) if step.effect is Effect.LOSSY else 0.0
        if not moved <= step.max_drift:
            raise CheckError(
                f"pass {step.name} moved the outputs by {moved:.3g} (relative error), more than the {step.max_drift:g} "
                "that is plausible for it; ask less of it or exclude the sensitive layers (skip=)"
            )

    def _moved(self, reference: Yardstick, graph: Graph, outputs: Sequence[Outputs]) -> float:
        """The drift of a graph from a reference on the probes that aren't edge values, given the same decisions."""
        moved = drift(reference.outputs[: self._count], outputs[: self._count])
        if moved > self._tolerance.rtol and reference.decides:
            alike = reference.decided_alike(graph, forced=True)
            return min(moved, drift(reference.outputs[: self._count], alike[: self._count]))
        return moved

    def _fault(self, reference: Yardstick, outputs: Sequence[Outputs], graph: Graph, step: Pass) -> str:
        """What is wrong with the outputs after a pass; empty where nothing is."""
        found = Yardstick(graph, self.probes[: self._count], outputs[: self._count])
        is_rounding = step.effect is Effect.ROUNDING
        rounding = found.rounding if is_rounding else {}
        for number, (expected, got) in enumerate(zip(reference.outputs, outputs, strict=True)):
            is_edge = number >= self._count
            if is_edge and (rounding or step.effect is Effect.LOSSY):
                continue
            for name, wanted in expected.items():
                scaled = self._tolerance.rtol if is_edge and is_float(wanted) else 0.0
                result = got.get(name)
                fault = self._difference(wanted, result, step, rounding.get(name, scaled))
                is_off = is_rounding and result is not None and result.shape == wanted.shape
                if fault and is_off and is_float(wanted):
                    fault = self._difference(wanted, result, step, slack=reference.slack(number, name, self._tolerance))
                is_doubtful = bool(fault) and is_edge and is_rounding and "NaN" not in fault
                if is_doubtful and not reference.is_steady(number, self._tolerance):
                    break  # where any rounding changes everything, edge values say nothing
                if fault:
                    where = "edge values" if is_edge else f"probe {number}"
                    return (
                        f"pass {step.name} declares itself {step.effect.value}, but output {name!r} {fault} "
                        f"on {where}; the pass is wrong for this model: leave it out, or report it"
                    )
        return ""

    def _difference(
        self, expected: np.ndarray, got: np.ndarray | None, step: Pass, rounding: float = 0.0, slack: float = 0.0
    ) -> str:
        """What is wrong with an output; empty where nothing is."""
        if got is None:
            return "is missing"
        if expected.shape != got.shape or expected.dtype != got.dtype:
            return f"was {expected.dtype}{list(expected.shape)} and is {got.dtype}{list(got.shape)}"
        if expected.dtype == object:
            return "" if np.array_equal(expected, got) else "has other texts"
        if is_float(got) and np.any(np.isnan(got) & ~np.isnan(expected)):
            return "has become NaN"
        if step.effect is Effect.EXACT and not np.array_equal(expected, got, equal_nan=is_float(expected)):
            return f"differs by up to {largest_difference(expected, got):.3g}"
        if step.effect is Effect.ROUNDING and not is_close(
            expected, got, rounding, tolerance=self._tolerance, slack=slack
        ):
            return f"differs by up to {largest_difference(expected, got):.3g}, beyond {self._tolerance}"
        return ""

    def run(self, graph: Graph, step: Pass) -> list[Outputs]:
        """The outputs after a pass; the graph must take what the source takes and return what it returns."""
        if _inputs(graph) != self._inputs:
            raise CheckError(f"pass {step.name} changed the model's inputs from {self._inputs} to {_inputs(graph)}")
        if list(graph.outputs) != self._outputs:
            raise CheckError(
                f"pass {step.name} changed the model's outputs from {self._outputs} to {list(graph.outputs)}"
            )
        try:
            return run_graph(graph, self.probes, held_to_types=self._types_hold)
        except CheckError as error:
            raise CheckError(f"pass {step.name} left a graph whose types are wrong: {error}") from error
        except ModelError as error:
            raise CheckError(f"pass {step.name} left a graph that doesn't run: {error}") from error


def _inputs(graph: Graph) -> str:
    return ", ".join(map(repr, graph.inputs)) or "none"
