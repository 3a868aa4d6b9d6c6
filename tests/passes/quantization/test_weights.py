"""Weights alone in 4 bits: which ones, how they are rounded, and what both backends make of them."""

from dataclasses import replace

import numpy as np
import pytest

import planish
from planish.ir.block_weight import BlockScheme, BlockWeight
from planish.ir.builder import Builder
from planish.ir.errors import UsageError
from planish.ir.graph import Graph, Node
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift
from planish.ir.text import print_graph, weights
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.passes.base import PassContext, PassResult
from planish.passes.quantization.quantize import Quantize
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
TARGET = load_target("x86-64-avx512-vnni")
LAYERS = """(%x: float32[rows, 32]) {
  const %w: float32[32, 48]
  const %v: float32[40, 48]
  const %b: float32[40]
  const %u: float32[40, 12]
  %a: float32[rows, 48] = MatMul(%x, %w) @ "first"
  %c: float32[rows, 48] = Relu(%a) @ "first"
  %d: float32[rows, 40] = Gemm(%c, %v, %b) {transB = 1} @ "second"
  %y: float32[rows, 12] = MatMul(%d, %u) @ "third"
  return y = %y
}"""
QUANTIZED = """(%x: float32[rows, 32]) {
  const %w.codes: uint8[48, 2, 8]
  const %w.scales: float32[48, 2]
  const %w.zero_points: uint8[48, 1]
  const %v.codes: uint8[40, 3, 8]
  const %v.scales: float32[40, 3]
  const %v.zero_points: uint8[40, 2]
  const %v.bias: float32[40]
  const %u.codes: uint8[12, 3, 8]
  const %u.scales: float32[12, 3]
  const %u.zero_points: uint8[12, 2]
  %a: float32[rows, 48] = com.microsoft::MatMulNBits(%x, %w.codes, %w.scales, %w.zero_points)\
 {K = 32, N = 48, accuracy_level = 4, bits = 4, block_size = 16} @ "first"
  %c: float32[rows, 48] = Relu(%a) @ "first"
  %d: float32[rows, 40] = com.microsoft::MatMulNBits(%c, %v.codes, %v.scales, %v.zero_points, none,\
 %v.bias) {K = 48, N = 40, accuracy_level = 4, bits = 4, block_size = 16} @ "second"
  %y: float32[rows, 12] = com.microsoft::MatMulNBits(%d, %u.codes, %u.scales, %u.zero_points)\
 {K = 40, N = 12, accuracy_level = 4, bits = 4, block_size = 16} @ "third"
  return y = %y
}"""


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


@pytest.fixture
def layers(graph_of) -> Graph:
    return graph_of(LAYERS, {"w": normal(32, 48), "v": normal(40, 48), "b": normal(40), "u": normal(40, 12)})


def quantized(graph: Graph, target=TARGET, **options) -> PassResult:
    result = Quantize(scheme="int4", **options).apply(graph, PassContext(target, graph.clone()))
    verify(graph)
    return result


def test_layers_have_their_weights_in_4_bits(layers: Graph, graph_of) -> None:
    """The third one's last block is half as long as others."""
    source = layers.clone()
    result = quantized(layers, block=16)
    assert print_graph(layers) == print_graph(graph_of(QUANTIZED, weights(layers)))
    assert (result.counts["layers"], result.misses) == (3, [])
    feeds = {"x": normal(9, 32)}
    assert 0.01 < drift(*([Interpreter(graph).run(feeds)] for graph in (source, layers))) < 0.2


@pytest.mark.parametrize("backend", ["onnxruntime", pytest.param("tvm", marks=pytest.mark.wide)])
def test_both_backends_run_them(layers: Graph, backend: str) -> None:
    """ONNX Runtime puts activations on grids of 8 bits, which moves them by 1 % or so."""
    if backend == "tvm":
        pytest.importorskip("tvm")
    quantized(layers, block=16)
    executable = planish.compile(layers, backend=backend, target="native")
    for rows in (1, 9, 40):
        feeds = {"x": normal(rows, 32)}
        wanted, found = Interpreter(layers).run(feeds)["y"], executable.run(feeds)[0]
        assert drift([{"y": wanted}], [{"y": found}]) < (0.03 if backend == "onnxruntime" else 1e-5)


def test_layers_that_share_a_weight_share_its_codes(graph_of) -> None:
    graph = graph_of(
        """(%x: float32[2, 32]) {
          const %w: float32[32, 32]
          %a: float32[2, 32] = MatMul(%x, %w) @ "first"
          %y: float32[2, 32] = MatMul(%a, %w) @ "second"
          return y = %y
        }""",
        {"w": normal(32, 32)},
    )
    assert quantized(graph).counts["layers"] == 2
    assert len(graph.constants) == 3


@pytest.mark.parametrize("block", [48, 8])
def test_blocks_that_no_runtime_knows_are_refused(layers: Graph, block: int) -> None:
    with pytest.raises(UsageError, match=f"quantize must be 0 or a power of two from 16, not {block}"):
        quantized(layers, block=block)


def test_a_target_that_was_not_measured_keeps_the_graph(layers: Graph) -> None:
    result = quantized(layers, replace(TARGET, weights={}))
    assert not result.changed
    assert result.misses == ["products with weights in 4 bits were not measured on x86-64-avx512-vnni"]


def test_nothing_quantized_is_an_error_with_the_reasons(layers: Graph) -> None:
    with pytest.raises(UsageError, match="quantize.* is required, but changed nothing:\n  products with weights in 2"):
        planish.optimize(layers, "quantize{scheme=int2}", target=replace(TARGET, weights={}))
    with pytest.raises(UsageError, match=r":\n  Gemm stays in float: .* slower than float on this target \(second\)"):
        few = replace(TARGET, weights={4: {"onnxruntime": frozenset(["MatMul"])}})
        planish.optimize(layers, "quantize{scheme=int4,skip=first|third}", target=few)
    planish.optimize(layers, "quantize{scheme=int2,required=false}", target=replace(TARGET, weights={}))


def test_what_another_tool_has_quantized_is_named(graph_of) -> None:
    graph = graph_of(
        """(%x: uint8[1, 3]) {
          const %w: int8[3, 2]
          %y: int32[1, 2] = MatMulInteger(%x, %w) @ "head"
          return y = %y
        }""",
        {"w": np.ones((3, 2), np.int8)},
    )
    with pytest.raises(UsageError, match=r"MatMulInteger stays as it is: it computes in integers already \(head\)"):
        planish.optimize(graph, "quantize{scheme=int4}", target=TARGET)


@pytest.mark.parametrize(
    "step", ["quantize", "gptq", "prune-channels{ratio=0.5}", "factorize{ratio=0.5}", "sparsify{sparsity=0.5}"]
)
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_layers_that_are_quantized_already_are_named(step: str, scheme: str, layers: Graph) -> None:
    data = [{"x": normal(4, 32)}, {"x": normal(4, 32)}]
    quantized = planish.optimize(layers, f"quantize{{scheme={scheme}}}", data=data, target=TARGET).graph
    with pytest.raises(UsageError, match=" stays as it is: it is quantized already"):
        planish.optimize(quantized, step, data=data, target=TARGET)


@pytest.mark.parametrize("spread", ["normal", "outliers", "positive", "zero", "tiny"])
def test_weights_are_rounded_with_less_error_than_to_the_whole_range(spread: str) -> None:
    weight = normal(256, 40)
    weight[::32] *= 20 if spread == "outliers" else 1
    weight = {"positive": np.abs(weight) + 1, "zero": 0 * weight, "tiny": weight * np.float32(1e-40)}.get(
        spread, weight
    )
    found = BlockWeight.over(weight, BlockScheme(4, 32))
    assert found.codes.max() <= 15 >= found.zero_points.max()
    blocks = weight.reshape(8, 32, 40)
    low, high = np.minimum(blocks.min(axis=1), 0), np.maximum(blocks.max(axis=1), 0)
    step = np.maximum(high - low, 1e-30)[:, None] / 15
    zero_point = np.rint(-low[:, None] / step)
    plain = (np.clip(np.rint(blocks / step) + zero_point, 0, 15) - zero_point) * step
    errors = [np.square(floats.reshape(-1) - weight.reshape(-1)).sum() for floats in (found.floats, plain)]
    assert errors[0] <= errors[1] * (0.98 if spread in ("normal", "outliers") else 1)


POWER = np.float32([100, *[0.01] * 31] * 3)


@pytest.mark.parametrize("scheme", [(4, 32), (3, 0), (2, 16)], ids=str)
@pytest.mark.parametrize("symmetric", [False, True])
def test_rows_that_are_multiplied_by_more_are_rounded_less(scheme: tuple[int, int], symmetric: bool) -> None:
    weight, how = normal(96, 40), BlockScheme(*scheme, symmetric)
    alike, weighted = (
        np.square(BlockWeight.over(weight, how, power).floats - weight).T @ POWER for power in (None, POWER)
    )
    assert weighted.mean() < 0.7 * alike.mean()


@pytest.mark.parametrize("place", [0, 95])
@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_rows_count_alike_where_what_multiplies_them_is_no_number(number: float, place: int) -> None:
    weight, how, broken = normal(96, 8), BlockScheme(4, 32), POWER.copy()
    broken[place] = number
    alike = BlockWeight.over(weight, how).floats
    for power in (broken, np.zeros(96), np.zeros(1)):
        np.testing.assert_array_equal(BlockWeight.over(weight, how, power).floats, alike)


@pytest.mark.parametrize("factor", [1e-40, 1e-9, 1e34])
def test_only_the_proportions_of_what_multiplies_rows_matter(factor: float) -> None:
    weight, how, power = normal(96, 8), BlockScheme(4, 32), np.float32([4, 1, 2] * 32)
    scaled = BlockWeight.over(weight, how, power * np.float32(factor))
    np.testing.assert_allclose(scaled.floats, BlockWeight.over(weight, how, power).floats, rtol=1e-5)


def test_weights_whose_squares_are_beyond_floats_are_rounded_to_the_nearest() -> None:
    weight, how = normal(64, 8) * np.float32(1e30), BlockScheme(4, 32)
    np.testing.assert_array_equal(BlockWeight.over(weight, how).codes, BlockWeight.nearest(weight, how).codes)


GAINS = """(%x: float32[rows, 64]) {
  const %gain: float32[64]
  const %w: float32[64, 48]
  %a: float32[rows, 64] = Mul(%x, %gain)
  %y: float32[rows, 48] = MatMul(%a, %w)
  return y = %y
}"""


def gains(graph_of) -> Graph:
    return graph_of(GAINS, {"gain": np.float32([8, 0.5, 0.5, 0.5] * 16), "w": normal(64, 48)})


def stored(graph: Graph) -> np.ndarray:
    """What the first MatMulNBits multiplies by."""
    weight = BlockWeight.of(next(node for node in graph.nodes if node.operator == "com.microsoft::MatMulNBits"))
    assert weight is not None
    return weight.floats


def test_channels_that_carry_more_count_more_without_data(graph_of) -> None:
    """What a normalization's scales make of channels shows on random inputs."""
    graph = gains(graph_of)
    (gain, weight), scheme = weights(graph).values(), BlockScheme(4, 32)
    quantized(graph)
    x = normal(200, 64) * gain
    errors = [
        np.square(x @ (floats - weight)).sum() for floats in (stored(graph), BlockWeight.over(weight, scheme).floats)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_calibration_data_stand_in_for_random_inputs(graph_of) -> None:
    """In these the channels that a model would make smaller carry more."""
    source = gains(graph_of)
    gain, weight = weights(source).values()
    inputs = normal(200, 64) * np.float32([0.01, 1, 1, 30] * 16)
    errors = []
    for data in ((), [{"x": inputs}]):
        made = planish.optimize(source, "quantize{scheme=int4}", target=TARGET, data=data).graph
        errors.append(np.square((inputs * gain) @ (stored(made) - weight)).sum())
    assert errors[1] < 0.8 * errors[0]


def test_all_that_a_shared_weight_multiplies_counts(graph_of) -> None:
    """One layer reads large numbers in even channels alone, and the other one in odd ones."""
    graph = graph_of(
        """(%x: float32[rows, 64]) {
          const %even: float32[64]
          const %odd: float32[64]
          const %w: float32[64, 48]
          %a: float32[rows, 64] = Mul(%x, %even)
          %b: float32[rows, 48] = MatMul(%a, %w)
          %c: float32[rows, 64] = Mul(%x, %odd)
          %d: float32[rows, 48] = MatMul(%c, %w)
          return y = %b, z = %d
        }""",
        {"even": np.float32([3, 0] * 32), "odd": np.float32([0, 3] * 32), "w": normal(64, 48)},
    )
    weight = weights(graph)["w"]
    quantized(graph)
    errors = np.square(stored(graph) - weight).reshape(32, 2, 48).mean(axis=(0, 2))
    assert 0.7 < errors[0] / errors[1] < 1.4


def test_a_graph_that_runs_on_no_random_input_is_rounded_all_the_same(graph_of) -> None:
    graph = graph_of(
        """(%x: float32[rows, 64]) {
          const %shape: int64[2]
          const %w: float32[32, 48]
          %a: float32[7, 32] = Reshape(%x, %shape)
          %y: float32[7, 48] = MatMul(%a, %w)
          return y = %y
        }""",
        {"shape": np.int64([7, 32]), "w": normal(32, 48)},
    )
    weight = weights(graph)["w"]
    quantized(graph)
    np.testing.assert_array_equal(stored(graph), BlockWeight.over(weight, BlockScheme(4, 32)).floats)


@pytest.mark.parametrize("depth", [64, 96, 100])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_a_node_stores_is_read_back(bits: int, symmetric: bool, depth: int) -> None:
    weight = BlockWeight.over(normal(depth, 7), BlockScheme(bits, 32, symmetric))
    found = BlockWeight.of(node_of(weight))
    for name in ("codes", "scales", "zero_points", "scheme"):
        np.testing.assert_array_equal(getattr(found, name), getattr(weight, name))


@pytest.mark.parametrize("scheme", [(3, 32), (4, 0), (2, 0), (8, 512), (2, 256), (2, 16)], ids=str)
@pytest.mark.parametrize("symmetric", [False, True])
def test_what_no_kernel_takes_is_stored_in_a_form_that_means_the_same(scheme: tuple[int, int], symmetric: bool) -> None:
    weight = BlockWeight.over(normal(576, 7), BlockScheme(*scheme, symmetric))
    found = BlockWeight.of(node_of(weight))
    np.testing.assert_array_equal(found.floats, weight.floats)
    assert found.scheme.bits == weight.scheme.stored_bits == {(3, 32): 4, (2, 16): 4}.get(scheme, scheme[0])
    assert found.scheme.block <= 256


def test_a_column_is_stored_in_the_blocks_that_take_the_fewest_bytes() -> None:
    assert [BlockScheme(4, 0).stored_block(depth) for depth in (20, 576, 1000, 1536)] == [32, 64, 256, 256]
    assert [BlockScheme(4, 128).stored_block(depth) for depth in (20, 576, 1000, 1536)] == [32, 64, 128, 128]


def test_columns_are_rounded_alike_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(40, 50)
    whole = BlockWeight.over(weight, BlockScheme(4, 16))
    monkeypatch.setattr("planish.ir.block_weight._SLAB", 40 * 7)
    parts = BlockWeight.over(weight, BlockScheme(4, 16))
    for one, other in zip(whole.inputs, parts.inputs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def node_of(weight: BlockWeight) -> Node:
    graph = Graph()
    k, n = weight.codes.shape
    x = graph.add_input("x", TensorType(DType.float32, (1, k)))
    sizes = {"K": k, "N": n, "bits": weight.scheme.stored_bits, "block_size": weight.stored_block}
    node = Builder(graph)("com.microsoft::MatMulNBits", x, *weight.inputs, **sizes).producer
    assert node is not None
    return node
