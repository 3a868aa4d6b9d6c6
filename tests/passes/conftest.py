"""Tests of passes are graphs as text, before and after; whatever a pass leaves must compute what it computed."""

from collections.abc import Callable, Mapping
from typing import ClassVar, TypeAlias

import numpy as np
import pytest

from planish.ir.dims import evaluate
from planish.ir.equal import differences
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.reinfer import reinfer
from planish.ir.text import parse_graph, print_graph
from planish.ir.types import TensorType
from planish.ir.verify import verify
from planish.passes.base import Effect, Feeds, Pass, PassContext, PassResult
from planish.passes.pipeline import parse_pipeline
from planish.targets.load import load_target

Weights: TypeAlias = Mapping[str, np.ndarray]
Check: TypeAlias = Callable[..., PassResult]

SIZES = {"batch": 3, "length": 5, "width": 4}


def read(text: str, weights: Weights) -> Graph:
    """The graph of a text without its first words; its types must be those that inference gives."""
    graph = parse_graph(f'graph "main"{text}', weights)
    verify(graph)
    inferred = graph.clone()
    reinfer(inferred)
    assert print_graph(inferred) == print_graph(graph), "the types in the test's text are wrong"
    return graph


def random_feeds(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Normal floats; integers from 0 to 3; truth values."""
    generator = np.random.default_rng(seed)

    def random(type: TensorType) -> np.ndarray:
        shape = [evaluate(dim, SIZES) for dim in type.shape]
        floats = generator.standard_normal(shape) if type.dtype.is_float else generator.integers(0, 4, shape)
        return floats.astype(type.dtype.numpy)

    return {value.name: random(value.type) for value in graph.inputs}


def outputs_of(graph: Graph, feeds: Feeds) -> dict[str, np.ndarray]:
    return Interpreter(graph).run(feeds)


def context_of(source: Graph) -> PassContext:
    return PassContext(load_target("x86-64"), source)


def becomes(pipeline: str, before: str, after: str, weights: Weights | None = None) -> PassResult:
    """Hold a pass to its text before and after, to the numbers, and to finding nothing when it is run again.

    Returns:
        What the first run said.
    """
    (step,) = parse_pipeline(pipeline)
    graph = read(before, weights or {})
    source = graph.clone()
    result = step.apply(graph, context_of(source))
    verify(graph)
    assert print_graph(graph) == print_graph(read(after, weights or {}))
    assert result.changed == bool(differences(source, graph)), result.counts

    again = step.apply(graph, context_of(source))
    assert not again.changed, f"run again, it does more: {again.counts}"
    assert print_graph(graph) == print_graph(read(after, weights or {}))

    feeds = random_feeds(source)
    wanted, got = outputs_of(source, feeds), outputs_of(graph, feeds)
    for name, array in wanted.items():
        if step.effect is Effect.EXACT or array.dtype.kind != "f":
            np.testing.assert_array_equal(got[name], array)
        else:
            epsilon = np.finfo(array.dtype).eps
            np.testing.assert_allclose(got[name], array, rtol=1e3 * epsilon, atol=1e2 * epsilon)
    return result


def stays(pipeline: str, text: str, weights: Weights | None = None) -> PassResult:
    """Hold a pass to leaving a graph alone."""
    return becomes(pipeline, text, text, weights)


@pytest.fixture(name="becomes", scope="session")
def becomes_fixture() -> Check:
    """`becomes(pass, before, after)`: the pass turns one text into the other, and keeps what it computes."""
    return becomes


@pytest.fixture(name="stays", scope="session")
def stays_fixture() -> Check:
    """`stays(pass, text)`: the pass leaves the graph alone; its result tells why."""
    return stays


@pytest.fixture(scope="session")
def context() -> Callable[[Graph], PassContext]:
    """The surroundings of a pass on a graph, without data."""
    return context_of


@pytest.fixture(scope="session")
def graph_of() -> Callable[..., Graph]:
    """The graph of a text such as `(%x: float32[2]) {...}`."""
    return lambda text, weights=None: read(text, weights or {})


@pytest.fixture(scope="session")
def feeds_of() -> Callable[..., dict[str, np.ndarray]]:
    """Random inputs for a graph, by a seed."""
    return random_feeds


class _Tested(Pass):
    """Does nothing: tests edit the graph themselves, and have a check judge it as this pass's work."""

    name: ClassVar[str] = "tested"

    def __init__(self, effect: Effect, max_drift: float) -> None:
        self.effect = effect  # type: ignore[misc]
        self.max_drift = max_drift  # type: ignore[misc]

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        return PassResult()


@pytest.fixture(scope="session")
def tested() -> Callable[..., Pass]:
    """A pass that declares an effect."""
    return lambda effect, max_drift=1.0: _Tested(effect, max_drift)
