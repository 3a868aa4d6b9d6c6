"""Weights in int8 by GPTQ: less error than rounding each by itself; rounding where it does better."""

import numpy as np
import pytest

from planish.ir.graph import Graph
from planish.ir.numerics import drift
from planish.ir.quantization import quantize_weight
from planish.ir.verify import verify
from planish.passes.base import PassContext, PassResult
from planish.passes.probes import run_graph
from planish.passes.quantization.compensate import compensate
from planish.passes.quantization.layers import select_layers
from planish.passes.quantization.quantize import Quantize
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
TARGET = load_target("x86-64-avx512-vnni")
MIXING = np.random.default_rng(2).standard_normal((6, 48), np.float32)
LAYERS = """(%x: float32[rows, 48]) {
  const %w: float32[48, 64]
  const %v: float32[24, 64]
  const %b: float32[24]
  %a: float32[rows, 64] = MatMul(%x, %w) @ "first"
  %c: float32[rows, 64] = Relu(%a) @ "first"
  %y: float32[rows, 24] = Gemm(%c, %v, %b) {transB = 1} @ "second"
  return y = %y
}"""


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def batches(count: int) -> list[dict[str, np.ndarray]]:
    """Inputs of a few directions and some noise, as activations of networks are."""
    return [{"x": normal(64, 6) @ MIXING + 0.02 * normal(64, 48)} for _ in range(count)]


@pytest.fixture
def layers(graph_of) -> Graph:
    return graph_of(LAYERS, {"w": normal(48, 64), "v": normal(24, 64), "b": normal(24)})


def quantized(source: Graph, data: list, **options) -> tuple[Graph, PassResult]:
    graph = source.clone()
    result = Quantize(**options).apply(graph, PassContext(TARGET, source, data))
    verify(graph)
    return graph, result


@pytest.mark.parametrize("bits", [7, 8])
def test_weights_have_a_scale_for_each_channel_and_move_outputs_less(layers: Graph, bits: int) -> None:
    context = PassContext(TARGET, layers, batches(8))
    chosen = select_layers(layers, frozenset({"MatMul", "Gemm"}), context).layers
    weights, misses = compensate(layers, chosen, bits, context.calibration, context)
    assert not misses
    for layer in chosen:
        found = weights[layer.key]
        assert found.data.shape == layer.weight.data.shape
        assert found.scale.shape == (layer.weight.data.shape[layer.axis],)
        assert -(2 ** (bits - 1)) <= found.data.min() <= found.data.max() < 2 ** (bits - 1)
    first, x = chosen[0], batches(1)[0]["x"]
    errors = [
        np.square(x @ (made.data * made.scale - first.weight.data)).sum()
        for made in (weights[first.key], quantize_weight(first.weight.data, first.axis, bits))
    ]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("options", [{}, {"scheme": "int8-dynamic"}, {"scheme": "int8-dynamic", "per_row": True}])
def test_all_schemes_take_what_it_rounded(layers: Graph, options: dict) -> None:
    graph, result = quantized(layers, batches(8), **options)
    assert result.counts["gptq"] == 2
    held_out = batches(2)
    assert drift(run_graph(layers, held_out), run_graph(graph, held_out)) < 0.05


def test_without_data_dynamic_grids_are_made_as_ever(layers: Graph) -> None:
    _, result = quantized(layers, [], scheme="int8-dynamic")
    assert result.counts["gptq"] == 0
    assert result.counts["layers"] == 2


def test_what_it_does_not_improve_is_rounded_and_named(graph_of) -> None:
    """Those held out have nothing in common with the others."""
    layer = graph_of(
        """(%x: float32[rows, 48]) {
  const %w: float32[48, 64]
  %y: float32[rows, 64] = MatMul(%x, %w) @ "only"
  return y = %y
}""",
        {"w": normal(48, 64)},
    )
    data = batches(8)
    data[0]["x"][3::4] = normal(16, 48)
    _, result = quantized(layer, data)
    assert result.counts["gptq"] == 0
    assert result.misses == ["only: plain rounding does better on held-out inputs"]


def test_a_layer_of_very_many_channels_is_rounded_and_named(layers: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planish.passes.quantization.compensate._DEEPEST", 48)
    _, result = quantized(layers, batches(2))
    assert result.counts["gptq"] == 1
    assert result.misses == ["second: plain rounding, since GPTQ of 64 input channels takes too long"]
