"""Costs, against figures worked out by hand."""

import numpy as np
import pytest

from planish.ir.analysis.cost import Cost, by_module, by_operator, flops, summarize
from planish.ir.graph import Graph
from planish.ir.text import parse_graph

DYNAMIC_LSTM = "com.microsoft::DynamicQuantizeLSTM"


@pytest.mark.parametrize(
    ("line", "multiply_adds"),
    [
        ("%y: float32[n, 16, 30, 30] = Conv(%image, %filter)", 16 * 30 * 30 * 3 * 3 * 3),
        ("%y: float32[n, 3, 30, 30] = Conv(%image, %depthwise) {group = 3}", 3 * 30 * 30 * 3 * 3),
        ("%y: uint8[n, 16, 30, 30] = QLinearConv(%image, %f, %f, %filter, %f, %f, %f, %f)", 16 * 30 * 30 * 3 * 3 * 3),
        ("%y: int32[n, 16, 30, 30] = ConvInteger(%image, %filter)", 16 * 30 * 30 * 3 * 3 * 3),
        ("%y: float32[n, 16, 30, 30] = com.microsoft::FusedConv(%image, %filter)", 16 * 30 * 30 * 3 * 3 * 3),
        ("%y: float32[n, 1, 64, 64] = ConvTranspose(%image, %up) {strides = [2, 2]}", 3 * 32 * 32 * 1 * 2 * 2),
        ("%y: float32[n, 7, 5] = MatMul(%a, %b)", 7 * 5 * 20),
        ("%y: int32[n, 7, 5] = MatMulInteger(%a, %b)", 7 * 5 * 20),
        ("%y: uint8[n, 7, 5] = QLinearMatMul(%a, %f, %f, %b, %f, %f, %f, %f)", 7 * 5 * 20),
        ("%y: float32[7, 5] = Gemm(%m, %b) {transA = 1}", 7 * 5 * 20),
        ("%y: float32[5, 5] = Gemm(%b, %b) {transB = 1}", 5 * 5 * 5),
        ("%y: float32[n, 7, 12] = Attention(%q, %k, %k)", 7 * 9 * 12 * 2),
        ("%y: float32[n, 2, 7, 3] = LSTM(%a, %w, %r)", 7 * 2 * 12 * (20 + 3)),
        (
            f"%y: float32[n, 2, 7, 3] = {DYNAMIC_LSTM}(%a, %wt, %rt{', none' * 5}, %s, %z, %s, %z)",
            7 * 2 * 12 * (20 + 3),
        ),
    ],
)
def test_a_multiply_add_is_two_operations(line: str, multiply_adds: int) -> None:
    graph = parse_graph(f"""
        graph "g"(%image: float32[n, 3, 32, 32], %filter: float32[16, 3, 3, 3], %depthwise: float32[3, 1, 3, 3],
            %up: float32[3, 1, 2, 2], %a: float32[n, 7, 20], %b: float32[20, 5], %m: float32[20, 7], %f: float32[],
            %q: float32[n, 7, 12], %k: float32[n, 9, 12], %w: float32[2, 12, 20], %r: float32[2, 12, 3],
            %wt: int8[2, 20, 12], %rt: int8[2, 3, 12], %s: float32[2], %z: int8[2])
            {{ {line} return y = %y }}""")
    node = next(graph.nodes)
    assert flops(node) == 2 * multiply_adds
    if "n" in node.outputs[0].shape:
        assert flops(node, {"n": 8}) == 8 * flops(node)


def test_other_operators_cost_an_operation_per_element() -> None:
    graph = parse_graph('graph "g"(%x: float32[n, m + 1]) { %y: float32[n, m + 1] = Relu(%x) return y = %y }')
    assert flops(next(graph.nodes), {"n": 3, "m": 4}) == 15
    assert flops(next(graph.nodes)) == 2


@pytest.fixture
def graph() -> Graph:
    text = """graph "g"(%x: float32[batch, 8]) {
      const %shape: int64[2] = [0, -1]
      const %w: float32[8, 8]
      const %packed: int4[3] = [1, 2, 3]
      %a: float32[batch, 8] = MatMul(%x, %w) @ "encoder.layer.0.dense"
      %b: float32[batch, 8] = Relu(%a) @ "encoder.layer.0.act"
      %c: float32[batch, 8] = MatMul(%b, %w) @ "encoder.layer.1.dense"
      %d: float32[batch, 8] = Reshape(%c, %shape) @ "/head/flatten/Reshape"
      %e: float32[batch, 8] = test::Unpack(%d, %packed)
      return e = %e
    }"""
    return parse_graph(text, {"w": np.ones((8, 8), np.float32)})


def test_the_whole(graph: Graph) -> None:
    assert summarize(graph) == Cost(nodes=5, parameters=64 + 3, bytes=64 * 4 + 2 * 8 + 2, flops=2 * 128 + 2 * 8)
    assert summarize(graph, {"batch": 2}).flops == 2 * summarize(graph).flops


def test_parameters_of_few_bits_are_counted_one_by_one() -> None:
    """36 of each of 5 columns, stored in two blocks of 32 with 2 codes to a byte, beside as many scales."""
    graph = parse_graph(
        """graph "g"(%x: float32[1, 36]) {
          const %codes: uint8[5, 2, 16]
          const %scales: float32[5, 2]
          %y: float32[1, 5] = com.microsoft::MatMulNBits(%x, %codes, %scales) {K = 36, N = 5, bits = 4, block_size = 32}
          return y = %y
        }""",
        {"codes": np.zeros((5, 2, 16), np.uint8), "scales": np.zeros((5, 2), np.float32)},
    )
    assert summarize(graph) == Cost(nodes=1, parameters=36 * 5 + 10, bytes=160 + 40, flops=2 * 36 * 5)


def test_the_parts_by_operator(graph: Graph) -> None:
    assert list(by_operator(graph).items()) == [("MatMul", 2), ("Relu", 1), ("Reshape", 1), ("test::Unpack", 1)]


def test_the_parts_by_module(graph: Graph) -> None:
    assert by_module(graph, 3) == {
        "encoder.layer.0": Cost(nodes=2, parameters=64, bytes=256, flops=128 + 8),
        "encoder.layer.1": Cost(nodes=1, parameters=0, bytes=0, flops=128),
        "/head/flatten/Reshape": Cost(nodes=1, parameters=0, bytes=16, flops=0),
        "": Cost(nodes=1, parameters=3, bytes=2, flops=8),
    }
    assert list(by_module(graph, 1)) == ["encoder", "/head", ""]
    assert list(by_module(graph, 0)) == [""]
