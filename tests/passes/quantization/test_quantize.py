"""Quantization end to end: what ONNX Runtime makes of the graph, how close it stays, what stays in float and why."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from machine import without_saturation

import planish
from planish.backends.legal import legalized
from planish.backends.onnx_file import write_onnx
from planish.ir.builder import Builder
from planish.ir.equal import differences
from planish.ir.errors import UsageError
from planish.ir.graph import Graph, Location
from planish.ir.numerics import drift
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.passes.base import PassContext, Profile
from planish.passes.probes import run_graph
from planish.passes.quantization.quantize import Quantize
from planish.targets.load import load_target

TARGET = load_target("x86-64-avx512-vnni")
HERE = without_saturation(TARGET)
RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.3).astype(np.float32)


def convolutions() -> Graph:
    """Two convolutions with rectifiers, a residual sum, a mean over the image and a linear layer."""
    graph = Graph()
    op = Builder(graph, location=Location("stem"))
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 3, 16, 16)))
    first = op.Relu(op.Conv(x, array(16, 3, 3, 3), array(16), pads=(1, 1, 1, 1)))
    op.location = Location("body")
    second = op.Relu(op.Add(op.Conv(first, array(16, 16, 3, 3), array(16), pads=(1, 1, 1, 1)), first))
    op.location = Location("head")
    graph.outputs["logits"] = op.Gemm(op.ReduceMean(second, [2, 3], keepdims=0), array(10, 16), array(10), transB=1)
    return graph


def projections() -> Graph:
    """A linear layer over tokens, as transformers have it."""
    graph = Graph()
    op = Builder(graph, location=Location("dense"))
    x = graph.add_input("x", TensorType(DType.float32, ("batch", "sequence", 64)))
    graph.outputs["y"] = op.Add(op.MatMul(x, array(64, 128)), array(128))
    return graph


CASES = {"convolutions": (convolutions, (2, 3, 16, 16)), "projections": (projections, (2, 5, 64))}


def quantized(name: str, target=TARGET, **options):
    make, shape = CASES[name]
    source = make()
    feeds = [{"x": RNG.standard_normal(shape).astype(np.float32)} for _ in range(4)]
    graph = source.clone()
    result = Quantize(**options).apply(graph, PassContext(target, source, feeds))
    verify(graph)
    return source, graph, feeds, result


def optimized_operators(graph: Graph, folder) -> list[str]:
    """The operators that are left once ONNX Runtime has fused the graph for itself."""
    write_onnx(graph, folder / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(folder / "model.onnx", options)
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


def test_static_convolutions_run_in_integer_kernels(tmp_path):
    _, graph, _, result = quantized("convolutions")
    operators = optimized_operators(graph, tmp_path)
    assert result.counts["layers"] == 3
    assert operators.count("QLinearConv") == 2
    assert "QLinearGlobalAveragePool" in operators
    assert not {"Conv", "Gemm", "FusedConv", "ReduceMean"} & set(operators)


def test_static_linear_layers_run_in_integer_kernels(tmp_path):
    _, graph, _, _ = quantized("projections")
    operators = optimized_operators(graph, tmp_path)
    assert "MatMul" not in operators
    assert {"QLinearMatMul", "MatMulIntegerToFloat"} & set(operators)


def test_dynamic_linear_layers_run_in_integer_kernels(tmp_path):
    _, graph, _, _ = quantized("projections", scheme="int8-dynamic")
    operators = optimized_operators(graph, tmp_path)
    assert "MatMul" not in operators
    assert {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"} & set(operators)


def test_dynamic_quantization_leaves_convolutions_in_float_and_says_so():
    _, graph, _, result = quantized("convolutions", scheme="int8-dynamic")
    assert [node.operator for node in graph.nodes].count("Conv") == 2
    assert any("stem" in miss for miss in result.misses)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("options", [{}, {"observer": "minmax"}, {"observer": "mse"}, {"per_channel": False}])
def test_outputs_stay_close_to_float(name, options):
    source, graph, feeds, _ = quantized(name, **options)
    assert 0 < drift(run_graph(source, feeds), run_graph(graph, feeds)) < 0.05


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scheme", ["int8", "int8-dynamic"])
def test_onnx_runtime_agrees_with_the_interpreter(name, scheme, tmp_path):
    _, graph, feeds, _ = quantized(name, HERE, scheme=scheme)
    write_onnx(graph, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for feed, expected in zip(feeds, run_graph(graph, feeds), strict=True):
        [got] = session.run(None, feed)
        [wanted] = expected.values()
        step = np.abs(wanted).max() / 100  # a grid of 255 steps spans the outputs
        assert np.abs(got - wanted).max() <= step


def test_weights_are_int8_by_channel_and_symmetric():
    _, graph, _, _ = quantized("convolutions")
    weights = [constant for constant in graph.constants.values() if constant.data.ndim == 4]
    assert {weight.dtype for weight in weights} == {DType.int8}
    for weight in weights:
        largest = np.abs(weight.data.astype(int)).reshape(weight.shape[0], -1).max(axis=1)
        assert (largest == 127).all()


def test_weights_have_seven_bits_where_eight_would_saturate():
    _, graph, _, _ = quantized("convolutions", target=load_target("x86-64-avx2"))
    weights = [constant.data for constant in graph.constants.values() if constant.dtype is DType.int8]
    assert weights
    assert max(np.abs(weight.astype(int)).max() for weight in weights if weight.size > 1) <= 64


@pytest.mark.wide
@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("convolutions", "int8"),
        ("projections", "int8"),
        ("projections", "int8-dynamic"),
    ],
)
def test_weights_in_four_bits_take_up_half_the_bytes_and_run_in_the_same_kernels(name, scheme, tmp_path):
    sizes, operators = {}, {}
    for bits in (8, 4):
        source, graph, feeds, _ = quantized(name, HERE, scheme=scheme, weight_bits=bits, smooth=False)
        weights = [constant for constant in graph.constants.values() if constant.type.rank > 1]
        assert {weight.dtype for weight in weights} - {DType.float32} == {DType.int8 if bits == 8 else DType.int4}
        sizes[bits] = sum(constant.data.size * constant.dtype.bits / 8 for constant in weights)
        operators[bits] = optimized_operators(graph, tmp_path)
        assert 0 < drift(run_graph(source, feeds), run_graph(graph, feeds)) < 0.3
        for backend in ("onnxruntime", "tvm"):
            [found], [wanted] = planish.compile(graph, backend=backend)(**feeds[0]), run_graph(graph, feeds)[0].values()
            assert np.abs(found - wanted).max() <= np.abs(wanted).max() / 100
    assert sizes[4] <= 0.5 * sizes[8] + 512  # of a bias, a row in float32
    assert operators[4] == operators[8]


def test_skipped_layers_stay_in_float():
    _, graph, _, result = quantized("convolutions", skip=("stem",))
    [stem] = [node for node in graph.nodes if node.operator == "Conv" and node.location.module == "stem"]
    assert stem.inputs[1].dtype is DType.float32
    assert stem.constant(1) is not None
    assert result.counts["layers"] == 2
    assert not result.notes


def test_globs_that_name_no_layer_are_told():
    _, _, _, result = quantized("convolutions", skip=("steam", "Co?v"), only=("stem", "heads.*"))
    assert [note.split(",")[0] for note in result.notes] == [
        "no layer is called heads.*",
        "no layer is called steam",
    ]


def test_a_swish_between_integers_is_one_kernel(tmp_path):
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 3, 16, 16)))
    image = op.Swish(op.Conv(x, array(16, 3, 3, 3), array(16)))
    graph.outputs["y"] = op.Conv(image, array(8, 16, 1, 1), array(8))
    feeds = [{"x": RNG.standard_normal((2, 3, 16, 16)).astype(np.float32)} for _ in range(4)]
    source = graph.clone()
    Quantize().run(graph, PassContext(TARGET, source, feeds))
    operators = optimized_operators(legalized(graph, TARGET, "onnxruntime"), tmp_path)
    assert "QuickGelu" in operators
    assert "Sigmoid" not in operators


@pytest.mark.parametrize(("odd", "in_float"), [(0, []), (1, ["head"]), (16, [])], ids=["none", "one", "half"])
def test_what_one_sample_stretches_stays_in_float(odd: int, in_float: list[str]) -> None:
    """Behind the mean, one image in 32 is 300 times as large; where it is half of them, all count."""
    graph = Graph()
    op = Builder(graph, location=Location("stem"))
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 3, 16, 16)))
    image = op.Relu(op.Conv(x, array(16, 3, 3, 3), array(16), pads=(1, 1, 1, 1)))
    gain = graph.add_input("gain", TensorType(DType.float32, ("batch", 1, 1, 1)))
    op.location = Location("body")
    scaled = op.Mul(op.Relu(op.Conv(image, array(16, 16, 3, 3), array(16))), gain)
    op.location = Location("head")
    graph.outputs["y"] = op.Conv(scaled, array(16, 16, 3, 3), array(16))
    gains = np.ones((32, 1, 1, 1), np.float32)
    gains[:odd] = 300
    feeds = [
        {"x": RNG.standard_normal((8, 3, 16, 16)).astype(np.float32), "gain": gains[start : start + 8]}
        for start in range(0, 32, 8)
    ]
    found = Quantize().run(graph, PassContext(TARGET, graph.clone(), feeds))
    assert [line.split(":")[0] for line in found.misses if "few samples" in line] == in_float


def test_a_channel_that_one_sample_lights_up_is_not_evened_out() -> None:
    """Else it would no longer stretch what is read, and the weights behind it would hold little but that channel."""
    graph = Graph()
    op = Builder(graph, location=Location("stem"))
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 3, 16, 16)))
    weight = array(16, 3, 3, 3)
    weight[:, 2] = 0
    weight[3] = [[[0]], [[0]], [[1]]]
    image = op.Relu(op.Conv(x, weight, array(16)))
    op.location = Location("head")
    inner = op.Sigmoid(op.Conv(image, array(16, 16, 3, 3), array(16)))
    op.location = Location("tail")
    graph.outputs["y"] = op.Conv(inner, array(16, 16, 3, 3), array(16))
    images = np.abs(RNG.standard_normal((4, 8, 3, 16, 16))).astype(np.float32)
    images[0, 0, 2] *= 300
    found = Quantize().run(graph, PassContext(TARGET, graph.clone(), [{"x": batch} for batch in images]))
    assert [line.split(":")[0] for line in found.misses if "few samples" in line] == ["stem", "head"]
    assert not found.counts["equalized"]


@pytest.mark.parametrize(("apart", "is_told"), [(100.0, False), (0.0001, True)])
def test_classes_that_rounding_mixes_up_are_told(apart: float, is_told: bool) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 64)))
    graph.outputs["logits"] = Builder(graph).Gemm(x, 1 + apart * np.eye(16, 64, dtype=np.float32), transB=1)
    far = 5 * np.eye(16, 64)  # each row has a class of its own
    feeds = [{"x": (RNG.standard_normal((16, 64)) * 0.1 + far).astype(np.float32)} for _ in range(8)]
    notes = Quantize().run(graph, PassContext(TARGET, graph.clone(), feeds)).notes
    assert any("quantize-mixed" in note for note in notes) is is_told


def test_static_quantization_asks_for_calibration_data():
    graph = convolutions()
    with pytest.raises(UsageError, match="calibration"):
        Quantize().apply(graph, PassContext(TARGET, graph))


def test_an_unknown_scheme_is_refused_with_the_nearest():
    graph = convolutions()
    with pytest.raises(UsageError, match=r"int8-dynamic"):
        Quantize(scheme="int8-dynamik").apply(graph, PassContext(TARGET, graph))


def test_a_target_without_integer_kernels_keeps_the_graph():
    _, graph, _, result = quantized("convolutions", target=replace(TARGET, int8=None))
    assert not result.changed
    assert result.misses
    assert "QuantizeLinear" not in {node.operator for node in graph.nodes}


def test_rows_on_grids_of_their_own_stay_closer_to_float_and_run_in_onnx_runtime(tmp_path):
    source = projections()
    feeds = [{"x": (RNG.standard_normal((2, 5, 64)) * [[[9], [1], [0.1], [1], [3]]]).astype(np.float32)}]
    moves = {}
    for per_row in (False, True):
        graph = source.clone()
        Quantize(scheme="int8-dynamic", per_row=per_row).apply(graph, PassContext(HERE, source, feeds))
        [[wanted], [got]] = ([output["y"] for output in run_graph(each, feeds)] for each in (source, graph))
        moves[per_row] = np.abs(got - wanted)[:, 2].max()
        write_onnx(legalized(graph, TARGET, "onnxruntime"), tmp_path / "model.onnx")
        [found] = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, feeds[0])
        assert np.abs(found - got).max() <= np.abs(got).max() / 100
    assert 0 < moves[True] < moves[False] / 8


def test_a_single_row_has_one_grid():
    graph = Graph()
    op = Builder(graph, location=Location("dense"))
    graph.outputs["y"] = op.MatMul(graph.add_input("x", TensorType(DType.float32, (64,))), array(64, 128))
    source = graph.clone()
    Quantize(scheme="int8-dynamic", per_row=True).apply(graph, PassContext(TARGET, source))
    assert "DynamicQuantizeLinear" in {node.operator for node in graph.nodes}


@pytest.mark.parametrize("scheme", ["int8-dynamic", "int4"])
def test_layers_that_follow_each_other_at_once(scheme):
    """Layers of a factorized weight are like this: the second one reads what the first one was rewritten to."""
    graph = Graph()
    op = Builder(graph, location=Location("dense"))
    x = graph.add_input("x", TensorType(DType.float32, (2, 64)))
    graph.outputs["y"] = op.MatMul(op.MatMul(x, array(64, 32)), array(32, 64))
    source = graph.clone()
    assert Quantize(scheme=scheme).apply(graph, PassContext(TARGET, source)).counts["layers"] == 2
    verify(graph)
    feeds = [{"x": array(2, 64)}]
    assert drift(run_graph(source, feeds), run_graph(graph, feeds)) < 0.2


@pytest.mark.parametrize("scheme", ["int8", "int8-dynamic"])
def test_a_model_that_integers_make_slower_stays_in_float_and_says_so(scheme: str) -> None:
    source = projections()
    feeds = [{"x": RNG.standard_normal((2, 5, 64)).astype(np.float32)}]

    def profile(graphs: Sequence[Graph], *, by_layer: bool, settled: Callable[[np.ndarray], bool]) -> list[Profile]:
        assert not by_layer
        assert settled(np.array([[0.010] * 8, [0.009] * 8]))
        assert not settled(np.array([[0.010] * 8, [0.009] * 5 + [0.011] * 3]))
        return [Profile(np.full(8, 0.010 if len(graph) == len(source) else 0.012), {}, {}) for graph in graphs]

    context = PassContext(TARGET, source, feeds, profile=profile)
    graph = source.clone()
    unread = replace(context, calibration=[*feeds, {}])  # a batch without inputs: calibrating on it would raise
    result = Quantize(scheme=scheme).apply(graph, unread)
    assert not result.changed
    assert result.misses[0].startswith("one sample would take 12 ms instead of 10 ms, 1.20 times as long")
    assert differences(source, graph) == []
    verify(graph)
    assert Quantize(scheme=scheme, if_slower="keep").apply(graph.clone(), context).changed
    assert Quantize(scheme=scheme).apply(graph, replace(context, profile_decides=False)).changed


@pytest.mark.parametrize(("smooth", "times"), [(False, 1), (True, 2)])
def test_what_differs_from_the_sketch_that_was_timed_is_timed_too(smooth: bool, times: int) -> None:
    source = projections()
    x = RNG.standard_normal((16, 5, 64)).astype(np.float32)
    x[..., 3] *= 50  # which smoothing divides
    timed: list[Sequence[Graph]] = []

    def profile(graphs: Sequence[Graph], **_: object) -> list[Profile]:
        timed.append(graphs)
        return [Profile(np.full(8, 0.010 if len(graph) == len(source) else 0.008), {}, {}) for graph in graphs]

    context = PassContext(TARGET, source, [{"x": x}], profile=profile)
    result = Quantize(smooth=smooth).apply(source.clone(), context)
    assert result.changed
    assert bool(result.counts.get("smoothed")) == smooth
    assert len(timed) == times
