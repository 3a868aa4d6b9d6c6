"""Every technique takes a model of whose values most have no rank that is known before it runs, and leaves it right."""

import numpy as np
import pytest

import planish
from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.text import parse_graph
from planish.passes.base import Feeds

BRANCHES = """graph "main"(%x: float32[2, 8, 8, 8], %deep: bool[]) {
  const %axes: int64[1] = [0]
  %u: float32[...] = If(%deep) {else_branch = graph "no"() {
    %r: float32[2, 8, 8, 8] = Relu(%x)
    return r = %r
  }, then_branch = graph "yes"() {
    %d: float32[1, 2, 8, 8, 8] = Unsqueeze(%x, %axes)
    return d = %d
  }}
  return u = %u
}"""
"""What comes behind is computed from the result of an If whose branches differ in rank."""


@pytest.fixture
def graph() -> Graph:
    random, graph = np.random.default_rng(0), parse_graph(BRANCHES)
    op, ones = Builder(graph), np.ones(8, np.float32)

    def weight(*shape: int) -> object:
        return op.constant((random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32), "weight")

    images = graph.outputs.pop("u")
    h = op.Conv(images, weight(8, 8, 3, 3), pads=[1, 1, 1, 1])
    h = op.Relu(op.BatchNormalization(h, *(op.constant(ones * number) for number in (1, 0.1, 0.1, 2))))
    h = op.Conv(op.Conv(h, weight(8, 1, 3, 3), group=8, pads=[1, 1, 1, 1]), weight(8, 8, 1, 1))
    x = op.Add(h, images)
    h = op.Gelu(op.Add(op.MatMul(x, weight(8, 16)), weight(16)))
    x = op.LayerNormalization(op.Add(op.MatMul(h, weight(16, 8)), x), op.constant(ones), op.constant(ones))
    scores = op.Softmax(op.MatMul(x, op.Transpose(x, perm=[0, 1, 3, 2])))
    rows = op.Reshape(op.MatMul(scores, x), op.constant(np.array([-1, 8])))
    graph.outputs.update(classes=op.Gemm(rows, weight(8, 16), weight(16)), numbers=op.Sigmoid(x))
    return graph


@pytest.fixture
def data() -> list[Feeds]:
    random = np.random.default_rng(1)
    images = random.standard_normal((12, 2, 8, 8, 8)).astype(np.float32)
    return [{"x": batch, "deep": np.array(False)} for batch in images]


@pytest.mark.parametrize(
    "pipeline",
    [
        "cleanup,fuse,quantize,qat{epochs=1}",
        "quantize{scheme=int8-dynamic}",
        "awq,gptq,tune-scales",
        "reduce-precision{required=false}",
        "factorize{energy=0.8},distill{epochs=1}",
        "prune-channels{ratio=0.3,required=false},reestimate-norms",
        "prune-blocks{flops=0.1,required=false}",
        "sparsify{sparsity=0.5,pattern=unstructured}",
        "lora,distill{epochs=1},merge-lora",
    ],
)
def test_models_of_unknown_ranks_are_compressed(graph: Graph, data: list[Feeds], pipeline: str) -> None:
    before = len(graph.constants)
    result = planish.optimize(graph, pipeline, data=data, target="x86-64-zen4")
    assert len(graph.constants) == before
    assert set(result.graph.outputs) == {"classes", "numbers"}
