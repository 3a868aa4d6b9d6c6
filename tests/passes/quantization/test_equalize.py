"""Equalization: a channel that hardly reaches beyond 0 no longer drowns in the steps of one that reaches far."""

import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.graph import Graph, Value
from planish.ir.numerics import drift
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.passes.base import PassContext
from planish.passes.probes import run_graph
from planish.passes.quantization.equalize import Equalization
from planish.passes.quantization.layers import select_layers
from planish.passes.quantization.plan import make_plan
from planish.passes.quantization.quantize import Quantize
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
WIDE = np.geomspace(1, 300, 8).astype(np.float32)
OPERATORS = frozenset({"Conv"})
TARGET = load_target("x86-64-avx512-vnni")


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def batches() -> list[dict[str, np.ndarray]]:
    return [{"x": array(2, 3, 9, 9)} for _ in range(4)]


def network(between: str, *, group: int = 8, is_read_elsewhere: bool = False) -> Graph:
    """Two convolutions, the first with channels of very different reach, and something between them."""
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 3, 9, 9)))
    reach = np.ones(8, np.float32) if between == "affine" else WIDE
    first = op.Conv(x, array(8, 3, 3, 3) * reach[:, None, None, None], array(8) * reach, pads=(1, 1, 1, 1))
    inner = _between(op, first, between)
    own = WIDE.reshape(group, -1).repeat(8 // group, axis=0)[..., None, None]
    graph.outputs["y"] = op.Conv(inner, array(8, 8 // group, 3, 3) / own, array(8), group=group, pads=(1, 1, 1, 1))
    if is_read_elsewhere:
        graph.outputs["z"] = op.Exp(inner)
    return graph


def _between(op: Builder, x: Value, between: str) -> Value:
    match between:
        case "Relu" | "GlobalAveragePool" | "Sigmoid":
            return op(between, x)
        case "Clip":
            return op.Clip(x, 0.0, 1000.0)
        case "affine":
            return op.Add(op.Mul(op.HardSwish(x), WIDE[:, None, None]), np.full(1, -0.3, np.float32))
        case "gate":
            return op.Mul(op.HardSwish(x), op.Sigmoid(op.GlobalAveragePool(x)))
        case _:
            return x


def equalized(source: Graph, data: list[dict[str, np.ndarray]]) -> tuple[Graph, int]:
    graph = source.clone()
    context = PassContext(TARGET, source, data)
    layers = select_layers(graph, OPERATORS, context).layers
    assert TARGET.int8 is not None
    even = Equalization(graph, layers, make_plan(graph, layers, OPERATORS), data, TARGET.int8)
    even.fit(context)
    _, count = even.apply(context)
    verify(graph)
    return graph, count


def quantized(source: Graph, data: list[dict[str, np.ndarray]], **options: bool) -> Graph:
    graph = source.clone()
    Quantize(**options).run(graph, PassContext(TARGET, source, data))
    return graph


@pytest.mark.parametrize("group", [1, 2, 8])
@pytest.mark.parametrize("between", ["nothing", "Relu", "Clip", "GlobalAveragePool", "affine", "gate"])
def test_the_network_computes_what_it_did(between: str, group: int):
    source, data = network(between, group=group), batches()
    graph, count = equalized(source, data)
    assert count == 1
    seen = data[:2]  # a Clip may cut what is beyond the ranges of these
    assert drift(run_graph(source, seen), run_graph(graph, seen)) < 1e-5


@pytest.mark.parametrize("between", ["nothing", "Relu", "affine"])
def test_a_depthwise_convolution_loses_less(between: str):
    source, data = network(between), batches()
    held_out = batches()
    exact = run_graph(source, held_out)
    plain, even = (run_graph(quantized(source, data, equalize=on), held_out) for on in (False, True))
    assert drift(exact, even) < drift(exact, plain) / 3


@pytest.mark.parametrize("between", ["affine", "nothing", "Relu", "Clip"])
def test_no_node_is_added(between: str):
    source = network(between)
    graph, _ = equalized(source, batches())
    assert [node.operator for node in graph.nodes] == [node.operator for node in source.nodes]


def residual(*, leaves: bool = False) -> Graph:
    """A sum of two convolutions of one image, which a third one and perhaps others read."""
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 3, 9, 9)))
    reach = WIDE[:, None, None, None]
    first = op.Relu(op.Conv(x, array(8, 3, 3, 3) * reach, array(8) * WIDE))
    second = op.Conv(first, array(8, 8, 1, 1) / WIDE[:, None, None] * reach, array(8) * WIDE)
    total = op.Relu(op.Add(first, second))
    graph.outputs["y"] = op.Conv(total, array(4, 8, 3, 3) / WIDE[:, None, None], array(4))
    if leaves:
        graph.outputs["z"] = first
    return graph


def test_the_terms_of_a_sum_have_the_same_factors():
    source, data = residual(), batches()
    graph, count = equalized(source, data)
    assert count == 1
    assert drift(run_graph(source, data), run_graph(graph, data)) < 1e-5
    exact = run_graph(source, data)
    plain, even = (run_graph(quantized(source, data, equalize=on), data) for on in (False, True))
    assert drift(exact, even) < drift(exact, plain)


def test_a_sum_with_what_the_model_returns_stays():
    assert equalized(residual(leaves=True), batches())[1] == 0


def test_values_that_are_not_finite_change_nothing():
    source, data = network("Relu"), batches()
    data[0]["x"][0, 0, 0, 0] = np.inf
    assert equalized(source, data)[1] == 0


def test_what_others_read_stays():
    assert equalized(network("Relu", is_read_elsewhere=True), batches())[1] == 0


def test_no_factor_passes_through_a_sigmoid():
    assert equalized(network("Sigmoid"), batches())[1] == 0


def test_one_batch_is_enough():
    source, data = network("Relu"), batches()[:1]
    assert equalized(source, data)[1] == 1
