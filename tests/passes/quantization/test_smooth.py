"""Smoothing: a channel far wider than the others no longer makes all of them coarse."""

import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.numerics import drift
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.passes.base import PassContext
from planish.passes.probes import run_graph
from planish.passes.quantization.layers import select_layers
from planish.passes.quantization.quantize import Quantize
from planish.passes.quantization.smooth import Smoothing
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
WIDE = np.where(np.arange(32) == 5, 40, 1).astype(np.float32)
OPERATORS = frozenset({"MatMul", "Gemm"})


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def normalized(*, residual: bool) -> Graph:
    """A LayerNormalization of which one channel is wide, and two products of it, perhaps a residual too."""
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 6, 32)))
    hidden = op.LayerNormalization(x, WIDE, array(32))
    graph.outputs.update({"y": op.MatMul(hidden, array(32, 8)), "z": op.MatMul(hidden, array(32, 4))})
    if residual:
        graph.outputs["r"] = op.Add(hidden, x)
    return graph


def smoothed(source: Graph, feeds: list, *, by_row: bool = False) -> tuple[Graph, int]:
    graph = source.clone()
    context = PassContext(load_target("x86-64-avx512-vnni"), source, feeds)
    layers = select_layers(graph, OPERATORS, context).layers
    smoothing = Smoothing(graph, layers, by_row=by_row)
    smoothing.fit(feeds, context)
    _, ranges = smoothing.apply(layers, (), context, gptq=False)
    verify(graph)
    return graph, len(ranges)


def quantized(source: Graph, feeds: list, **options) -> Graph:
    graph = source.clone()
    Quantize(**options).run(graph, PassContext(load_target("x86-64-avx512-vnni"), source, feeds))
    return graph


@pytest.mark.parametrize(("wide_rows", "counts"), [(1, (1, 0)), (24, (1, 1))])
def test_a_row_with_a_grid_of_its_own_does_not_make_others_coarse(wide_rows: int, counts: tuple[int, int]):
    graph = Graph()
    op = Builder(graph)
    graph.outputs["y"] = op.MatMul(graph.add_input("x", TensorType(DType.float32, ("batch", 32))), array(32, 8))
    rows = array(24, 32)
    rows[:wide_rows, 5] *= 300
    feeds = [{"x": np.concatenate([rows, np.zeros((2, 32), np.float32)])}, {"x": np.zeros((3, 32), np.float32)}]

    assert tuple(smoothed(graph, feeds, by_row=by_row)[1] for by_row in (False, True)) == counts


@pytest.mark.parametrize("batch", [64, 128, 2048])
@pytest.mark.parametrize(("every", "count"), [(64, 0), (16, 1)])
def test_wide_rows_count_by_their_share_wherever_they_are_in_batches(batch: int, every: int, count: int):
    """The first tokens of texts of 64 may be the only wide ones; their channel's weights are small."""
    random = np.random.default_rng(0)
    weight, rows = (random.standard_normal(shape, np.float32) for shape in ((256, 64), (2048, 256)))
    weight[5] *= 0.003
    rows[::every, 5] *= 300
    graph = Graph()
    op = Builder(graph)
    graph.outputs["y"] = op.MatMul(graph.add_input("x", TensorType(DType.float32, ("batch", 256))), weight)
    feeds = [{"x": rows[start : start + batch]} for start in range(0, 2048, batch)]
    assert smoothed(graph, feeds, by_row=True)[1] == count


def test_a_normalization_absorbs_the_division():
    source, feeds = normalized(residual=False), [{"x": array(4, 6, 32)}]
    graph, count = smoothed(source, feeds)
    assert count == 1
    assert [node.operator for node in graph.nodes] == ["LayerNormalization", "MatMul", "MatMul"]
    assert drift(run_graph(source, feeds), run_graph(graph, feeds)) < 1e-5


def test_what_a_residual_reads_too_is_divided_beside_it():
    source, feeds = normalized(residual=True), [{"x": array(4, 6, 32)}]
    graph, count = smoothed(source, feeds)
    assert count == 1
    assert sorted(node.operator for node in graph.nodes) == ["Add", "LayerNormalization", "MatMul", "MatMul", "Mul"]
    assert drift(run_graph(source, feeds), run_graph(graph, feeds)) < 1e-5


def test_channels_that_reach_alike_are_left_alone():
    source = Graph()
    op = Builder(source)
    x = source.add_input("x", TensorType(DType.float32, ("batch", 32)))
    source.outputs["y"] = op.Gemm(x, array(8, 32), array(8), transB=1)
    graph, count = smoothed(source, [{"x": array(64, 32)}])
    assert count == 0
    assert len(graph) == 1


def test_integers_are_less_than_half_as_far_off():
    source, feeds = normalized(residual=True), [{"x": array(16, 6, 32)}]
    exact = run_graph(source, feeds)
    with_it, without = (
        drift(exact, run_graph(quantized(source, feeds, smooth=choice), feeds)) for choice in (True, False)
    )
    assert with_it < without / 2


@pytest.mark.parametrize(("residual", "runs"), [(True, 1), (False, 2)])
def test_what_was_seen_holds_beside_a_division(residual: bool, runs: int):
    """Where channels are divided at their source, other values change, and are seen anew."""
    source, feeds = normalized(residual=residual), [{"x": array(16, 6, 32)}]
    seen: list[str] = []
    context = PassContext(
        load_target("x86-64-avx512-vnni"), source, feeds, progress=lambda what, done, _: seen.extend([what][done:])
    )
    result = Quantize().run(source.clone(), context)
    assert result.counts["smoothed"] == 1
    assert seen.count("calibrating") == runs


def test_one_channel_of_one_row_is_divided_and_no_other():
    """A massive activation: all but one channel keep their grid, and all that was seen stays within it."""
    source = Graph()
    op = Builder(source)
    x = source.add_input("x", TensorType(DType.float32, ("batch", 64)))
    source.outputs["y"] = op.MatMul(op.Gelu(x), array(64, 16))
    data = array(512, 64)
    data[7, 5] = 60
    graph, count = smoothed(source, [{"x": data}])
    assert count == 1
    divisor = next(node for node in graph.nodes if node.operator == "Mul").constant(1)
    assert divisor is not None
    assert np.flatnonzero(divisor < 0.99).tolist() == [5]


def test_values_of_attention_are_divided_in_the_weights_that_they_come_from():
    wide = array(32, 32) * WIDE
    source = Graph()
    op = Builder(source)
    x = source.add_input("x", TensorType(DType.float32, ("batch", 6, 32)))
    value = op.Add(op.MatMul(x, wide), array(32))
    found = op.Attention(x, x, value, q_num_heads=4, kv_num_heads=4)
    source.outputs["y"] = op.MatMul(found, array(32, 8))
    feeds = [{"x": array(4, 6, 32)}]
    graph, count = smoothed(source, feeds)
    assert count == 1
    assert [node.operator for node in graph.nodes] == ["MatMul", "Add", "Attention", "MatMul"]
    assert drift(run_graph(source, feeds), run_graph(graph, feeds)) < 1e-5
    assert drift(run_graph(source, feeds), run_graph(quantized(source, feeds), feeds)) < 0.05


def test_a_channel_behind_an_activation_function_is_computed_several_times():
    """Its row would be the largest of the weights by far, and make all of them coarse."""
    source = Graph()
    op = Builder(source)
    x = source.add_input("x", TensorType(DType.float32, ("batch", 8)))
    up, down = array(8, 1024), array(1024, 16)
    up[:, 5] *= 30
    source.outputs["y"] = op.MatMul(op.Gelu(op.Add(op.MatMul(x, up), array(1024))), down)
    feeds = [{"x": array(256, 8)}]
    graph, count = smoothed(source, feeds)
    assert count == 2 - (len([node for node in graph.nodes if node.operator == "Mul"]) == 1)
    widths = [node.output.shape[-1] for node in graph.nodes if node.operator in ("MatMul", "Add", "Gelu")]
    assert widths == [1040, 1040, 1040, 16]
    assert drift(run_graph(source, feeds), run_graph(graph, feeds)) < 1e-5
    assert drift(run_graph(source, feeds), run_graph(quantized(source, feeds), feeds)) < 0.05
