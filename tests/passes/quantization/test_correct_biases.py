"""Bias correction puts the mean of every channel back to what it was in float."""

import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.passes.base import PassContext
from planish.passes.probes import run_graph
from planish.passes.quantization.quantize import Quantize
from planish.targets.load import load_target

RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.3).astype(np.float32)


def background() -> np.ndarray:
    """Mostly one value, which rounding shifts as a whole."""
    return np.where(RNG.random((2, 4, 5, 6)) < 0.1, array(2, 4, 5, 6), np.float32(0.37))


def convolution(op: Builder, x):
    return op.Conv(op.HardSwish(op.Conv(x, array(8, 4, 1, 1), array(8))), array(6, 8, 1, 1), array(6))


def linear(op: Builder, x):
    return op.Add(op.MatMul(op.Tanh(op.Add(op.MatMul(x, array(6, 8)), array(8))), array(8, 6)), array(6))


def before_rounding(graph: Graph):
    """What the last layer yields, without the rounding of the result itself."""
    y = graph.outputs["y"]
    return y.producer.inputs[0].producer.inputs[0] if y.producer.operator == "DequantizeLinear" else y


@pytest.mark.parametrize(("layers", "axis"), [(convolution, 1), (linear, 3)])
def test_means_of_channels_are_restored(layers, axis):
    source = Graph()
    op = Builder(source)
    x = source.add_input("x", TensorType(DType.float32, ("batch", 4, "height", 6)))
    source.outputs["y"] = layers(op, x)
    feeds = [{"x": background()}] * 2

    def error(**options) -> float:
        graph = source.clone()
        Quantize(**options).run(graph, PassContext(load_target("x86-64-avx512-vnni"), source, feeds))
        verify(graph)
        graph.outputs["y"] = before_rounding(graph)
        [wanted, _], [got, _] = run_graph(source, feeds), run_graph(graph, feeds)
        others = tuple(index for index in range(4) if index != axis)
        return float(np.abs((got["y"] - wanted["y"]).mean(axis=others)).max())

    assert error(correct_biases=True) < error(correct_biases=False) / 4


@pytest.mark.parametrize("pipeline", [{"scheme": "int4"}, {"scheme": "int8-weights", "block": 0}])
@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
def test_so_are_those_of_layers_whose_weights_alone_are_rounded(operator, pipeline):
    """Where the operator has no bias, that which is added behind it takes the shift up."""
    source = Graph()
    op = Builder(source)
    x = source.add_input("x", TensorType(DType.float32, ("rows", 32)))
    product = op.Gemm(x, array(32, 8), array(8)) if operator == "Gemm" else op.Add(op.MatMul(x, array(32, 8)), array(8))
    source.outputs["y"] = product
    feeds = [{"x": array(64, 32) + 1}] * 2

    def error(**options) -> float:
        graph = source.clone()
        Quantize(**pipeline, **options).run(graph, PassContext(load_target("x86-64-avx512-vnni"), source, feeds))
        verify(graph)
        [wanted, _], [got, _] = run_graph(source, feeds), run_graph(graph, feeds)
        return float(np.abs((got["y"] - wanted["y"]).mean(axis=0)).max())

    assert error(correct_biases=True) < error(correct_biases=False) / 20


def test_what_an_activation_function_hides_moves_nobody() -> None:
    """The page's background is off by a lot, where Relu shows nothing of it, and the text on it by little."""
    source = Graph()
    op = Builder(source)
    x = source.add_input("x", TensorType(DType.float32, ("batch", 4, 16, 16)))
    weight = np.abs(array(8, 4, 1, 1)) + 1
    inner = op.Conv(x, weight, -2 * weight.sum(axis=(1, 2, 3)))
    source.outputs["y"] = op.Conv(op.Relu(inner), array(6, 8, 1, 1), array(6))
    text = RNG.random((8, 1, 16, 16)) < 0.1
    page = np.where(text, 3 + array(8, 4, 16, 16), np.float32(0.507))
    feeds = [{"x": page}] * 2

    def read(graph: Graph) -> np.ndarray:
        graph.outputs = {"read": next(value for value in graph.values() if value.name == inner.name)}
        return np.moveaxis(run_graph(graph, feeds)[0]["read"], 1, -1)[text[:, 0]]

    def error(**options) -> float:
        graph = source.clone()  # equalization would scale channels of what is read
        Quantize(equalize=False, **options).run(graph, PassContext(load_target("x86-64-avx512-vnni"), source, feeds))
        return float(np.abs((read(graph) - read(source.clone())).mean(axis=0)).max())

    assert error(correct_biases=True) < error(correct_biases=False) / 4
