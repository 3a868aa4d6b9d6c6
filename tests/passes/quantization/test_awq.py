"""Activation-aware scaling computes what it did, and lets rounding do less harm where some activations are large."""

from collections.abc import Mapping

import numpy as np
import pytest
from random_graphs.checks import unequal
from random_graphs.graphs import recipe, sample

from planish.ir.block_weight import BlockScheme, BlockWeight
from planish.ir.errors import UsageError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift
from planish.ir.text import print_graph
from planish.ir.verify import verify
from planish.passes.base import PassContext, PassResult
from planish.passes.probes import run_graph
from planish.passes.quantization.awq import Awq
from planish.passes.quantization.layers import select_layers
from planish.passes.quantization.weights import quantize_weights
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
TARGET = load_target("x86-64-avx512-vnni")
OUTLIERS = np.where(np.arange(64) % 16, 1, 30).astype(np.float32)
BLOCK = """(%x: float32[batch, length, 64]) {
  const %scale: float32[64]
  const %q: float32[64, 64]
  const %k: float32[64, 32]
  const %v: float32[64, 32]
  const %o: float32[64, 64]
  const %scale2: float32[64]
  const %shift2: float32[64]
  const %gate: float32[64, 96]
  const %up: float32[64, 96]
  const %bias: float32[96]
  const %down: float32[96, 64]
  %a: float32[batch, length, 64] = RMSNormalization(%x, %scale) {axis = -1, epsilon = 1e-05}
  %b: float32[batch, length, 64] = MatMul(%a, %q) @ "q"
  %c: float32[batch, length, 32] = MatMul(%a, %k) @ "k"
  %d: float32[batch, length, 32] = MatMul(%a, %v) @ "v"
  %e: float32[batch, length, 64] = Attention(%b, %c, %d) {kv_num_heads = 2, q_num_heads = 4}
  %f: float32[batch, length, 64] = MatMul(%e, %o) @ "o"
  %g: float32[batch, length, 64] = Add(%x, %f)
  %h: float32[batch, length, 64] = LayerNormalization(%g, %scale2, %shift2) {axis = -1, epsilon = 1e-05}
  %i: float32[batch, length, 96] = MatMul(%h, %gate) @ "gate"
  %j: float32[batch, length, 96] = Sigmoid(%i)
  %l: float32[batch, length, 96] = MatMul(%h, %up) @ "up"
  %m: float32[batch, length, 96] = Add(%l, %bias)
  %n: float32[batch, length, 96] = Mul(%j, %m)
  %y: float32[batch, length, 64] = MatMul(%n, %down) @ "down"
  return y = %y
}"""
RELU = """(%x: float32[rows, 64]) {
  const %w: float32[64, 96]
  const %b: float32[96]
  const %v: float32[32, 96]
  %a: float32[rows, 96] = Gemm(%x, %w, %b) @ "first"
  %c: float32[rows, 96] = Relu(%a)
  %y: float32[rows, 32] = Gemm(%c, %v) {transB = 1} @ "second"
  return y = %y
}"""


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def block_weights() -> dict[str, np.ndarray]:
    """Some channels of what layers read are large, as in language models."""
    weights = {"scale": OUTLIERS, "scale2": OUTLIERS, "shift2": normal(64), "bias": normal(96)}
    weights |= {name: normal(64, width) / 8 for name, width in {"q": 64, "k": 32, "o": 64, "gate": 96}.items()}
    wide = np.geomspace(0.1, 10, 96, dtype=np.float32)
    return weights | {"v": normal(64, 32) * wide[::3] / 8, "up": normal(64, 96) * wide / 8, "down": normal(96, 64)}


def texts(count: int = 8) -> list[Mapping[str, np.ndarray]]:
    return [{"x": normal(2, 24, 64)} for _ in range(count)]


def applied(graph: Graph, calibration: list[Mapping[str, np.ndarray]], **options) -> PassResult:
    result = Awq(**options).apply(graph, PassContext(TARGET, graph.clone(), calibration=calibration))
    verify(graph)
    return result


def rounded(graph: Graph, scheme: BlockScheme) -> Graph:
    copy = graph.clone()
    layers = select_layers(copy, frozenset({"MatMul", "Gemm"}), PassContext(TARGET, copy)).layers
    quantize_weights(copy, layers, {layer.key: BlockWeight.nearest(layer.matrix, scheme) for layer in layers})
    return copy


def drift_on(feeds: Mapping[str, np.ndarray], source: Graph, graph: Graph) -> float:
    return drift([Interpreter(source).run(feeds)], [Interpreter(graph).run(feeds)])


@pytest.mark.parametrize("bits", [3, 4])
def test_a_transformer_block_computes_the_same_and_is_rounded_with_less_error(graph_of, bits: int) -> None:
    """Norms, the values of attention that heads share, and a product with a bias take the scales back."""
    graph = graph_of(BLOCK, block_weights())
    source, feeds = graph.clone(), texts(1)[0]
    result = applied(graph, texts(), bits=bits, block=32)
    assert result.counts == {"scaled": 4}, result.misses
    assert not result.misses
    assert drift_on(feeds, source, graph) < 1e-5
    scheme = BlockScheme(bits, 32)
    plain, scaled = (drift_on(feeds, source, rounded(made, scheme)) for made in (source, graph))
    assert scaled < 0.8 * plain


def test_a_relu_lets_scales_through(graph_of) -> None:
    wide = np.geomspace(0.03, 30, 96, dtype=np.float32)
    graph = graph_of(RELU, {"w": normal(64, 96) * wide, "b": normal(96) * wide, "v": normal(32, 96)})
    source = graph.clone()
    result = applied(graph, [{"x": normal(50, 64)} for _ in range(4)], block=32)
    assert result.counts == {"scaled": 1}
    assert result.misses == ["first: its channels aren't scaled: they come from outside the graph"]
    feeds = {"x": normal(50, 64)}
    assert drift_on(feeds, source, graph) < 1e-5


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("return y = %y", "return y = %y, a = %a", "others read the same values"),
        ("return y = %y", "return y = %y, d = %d", "others read what they come from"),
        ("return y = %y", "return y = %y, m = %m", "others read what they come from"),
    ],
)
def test_what_others_read_keeps_its_scale(graph_of, old: str, new: str, reason: str) -> None:
    graph = graph_of(BLOCK.replace(old, new), block_weights())
    source, feeds = graph.clone(), texts(1)[0]
    result = applied(graph, texts(), block=32)
    assert result.counts == {"scaled": 3}
    assert [miss.rpartition(": ")[2] for miss in result.misses] == [reason]
    assert drift_on(feeds, source, graph) < 1e-5


def test_channels_whose_scales_gain_nothing_stay_as_they_are(graph_of) -> None:
    """Weights of 0 and 1 lie on every grid."""
    graph = graph_of(RELU, {"w": normal(64, 96), "b": normal(96), "v": np.float32(normal(32, 96) > 0)})
    before = print_graph(graph)
    result = applied(graph, [{"x": normal(50, 64)} for _ in range(4)], block=32, bits=2)
    assert not result.changed
    assert "second: its channels aren't scaled: nothing is gained on held-out inputs" in result.misses
    assert print_graph(graph) == before


def test_without_data_it_is_refused(graph_of) -> None:
    with pytest.raises(UsageError, match="awq needs to know what layers read and got no inputs"):
        applied(graph_of(BLOCK, block_weights()), [])


@pytest.mark.wide
@pytest.mark.parametrize("number", range(12))
def test_random_graphs_compute_what_they_did(number: int) -> None:
    """Their own probes are the calibration data."""
    given = sample(recipe(number))
    graph = given.graph.clone()
    Awq(block=16, bits=2).apply(graph, PassContext(TARGET, given.graph, calibration=given.probes))
    verify(graph)
    outputs = run_graph(graph, given.probes, held_to_types=True)
    assert not unequal(given, given.outputs, outputs, is_exact=False)
