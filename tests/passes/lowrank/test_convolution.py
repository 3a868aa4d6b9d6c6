"""Convolutions in two: they compute what one does, whichever axes the first kernel has."""

from typing import Any

import numpy as np
import pytest

from planish.ir.analysis.cost import summarize
from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location
from planish.ir.interpreter import Interpreter
from planish.ir.text import parse_graph, print_graph
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.passes.lowrank.convolution import Arrangement, choices_of_axes, split_convolution, spread
from planish.passes.lowrank.decomposition import decompose
from planish.passes.lowrank.matrix import kernel_of, read_matrix, weight_of

RNG = np.random.default_rng(0)


def convolution(shape: tuple[int, ...], kernel: tuple[int, ...], **attributes: Any) -> Graph:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, shape))
    weight = RNG.standard_normal((5, shape[1], *kernel)).astype(np.float32)
    op = Builder(graph, location=Location("layer"))
    graph.outputs["y"] = op.Conv(x, op.constant(weight, "weight"), np.ones(5, np.float32), **attributes)
    return graph


def split(graph: Graph, axes: tuple[int, ...]) -> None:
    """Split the one layer of a graph, at full rank."""
    (node,) = graph.nodes
    matrix = read_matrix(node)
    assert matrix is not None
    arrangement = Arrangement.of(node, matrix, axes)
    parts = decompose(arrangement.arranged(matrix))
    split_convolution(graph, node, parts.first, parts.second, arrangement)
    verify(graph)


CASES = [
    ((2, 3, 9, 8), (3, 3), {}),
    ((2, 3, 9, 8), (3, 3), {"pads": (1, 0, 2, 1), "strides": (2, 3), "kernel_shape": (3, 3)}),
    ((2, 3, 12, 9), (5, 2), {"dilations": (2, 3), "pads": (3, 0, 1, 2)}),
    ((2, 3, 9, 8), (3, 4), {"auto_pad": "SAME_UPPER", "strides": (2, 1)}),
    ((2, 3, 9, 8), (3, 4), {"auto_pad": "SAME_LOWER", "strides": (3, 2), "dilations": (1, 2)}),
    ((2, 3, 9, 8), (2, 3), {"auto_pad": "VALID", "strides": (2, 2)}),
    ((2, 3, 9, 8), (1, 5), {"pads": (1, 2, 0, 2), "strides": (2, 1)}),
    ((2, 3, 9), (4,), {"pads": (2, 1), "strides": (2,)}),
    ((1, 2, 5, 6, 7), (3, 2, 3), {"pads": (1, 0, 1, 1, 1, 1), "strides": (1, 2, 1)}),
]


@pytest.mark.parametrize(("shape", "kernel", "attributes"), CASES)
def test_two_convolutions_of_full_rank_are_one(
    shape: tuple[int, ...], kernel: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    graph = convolution(shape, kernel, **attributes)
    x = RNG.standard_normal(shape).astype(np.float32)
    expected = Interpreter(graph).run({"x": x})["y"]
    (node,) = graph.nodes
    every = list(choices_of_axes(node))
    assert len(every) == 2 ** sum(size > 1 for size in kernel)
    assert every[0] == tuple(range(len(kernel)))

    for axes in every:
        copy = graph.clone()
        split(copy, axes)
        assert [kernel_of(layer) for layer in copy.nodes] == [
            tuple(size if axis in axes else 1 for axis, size in enumerate(kernel)),
            tuple(1 if axis in axes else size for axis, size in enumerate(kernel)),
        ]
        assert np.allclose(Interpreter(copy).run({"x": x})["y"], expected, atol=1e-4)


@pytest.mark.parametrize(("shape", "kernel", "attributes"), CASES)
def test_what_a_rank_costs_is_what_the_two_take(
    shape: tuple[int, ...], kernel: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    graph = convolution(shape, kernel, **attributes)
    (node,) = graph.nodes
    positions = np.prod(node.output.type.static_shape) // 5

    for axes in choices_of_axes(node):
        copy = graph.clone()
        split(copy, axes)
        first, second = (weight_of(layer).data for layer in copy.nodes)
        size = first[0].size * spread(node, axes, {}) + second[:, 0].size
        assert summarize(copy).flops == 2 * round(positions * len(first) * size)


def test_strides_pads_and_dilations_go_with_their_axes() -> None:
    text = """graph "net"(%x: float32[1, 2, 9, 9]) {
  const %w: float32[4, 2, 3, 2]
  %y: float32[1, 4, 5, 3] = Conv(%x, %w) {dilations = [1, 3], pads = [1, 0, 2, 1], strides = [2, 2]} @ "layer"
  return y = %y
}
"""
    graph = parse_graph(text, {"w": RNG.standard_normal((4, 2, 3, 2)).astype(np.float32)})

    split(graph, (0,))

    assert (
        print_graph(graph)
        == """graph "net"(%x: float32[1, 2, 9, 9]) {
  const %w_in: float32[6, 2, 3, 1]
  const %w_out: float32[4, 6, 1, 2]
  %conv: float32[1, 6, 5, 9] = Conv(%x, %w_in) {pads = [1, 0, 2, 0], strides = [2, 1]} @ "layer"
  %y: float32[1, 4, 5, 3] = Conv(%conv, %w_out) {dilations = [1, 3], pads = [0, 0, 0, 1], strides = [1, 2]} @ "layer"
  return y = %y
}
"""
    )
