"""Weights whose zero points are floats: backends multiply by whole ones, and by the sums of blocks of activations."""

import numpy as np
import pytest

import planish
from planish.ir.block_weight import BlockScheme, BlockWeight
from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift
from planish.ir.types import DType, TensorType
from planish.passes.base import PassContext
from planish.passes.quantization.quantize import Quantize
from planish.targets.load import load_target

RNG = np.random.default_rng(0)


def dequantized(k: int, n: int) -> np.ndarray:
    """Weights of llama.cpp's Q4_1, which has an offset for each block of 32."""
    codes = RNG.integers(0, 16, (k, n)).astype(np.float32)
    scales, offsets = (np.repeat(RNG.uniform(-1, 1, (k // 32, n)), 32, axis=0).astype(np.float16) for _ in range(2))
    return codes * scales.astype(np.float32) + 16 * offsets.astype(np.float32)


@pytest.fixture
def graph() -> Graph:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, ("batch", "rows", 64)))
    graph.outputs["y"] = Builder(graph).MatMul(x, dequantized(64, 24))
    return graph


def test_what_was_dequantized_costs_nothing_to_quantize_again(graph: Graph) -> None:
    source, feeds = graph.clone(), {"x": RNG.standard_normal((2, 3, 64), np.float32)}
    result = Quantize(scheme="int4").apply(graph, PassContext(load_target("x86-64-avx512-vnni"), source))
    assert result.counts["layers"] == 1
    (node,) = graph.nodes
    weight = BlockWeight.of(node)
    assert weight is not None
    assert (weight.scheme, weight.zero_points.dtype) == (BlockScheme(4, 32), np.float32)
    assert drift([Interpreter(source).run(feeds)], [Interpreter(graph).run(feeds)]) < 1e-6


@pytest.mark.parametrize("backend", ["onnxruntime", pytest.param("tvm", marks=pytest.mark.wide)])
def test_both_backends_multiply_by_codes(graph: Graph, backend: str) -> None:
    if backend == "tvm":
        pytest.importorskip("tvm")
    Quantize(scheme="int4").apply(graph, PassContext(load_target("x86-64-avx512-vnni"), graph.clone()))
    executable = planish.compile(graph, backend=backend, target="native")
    for rows in (1, 7):
        feeds = {"x": RNG.standard_normal((2, rows, 64), np.float32)}
        wanted, found = Interpreter(graph).run(feeds)["y"], executable.run(feeds)[0]
        assert drift([{"y": wanted}], [{"y": found}]) < (0.03 if backend == "onnxruntime" else 1e-5)
