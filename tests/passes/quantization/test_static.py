"""The rewritten graph: shared weights, biases beyond int32, returned values, embeddings."""

import numpy as np

from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.numerics import drift
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.passes.base import PassContext
from planish.passes.probes import run_graph
from planish.passes.quantization.quantize import Quantize
from planish.targets.load import load_target

RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.3).astype(np.float32)


def quantized(source: Graph, feeds: list, **options) -> Graph:
    graph = source.clone()
    Quantize(**options).run(graph, PassContext(load_target("x86-64-avx512-vnni"), source, feeds))
    verify(graph)
    return graph


def test_a_weight_that_two_layers_share_is_stored_once():
    source = Graph()
    op = Builder(source)
    x = source.add_input("x", TensorType(DType.float32, ("batch", 8)))
    weight = op.constant(array(8, 8), "shared")
    source.outputs["y"] = op.MatMul(op.Tanh(op.MatMul(x, weight)), weight)
    feeds = [{"x": array(16, 8)}]
    graph = quantized(source, feeds)
    assert [value.shape for value in graph.constants.values() if value.type.rank == 2] == [(8, 8)]
    assert drift(run_graph(source, feeds), run_graph(graph, feeds)) < 0.05


def test_a_bias_far_beyond_its_grid_survives():
    source = Graph()
    op = Builder(source)
    x = source.add_input("x", TensorType(DType.float32, ("batch", 4)))
    bias = np.array([3e6, 0.0, -3e6], np.float32)
    source.outputs["y"] = op.Gemm(x, array(4, 3) * np.float32(1e-4), bias)
    feeds = [{"x": array(8, 4) * np.float32(1e-3)}]
    [got] = run_graph(quantized(source, feeds), feeds)
    np.testing.assert_allclose(got["y"], np.broadcast_to(bias, (8, 3)), rtol=1e-5, atol=1e-2)


def test_a_returned_value_keeps_its_name_and_its_readers():
    source = Graph()
    op = Builder(source)
    x = source.add_input("x", TensorType(DType.float32, (1, 4, 5, 5)))
    hidden = op.Relu(op.Conv(x, array(4, 4, 1, 1)))
    source.outputs.update({"hidden": hidden, "y": op.Conv(hidden, array(4, 4, 1, 1))})
    feeds = [{"x": array(1, 4, 5, 5)}]
    graph = quantized(source, feeds)
    assert list(graph.outputs) == ["hidden", "y"]
    assert drift(run_graph(source, feeds), run_graph(graph, feeds)) < 0.05


def test_a_large_embedding_is_stored_in_int8_and_a_small_one_is_not():
    source = Graph()
    op = Builder(source)
    rows = source.add_input("rows", TensorType(DType.int64, ("batch", "sequence")))
    large, small = array(1024, 64), array(4, 64)
    source.outputs["y"] = op.Add(op.Gather(large, rows), op.Gather(small, op.Mod(rows, 4)))
    feeds = [{"rows": RNG.integers(0, 1024, (2, 7))}]
    graph = quantized(source, feeds, scheme="int8-dynamic")
    tables = {constant.shape: constant.dtype for constant in graph.constants.values() if constant.type.rank == 2}
    assert tables == {(1024, 64): DType.int8, (4, 64): DType.float32}
    assert drift(run_graph(source, feeds), run_graph(graph, feeds)) < 0.02


def test_attention_scores_with_a_mask_are_left_in_float():
    source = Graph()
    op = Builder(source)
    x = source.add_input("x", TensorType(DType.float32, ("batch", 6, 16)))
    query, key = op.MatMul(x, array(16, 16)), op.MatMul(x, array(16, 16))
    mask = np.where(np.arange(6) < 4, 0, np.finfo(np.float32).min).astype(np.float32)
    scores = op.Softmax(op.Add(op.MatMul(query, op.Transpose(key, perm=(0, 2, 1))), mask), axis=-1)
    source.outputs["y"] = op.MatMul(op.MatMul(scores, x), array(16, 16))
    feeds = [{"x": array(3, 6, 16)}]
    graph = quantized(source, feeds)
    assert drift(run_graph(source, feeds), run_graph(graph, feeds)) < 0.05
    softmax = next(node for node in graph.nodes if node.operator == "Softmax")
    assert softmax.inputs[0].producer.operator == "Add"
