"""Tuned scales bring a rounded model closer to its source on inputs that it wasn't tuned on, and codes stay."""

from collections.abc import Mapping

import numpy as np
import pytest

from planish.ir.block_weight import BlockScheme, BlockWeight
from planish.ir.errors import UsageError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift
from planish.ir.verify import verify
from planish.passes.base import PassContext, PassResult
from planish.passes.distillation.tune_scales import ScaleTuning
from planish.passes.quantization.layers import select_layers
from planish.passes.quantization.weights import quantize_weights
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
TARGET = load_target("x86-64-avx512-vnni")
NET = """(%x: float32[rows, 64]) {
  const %scale: float32[64]
  const %w: float32[64, 96]
  const %v: float32[96, 32]
  %a: float32[rows, 64] = RMSNormalization(%x, %scale) {axis = -1, epsilon = 1e-05} @ "norm"
  %b: float32[rows, 96] = MatMul(%a, %w) @ "first"
  %c: float32[rows, 96] = Relu(%b)
  %y: float32[rows, 32] = MatMul(%c, %v) @ "second"
  return y = %y
}"""


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


@pytest.fixture
def source(graph_of) -> Graph:
    return graph_of(NET, {"scale": np.abs(normal(64)), "w": normal(64, 96) / 8, "v": normal(96, 32) / 8})


def rounded(source: Graph) -> Graph:
    graph = source.clone()
    layers = select_layers(graph, frozenset({"MatMul"}), PassContext(TARGET, graph)).layers
    quantize_weights(
        graph, layers, {layer.key: BlockWeight.nearest(layer.matrix, BlockScheme(3, 32)) for layer in layers}
    )
    return graph


def batches(count: int) -> list[Mapping[str, np.ndarray]]:
    return [{"x": normal(64, 64)} for _ in range(count)]


def applied(source: Graph, graph: Graph, calibration: list[Mapping[str, np.ndarray]], **options) -> PassResult:
    result = ScaleTuning(**options).apply(graph, PassContext(TARGET, source, calibration=calibration))
    verify(graph)
    return result


@pytest.mark.parametrize(("loss", "precision"), [("kl", "float32"), ("mse", "float32"), ("kl", "bfloat16")])
def test_outputs_come_back_to_the_source_s_and_codes_stay(source: Graph, loss: str, precision: str) -> None:
    graph, feeds = rounded(source), batches(1)[0]
    before = graph.clone()
    result = applied(source, graph, batches(20), loss=loss, precision=precision, iterations=60, lr=5e-3)
    assert result.counts == {"scales": 3}
    drifts = [drift([Interpreter(source).run(feeds)], [Interpreter(made).run(feeds)]) for made in (before, graph)]
    assert drifts[1] < 0.9 * drifts[0]
    for name, constant in graph.constants.items():
        is_tuned = name.endswith("scales") or name == "scale"
        assert is_tuned != np.array_equal(constant.data, before.constants[name].data)


def test_what_is_not_selected_stays(source: Graph) -> None:
    graph = rounded(source)
    before = graph.clone()
    assert applied(source, graph, batches(8), skip=("first", "norm"), iterations=4).counts == {"scales": 1}
    np.testing.assert_array_equal(graph.constants["w.scales"].data, before.constants["w.scales"].data)


def test_what_does_worse_on_held_out_batches_is_given_up(source: Graph) -> None:
    graph = rounded(source)
    before = graph.clone()
    result = applied(source, graph, batches(4), iterations=3, lr=0.9)
    assert not result.changed
    assert result.misses[0].startswith("tuning didn't lower the loss on held-out batches")
    for name, constant in graph.constants.items():
        np.testing.assert_array_equal(constant.data, before.constants[name].data)


def test_one_batch_is_too_few(source: Graph) -> None:
    with pytest.raises(UsageError, match="tune-scales learns from some batches and is judged by others, and got 1"):
        applied(source, rounded(source), batches(1))
