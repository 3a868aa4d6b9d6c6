"""What a pass is held to on a graph."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import torch

import planish.backends  # noqa: F401 -- legalization asks them what they run
from planish.ir.equal import differences
from planish.ir.errors import PlanishError, TargetError, UsageError
from planish.ir.graph import Graph, Value, nested_nodes
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import Outputs, flattened
from planish.ir.text import parse_graph, print_graph, weights
from planish.ir.types import DType
from planish.ir.verify import verify
from planish.passes.base import Effect, Pass, PassContext
from planish.passes.fixpoint import Fixpoint
from planish.passes.group import Group
from planish.passes.legalization.legalize import Legalization
from planish.passes.pipeline import parse_pipeline, pass_classes
from planish.passes.probes import run_graph
from planish.targets.load import load_target

from .conditioning import ill_conditioned
from .graphs import Sample
from .unspecified import unspecified

_TARGET = replace(load_target("x86-64"), fused={"onnxruntime": frozenset()})
"""It has no fused kernels, so that `legalize` spells all of them out."""


FOR_TVM = Legalization(backend="tvm")


def _is_free_of_data(step: Pass) -> bool:
    """Whether a pass runs without calibration data; one that needs it may find more when it is run again."""
    try:
        step.require(PassContext(_TARGET, Graph()))
    except UsageError:
        return False
    return True


_KEPT = [kind for kind in pass_classes().values() if kind.effect is not Effect.LOSSY and not issubclass(kind, Group)]

KEEPING: list[Pass] = [
    *(step for step in (kind() for kind in _KEPT) if _is_free_of_data(step)),
    FOR_TVM,
    Fixpoint(steps=parse_pipeline("cleanup")),
]
"""All passes that keep what a graph computes, whatever the graph."""


class Broken(AssertionError):  # noqa: N818 -- a finding about a pass
    """A pass didn't keep its word."""


@dataclass(frozen=True, slots=True)
class State:
    """A graph between passes, and what it computes on the sample's probes."""

    graph: Graph
    outputs: Sequence[Outputs]


def shuffled(steps: Sequence[Pass], sample: Sample) -> list[Pass]:
    """Passes in a sample's own order."""
    return Random(sample.recipe.seed).sample(steps, len(steps))


def after_all(sample: Sample, backend: str, left_out: frozenset[Pass] = frozenset()) -> Graph:
    """What passes in a sample's own order make of its graph for a backend, none of them held to anything.

    They are all but other backends' legalization: what is spelled out for one may be refused by another. Those that
    refuse the graph are left out, and the others begin anew.
    """
    graph, context = sample.graph.clone(), PassContext(_TARGET, sample.graph)
    for step in shuffled(KEEPING, sample):
        if step in left_out or (isinstance(step, Legalization) and step.backend != backend):
            continue
        try:
            step.apply(graph, context)
        except TargetError:
            return after_all(sample, backend, left_out | {step})
    return graph


def hold_outputs(sample: Sample, graph: Graph) -> list[str]:
    """Hold what passes made of a sample's graph to what it computed before them, and its tensors to their types.

    What is spelled out may differ where the backend that it is for does, and docs/edges.md says so.

    Returns:
        Why outputs differ that rounding inside of one operator decides on.

    Raises:
        Broken: it computes something else.
        PlanishError: it doesn't run, or a type is wrong.
    """
    verify(graph)
    outputs = run_graph(graph, sample.probes, held_to_types=True)
    if not differing(sample, outputs):
        return []
    free = unspecified(sample)
    rounded = decided_by_rounding(sample, outputs, free)
    if different := differing(sample, outputs, {**free, **rounded}):
        raise Broken(f"after all passes: {different}\n{print_graph(graph)}")
    return list(rounded.values())


def passed(step: Pass, sample: Sample, state: State) -> State | None:
    """What a pass that is held to its word makes of a copy of a graph; None if it changed nothing, or refused by name.

    Args:
        step: the pass.
        sample: the graph as it was at first, and what it has to compute.
        state: the sample's state, or what other passes made of it.

    Raises:
        Broken: the pass did not keep its word.
    """
    graph, context = state.graph.clone(), PassContext(_TARGET, sample.graph)
    try:
        result = step.apply(graph, context)
    except TargetError:
        return None
    found = differences(state.graph, graph)
    if result.changed != bool(found):
        raise Broken(f"{step.name} says {dict(result.counts)}, and changed {found[:3]}")
    if not result.changed:
        return None
    try:
        graph.verified = 0
        verify(graph)
        outputs = run_graph(graph, sample.probes, held_to_types=True)
    except PlanishError as error:
        raise Broken(f"after {step.name}: {error}\n{print_graph(graph)}") from error
    is_exact = step.effect is Effect.EXACT
    wanted = state.outputs if is_exact else sample.outputs
    if different := unequal(sample, wanted, outputs, is_exact=is_exact):
        raise Broken(f"after {step.name}: {different}\n{print_graph(graph)}")
    if found := differences(graph, parse_graph(print_graph(graph), weights(graph))):
        raise Broken(f"what {step.name} leaves reads back as another graph: {found[:3]}")
    if (more := step.apply(graph.clone(), context)).changed:
        raise Broken(f"{step.name} run again does more: {dict(more.counts)}\n{print_graph(graph)}")
    return State(graph, outputs)


def differing(sample: Sample, outputs: Sequence[Outputs], free: Collection[str] = ()) -> str:
    """How outputs differ from the sample's by more than rounding, those left out that are free to; empty if none do."""
    wanted, got = (
        [{name: run[name] for name in run if name not in free} for run in runs] for runs in (sample.outputs, outputs)
    )
    return unequal(sample, wanted, got, is_exact=False)


def decided_by_rounding(sample: Sample, outputs: Sequence[Outputs], free: Collection[str] = ()) -> dict[str, str]:
    """The outputs that differ from the sample's for no more than what rounding inside of one operator explains.

    Args:
        sample: the graph, and what it computes.
        outputs: the outputs that something else computes.
        free: outputs that may differ anyway.

    Returns:
        The outputs by name, each with the reason.
    """
    names = sample.outputs[0].keys()
    apart = [name for name in names if name not in free and differing(sample, outputs, names - {name})]
    return ill_conditioned(sample, outputs, apart)


def unequal(sample: Sample, reference: Sequence[Outputs], outputs: Sequence[Outputs], *, is_exact: bool) -> str:
    """How outputs differ from others; empty if they don't or, unless they must be equal, rounding may explain it."""
    for number, (wanted, got) in enumerate(zip(reference, outputs, strict=True)):
        if wanted.keys() != got.keys():
            return f"{sorted(got)} is returned instead of {sorted(wanted)}"
        for name, array in wanted.items():
            if (array.dtype, array.shape) != (got[name].dtype, got[name].shape):
                return f"{name} is {got[name].dtype}{got[name].shape} instead of {array.dtype}{array.shape}"
            if is_exact and not same(array, got[name]):
                return f"{name} of probe {number} is {got[name]} instead of {array}"
    if is_exact:
        return ""
    return next(_beyond_rounding(sample, reference, outputs), "")


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are equal, NaN to NaN."""
    return np.array_equal(a, b, equal_nan=a.dtype.kind != "O" and (DType.of(a.dtype).is_float or a.dtype.kind == "c"))


_NOISE = (1 - 3e-6, 1 + 2e-6, 1 + 5e-6)
_RTOL = 1e-4


def _beyond_rounding(sample: Sample, reference: Sequence[Outputs], outputs: Sequence[Outputs]) -> Iterator[str]:
    """Outputs that differ by more than they do when all that the source computes is a few parts in a million off."""
    noisy: list[Sequence[Outputs]] = []
    nodes = list(nested_nodes(sample.graph))
    is_quantized = any(word in node.operator for node in nodes for word in ("Quantize", "QLinear"))
    for number, (wanted, got) in enumerate(zip(reference, outputs, strict=True)):
        for name, array in wanted.items():
            if same(array, got[name]) or _is_near(array, got[name], ()):
                continue
            noisy = noisy or [_noisy_run(sample, factor) for factor in _NOISE]
            others = [run[number].get(name) for run in noisy]
            if is_quantized and _is_a_step_off(array, got[name]):
                continue
            if not _is_near(array, got[name], others):
                yield f"{name} of probe {number} is {got[name]} instead of {array}"


def _is_a_step_off(wanted: np.ndarray, got: np.ndarray) -> bool:
    """Whether integers differ by one step of their grid at most, as halves rounded inside of an operator do."""
    return wanted.dtype.kind in "iu" and bool(np.all(np.abs(wanted.astype(np.int64) - got.astype(np.int64)) <= 1))


def _is_near(wanted: np.ndarray, got: np.ndarray, others: Sequence[np.ndarray | None]) -> bool:
    if any(other is None or other.shape != wanted.shape for other in others):
        return True  # its very shape is a matter of rounding
    if not DType.of(wanted.dtype).is_float:
        return not all(same(wanted, other) for other in others if other is not None)
    exact, found = wanted.astype(np.float64), got.astype(np.float64)
    moves = [np.abs(other.astype(np.float64) - exact) for other in others if other is not None]
    finite = np.isfinite(exact)  # what is infinite or NaN may be the other
    move = 50 * np.max(moves, 0, initial=0.0)
    step = max(_RTOL, 8 * float(np.finfo(wanted.dtype).eps)) if wanted.dtype.kind == "f" else 2**-4
    largest = np.max(np.abs(exact), initial=0.0, where=finite)
    with np.errstate(invalid="ignore"):
        near = np.abs(found - exact) <= move + step * (np.abs(exact) + largest)
    return bool(np.all(near | ~finite | ~np.isfinite(move)))


def _noisy_run(sample: Sample, factor: float) -> Sequence[Outputs]:
    """The outputs of a sample where every float that a node computes is multiplied by about a factor."""
    interpreter = Interpreter(sample.graph)
    try:
        return [flattened(interpreter.run(probe, _Noise(factor))) for probe in sample.probes]
    except PlanishError:
        return [{} for _ in sample.probes]


class _Noise:
    """Multiplies floats by a factor, by more the fewer bits they have, and every other tensor by less than one.

    Elements are by factors of their own: of equal ones, sums that cancel would still do.
    """

    def __init__(self, factor: float) -> None:
        self._noise = factor - 1
        self._random = np.random.default_rng(round(1e6 * factor))

    def __call__(self, value: Value, tensor: Any) -> Any:
        if value.producer is None or not value.dtype.is_float or value.dtype.bits < 16:
            return None
        grain = float(np.finfo(value.dtype.numpy).eps) if not value.dtype.is_foreign else 2**-7
        noise = self._noise * max(1.0, grain / 1e-6)
        self._noise = -self._noise
        factors = np.asarray(1 + noise * self._random.uniform(0.5, 1.0, tuple(tensor.shape)))
        return tensor * torch.from_numpy(factors).to(tensor)
