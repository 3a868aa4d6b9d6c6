"""The numeric check: does a graph, after a pass, still mean what its source meant?"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ..ir.builder import Builder
from ..ir.dims import Dim, evaluate, symbols
from ..ir.errors import CheckError, ModelError
from ..ir.graph import Constant, Graph, Value
from ..ir.limits import check_types
from ..ir.types import DType
from .base import Effect, Feeds, Pass
from .categories import of_categories
from .legalization.integers import ROW_QUANTIZER

RTOL, ATOL = 1e-3, 1e-4
"""The float tolerance that ROUNDING passes and backends are held to."""

ROUNDING_FLOOR = 0.01
"""The relative error that the floats of a graph which rounds coarsely are allowed at the least."""

_NUDGES = (1 - 1e-6, 1 + 1e-6)
_QUANTIZERS = frozenset({"DynamicQuantizeLinear", "QuantizeLinear", ROW_QUANTIZER})

_PROBE_SIZES = (2, 16, 64, 224)

_EDGES = (0.0, -0.0, 1.0, -1.0)
_FAR_EDGES = (1e-6, -1e-6, 32.0, -32.0)
"""For elements of more than 16 bits: where functions are all but linear, and where they saturate."""

Outputs = Mapping[str, np.ndarray]


def run_graph(graph: Graph, probes: Sequence[Feeds], *, held_to_types: bool = False) -> list[Outputs]:
    """The graph's outputs on each probe, from the interpreter.

    Args:
        graph: to run.
        probes: its inputs.
        held_to_types: whether every tensor must have the shape that its type declares.

    Raises:
        ModelError: a node fails; the layer is named.
        CheckError: a tensor has another shape.
    """
    from ..ir.interpreter import Interpreter  # brings torch, which listing the passes must not

    interpreter = Interpreter(graph)
    return [flattened(interpreter.run(probe, _Shapes(graph) if held_to_types else None)) for probe in probes]


class _Shapes:
    """Holds the tensors of one run to the shapes of their types, with each symbol standing for one size."""

    def __init__(self, graph: Graph) -> None:
        self._own = {
            *graph.inputs,
            *(value for node in graph.nodes for value in node.outputs),
        }  # not those inside nodes
        self._sizes: dict[str, int] = {}

    def __call__(self, value: Value, tensor: Any) -> None:
        if value not in self._own or value.type.dims is None:
            return
        shape = tuple(tensor.shape)
        if len(shape) != len(value.type.dims) or not all(map(self._fits, value.type.dims, shape)):
            where = "" if value.producer is None else f" of {value.producer.location}"
            raise CheckError(f"{value!r}{where} came out with the shape {list(shape)}: its type is wrong")

    def _fits(self, dim: Dim, size: int) -> bool:
        """Whether a dimension may be of a size; a symbol that is met for the first time may."""
        if isinstance(dim, str) and symbols(dim) == frozenset((dim,)):
            return self._sizes.setdefault(dim, size) == size
        if not self._sizes.keys() >= symbols(dim):
            return True
        return evaluate(dim, self._sizes) == size


def flattened(outputs: Mapping[str, Any]) -> Outputs:
    """Outputs as arrays alone: those of a sequence one by one, maps by key, an optional that holds nothing not at all."""
    flat: dict[str, np.ndarray] = {}
    for name, held in outputs.items():
        if isinstance(held, list) and held and isinstance(held[0], dict):
            flat.update((f"{name}[{key!r}]", np.array([row[key] for row in held], np.float32)) for key in held[0])
        elif isinstance(held, list):
            flat.update((f"{name}[{index}]", array) for index, array in enumerate(held))
        elif held is not None:
            flat[name] = held
    return flat


def drift(reference: Sequence[Outputs], actual: Sequence[Outputs]) -> float:
    """The largest relative error of any output, as the ratio of L2 norms over all probes: 0 for equal, 1 for unrelated.

    Of what isn't float, such as classes, it is the share that differs. Places where the reference itself is not finite
    (masks) don't count.
    """
    return max((_relative_error(name, reference, actual) for name in reference[0]), default=0.0) if reference else 0.0


def _relative_error(name: str, reference: Sequence[Outputs], actual: Sequence[Outputs]) -> float:
    if not _is_float(reference[0][name]):
        pairs = zip(reference, actual, strict=True)
        differing = np.concatenate([(expected[name] != got[name]).reshape(-1) for expected, got in pairs])
        return float(np.mean(differing)) if differing.size else 0.0
    error = norm = 0.0
    for expected, got in zip(reference, actual, strict=True):
        finite = np.isfinite(expected[name].astype(np.float64))
        wanted = expected[name].astype(np.float64)[finite]
        error += float(np.sum((got[name].astype(np.float64)[finite] - wanted) ** 2))
        norm += float(np.sum(wanted**2))
    if error == 0.0:
        return 0.0
    return float(np.sqrt(error / norm)) if norm and np.isfinite(error) else float("inf")


class NumericCheck:
    """Compares a graph with its source, pass by pass.

    An EXACT pass is held to the outputs before it, a ROUNDING pass to those after the last LOSSY one, so that errors
    neither add up nor hide behind the loss; a LOSSY pass is held to its own `max_drift`. The edge values of the first probe
    are compared as well, where a model takes them, but say nothing about what is lossy or quantized: no data looks like that.

    Attributes:
        source: the graph before any pass.
        probes: the inputs on which the graphs are compared, edge values last.
        outputs: of the source on them.
    """

    def __init__(self, source: Graph, probes: Sequence[Feeds]) -> None:
        self.source = source
        self._inputs = _inputs(source)
        self._outputs = list(source.outputs)
        self._count = len(probes)
        edges, outputs = run_edges(source, probes[0]) if probes else ([], [])
        self.probes = [*probes, *edges]
        try:
            expected, self._types_hold = run_graph(source, probes, held_to_types=True), True
        except CheckError:  # dimensions that it takes to agree don't at a probe's sizes, for which no pass is to blame
            expected, self._types_hold = run_graph(source, probes), False
        self.outputs = [*expected, *outputs]
        self._reference = self.outputs
        self._previous = self.outputs

    def check(self, graph: Graph, step: Pass) -> float:
        """The drift from the source after a pass.

        Raises:
            CheckError: the outputs moved further than the pass declares; it names the pass and the output.
        """
        outputs = self.run(graph, step)
        reference = self._previous if step.effect is Effect.EXACT else self._reference
        self.compare(reference, outputs, graph, step)
        if step.effect is Effect.LOSSY:
            self._reference = outputs
        self._previous = outputs
        return self._drift(self.outputs, outputs)

    def _drift(self, reference: Sequence[Outputs], outputs: Sequence[Outputs]) -> float:
        return drift(reference[: self._count], outputs[: self._count])

    def compare(self, reference: Sequence[Outputs], outputs: Sequence[Outputs], graph: Graph, step: Pass) -> None:
        """Hold outputs to others, as far as a pass may move them.

        Args:
            reference: those that are right.
            outputs: of the graph.
            graph: as the pass left it.
            step: the pass.

        Raises:
            CheckError: naming the pass and the output.
        """
        probes, found = self.probes[: self._count], outputs[: self._count]
        rounding = rounding_of(graph, probes, found) if step.effect is Effect.ROUNDING else {}
        for number, (expected, got) in enumerate(zip(reference, outputs, strict=True)):
            is_edge = number >= self._count
            if is_edge and (rounding or step.effect is Effect.LOSSY):
                continue
            for name in expected:
                scaled = RTOL if is_edge and _is_float(expected[name]) else 0.0
                fault = _fault(expected[name], got[name], step, rounding.get(name, scaled))
                if fault:
                    where = "edge values" if is_edge else f"probe {number}"
                    raise CheckError(
                        f"pass {step.name} declares itself {step.effect.value}, but output {name!r} {fault} "
                        f"on {where}; the pass is wrong for this model: leave it out, or report it"
                    )
        moved = self._drift(reference, outputs) if step.effect is Effect.LOSSY else 0.0
        if not moved <= step.max_drift:
            raise CheckError(
                f"pass {step.name} moved the outputs by {moved:.3g} (relative error), more than the {step.max_drift:g} "
                "that is plausible for it; ask less of it or exclude the sensitive layers (skip=)"
            )

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


def _is_float(array: np.ndarray) -> bool:
    return DType.of(array.dtype).is_float


def _fault(expected: np.ndarray, got: np.ndarray, step: Pass, rounding: float) -> str:
    """What is wrong with an output, or nothing."""
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return f"was {expected.dtype}{list(expected.shape)} and is {got.dtype}{list(got.shape)}"
    if expected.dtype == object:
        return "" if np.array_equal(expected, got) else "has other texts"
    if _is_float(got) and np.any(np.isnan(got) & ~np.isnan(expected)):
        return "has become NaN"
    if step.effect is Effect.EXACT and not np.array_equal(expected, got, equal_nan=_is_float(expected)):
        return f"differs by up to {_largest_difference(expected, got):.3g}"
    if step.effect is Effect.ROUNDING and not is_close(expected, got, rounding):
        return f"differs by up to {_largest_difference(expected, got):.3g}, beyond rtol {RTOL:g} and atol {ATOL:g}"
    return ""


def is_close(expected: np.ndarray, got: np.ndarray, rounding: float = 0.0) -> bool:
    """Whether two results agree within float tolerance or, where that is given, a relative error of rounding."""
    if rounding:
        return drift([{"": expected}], [{"": got}]) <= rounding
    if expected.dtype == object:
        return np.array_equal(expected, got)
    return bool(np.allclose(got, expected, rtol=RTOL, atol=ATOL, equal_nan=_is_float(expected)))


def _largest_difference(expected: np.ndarray, got: np.ndarray) -> float:
    return float(np.nanmax(np.abs(expected.astype(np.float64) - got.astype(np.float64)), initial=0.0))


def rounding_of(graph: Graph, probes: Sequence[Feeds], outputs: Sequence[Outputs]) -> dict[str, float]:
    """The relative error that each output of a graph which rounds coarsely may have in a correct run; empty for others.

    An activation that falls on the other side of a rounding is a step of the grid off, and the layers after it round what
    follows from that anew. How far this carries depends on the model, so it is measured: all that is quantized is nudged
    by one part in a million, as much as adding in another order does, and twice the largest move is allowed.

    Args:
        graph: that is run.
        probes: its inputs.
        outputs: the interpreter's on them.
    """
    if not any("Quantize" in node.operator or any(map(_is_short, node.outputs)) for node in graph.nodes):
        return {}
    nudged = [run_graph(_nudged(graph, factor), probes) for factor in _NUDGES]
    return {
        name: max(2 * _largest_move(name, outputs, nudged), ROUNDING_FLOOR if _is_float(array) else 0.0)
        for name, array in (outputs[0].items() if outputs else ())
    }


def _largest_move(name: str, outputs: Sequence[Outputs], runs: Sequence[Sequence[Outputs]]) -> float:
    pairs = [pair for run in runs for pair in zip(outputs, run, strict=True)]
    return max((_relative_error(name, [expected], [moved]) for expected, moved in pairs), default=0.0)


def _nudged(graph: Graph, factor: float) -> Graph:
    """A copy in which whatever is quantized at run time is scaled by a factor first."""
    copy = graph.clone()
    for node in copy.nodes:
        value = node.input(0)
        if node.operator in _QUANTIZERS and not isinstance(value, Constant):
            copy.set_input(node, 0, Builder(copy, before=node).Mul(value, factor))
    return copy


def _is_short(value: Value) -> bool:
    """Whether a value is a float of 16 bits or fewer, rounded to a grid as coarse as that of integers."""
    return value.dtype.is_float and value.dtype.bits <= 16


def make_probes(
    graph: Graph, calibration: Sequence[Feeds], seed: int = 0, count: int = 2, *, held_to_types: bool = False
) -> list[Feeds]:
    """Inputs for the numeric check: real ones where there is calibration data, random ones otherwise.

    Args:
        graph: that runs on them.
        calibration: the real ones.
        seed: of the random ones.
        count: of the real ones.
        held_to_types: whether random ones are of sizes at which every tensor has the shape that its type declares.

    Raises:
        ModelError: the graph runs on none of the sizes tried for its symbolic dimensions.
    """
    if calibration:
        return list(calibration[:count])
    generator = np.random.default_rng(seed)
    reason = ""
    for size in _PROBE_SIZES:
        try:
            probes = [{value.name: _random(value, size + step, generator) for value in graph.inputs} for step in (0, 1)]
            probes = [of_categories(graph, probe, generator) for probe in probes]
            run_graph(graph, probes, held_to_types=held_to_types)
        except (ModelError, CheckError) as error:
            reason = str(error)
            continue
        return list(probes)
    raise ModelError(f"the model runs on no random input ({reason}); give calibration data to check it on")


def run_edges(graph: Graph, probe: Feeds) -> tuple[list[Feeds], list[Outputs]]:
    """A probe's shapes with edge values and what a graph gives for them; nothing if it doesn't run on them.

    Half of the floats, and of few all, are zeros of both signs, ones, and numbers so small or large that functions are linear or saturate;
    the rest is the probe's. Whole numbers are zeros, or, where the model doesn't take these, the probe's.
    """
    generator = np.random.default_rng(0)
    floats = {name: _at_edges(array, generator) for name, array in probe.items() if _is_float(array)}
    zeros = {name: np.zeros_like(array) for name, array in probe.items() if array.dtype.kind in "biu"}
    for edges in ({**probe, **zeros, **floats}, {**probe, **floats}):
        with suppress(ModelError):
            return [edges], run_graph(graph, [edges])
    return [], []


def _at_edges(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    edges = _EDGES if DType.of(array.dtype).bits <= 16 else _EDGES + _FAR_EDGES
    places = generator.permutation(array.size)[: max(len(edges), array.size // 2)]
    flat = array.flatten()
    flat[places] = np.resize(edges, len(places))
    return flat.reshape(array.shape)


def _random(value: Value, size: int, generator: np.random.Generator) -> np.ndarray:
    """A random array for an input.

    Raises:
        ModelError: the input is no tensor of a known rank, or would take too much memory.
    """
    check_types([value.type], dict.fromkeys(value.type.symbols, size), f"input {value.name!r}")
    shape = [evaluate(dim, dict.fromkeys(symbols(dim), size)) for dim in value.shape]
    return random_array(value.dtype, shape, generator)


def random_array(dtype: DType, shape: Sequence[int], generator: np.random.Generator) -> np.ndarray:
    """A random array for an input: normal floats; ints of 0 and 1, which are valid as indices and as masks, or their digits."""
    if dtype is DType.string:
        return generator.integers(0, 2, shape).astype(str).astype(object)
    if not dtype.is_float:
        return generator.integers(0, 2, shape).astype(dtype.numpy)
    numbers = generator.standard_normal(shape)
    return (np.abs(numbers) if dtype is DType.float8_e8m0fnu else numbers).astype(dtype.numpy)  # powers have no sign
