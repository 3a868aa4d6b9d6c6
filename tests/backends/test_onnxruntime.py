import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest

from planish.backends import Executable, find_backend
from planish.backends.artifact import load, write_artifact
from planish.backends.legal import legalized
from planish.backends.onnxruntime.session import session
from planish.frontends.onnx import read_onnx
from planish.ir.builder import Builder
from planish.ir.errors import ModelError, TargetError
from planish.ir.graph import Graph, Location, Value
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType
from planish.targets.load import load_target


def lowered(graph: Graph, target, folder: Path) -> Executable:
    write_artifact(folder, graph, find_backend("onnxruntime"), target)
    return load(folder, threads=2)


def original(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def check(graph: Graph, executable: Executable, path: Path, feeds: dict[str, np.ndarray]) -> None:
    """The original file, ONNX Runtime on the graph, and the interpreter agree."""
    expected = original(path, feeds)
    for name, found in (
        ("onnxruntime", executable(**feeds)),
        ("interpreter", list(Interpreter(graph).run(feeds).values())),
    ):
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.wide
def test_a_bert_with_dynamic_batch_and_length(minilm_file: Path, target, tmp_path) -> None:
    graph = read_onnx(minilm_file)
    executable = lowered(graph, target, tmp_path / "dist")
    assert [port.shape for port in executable.inputs] == [("batch_size", "sequence_length")] * 2
    rng = np.random.default_rng(0)
    for shape in ((1, 7), (3, 12)):
        feeds = {"input_ids": rng.integers(0, 30000, shape), "attention_mask": np.ones(shape, np.int64)}
        feeds["attention_mask"][0, 5:] = 0
        check(graph, executable, minilm_file, feeds)


@pytest.mark.wide
def test_a_text_recognizer_with_dynamic_width(ocr_file: Path, target, tmp_path) -> None:
    graph = read_onnx(ocr_file)
    executable = lowered(graph, target, tmp_path / "dist")
    rng = np.random.default_rng(0)
    for shape in ((1, 3, 48, 96), (2, 3, 48, 160)):
        check(graph, executable, ocr_file, {"x": rng.random(shape, dtype=np.float32)})


def test_an_error_at_run_time_names_the_layer(make_graph, target, tmp_path) -> None:
    graph = make_graph(lambda op, x: op.Gather(np.arange(4.0, dtype=np.float32), x), "n", dtype=DType.int64)
    executable = lowered(graph, target, tmp_path / "dist")
    assert np.array_equal(executable(np.array([3, -1]))[0], [3, 3])
    with pytest.raises(ModelError, match=r"ONNX Runtime failed: layer/Gather: .*indices element out of data bounds"):
        executable(np.array([4]))


def test_what_it_has_no_kernel_for_is_refused_when_it_is_built(make_graph, target, tmp_path) -> None:
    weight = np.ones((200, 100))  # too large for text, and for what is tried apart
    graph = make_graph(lambda op, x: op.Mul(op.Erf(op.MatMul(op.Relu(x), weight)), 2.0), "n", 200, dtype=DType.float64)
    message = r"^layer: onnxruntime can't run Erf of float64: there is no kernel for it; give the layer another element"
    with pytest.raises(TargetError, match=message):
        lowered(graph, target, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


def test_the_part_that_it_lacks_is_refused_by_the_name_of_the_whole(make_graph, target, tmp_path) -> None:
    graph = make_graph(lambda op, x: op.Identity(op.Attention(x, x, x, is_causal=1)), 1, 2, 3, 8, dtype=DType.bfloat16)
    message = r"^layer: onnxruntime can't run Attention of bfloat16: there is no kernel for it, or for \w+, which is a"
    with pytest.raises(TargetError, match=message):
        lowered(graph, target, tmp_path / "dist")


HELD = [dtype for dtype in DType if dtype.is_foreign and dtype.bits != 6 and dtype is not DType.float4_e2m1fn]


@pytest.mark.parametrize("dtype", HELD, ids=str)
def test_arrays_of_types_that_numpy_lacks_go_in_and_out(dtype: DType, target, tmp_path) -> None:
    graph = Graph()
    op = Builder(graph)
    x, one = graph.add_input("x", TensorType(dtype, ("n", 3))), graph.add_input("one", TensorType(dtype, ()))
    plain = [op.Cast(value, to=DType.float32) for value in (x, one)]
    graph.outputs = {"plain": op.Mul(*plain), "x_again": op.Cast(plain[0], to=dtype)}
    executable = lowered(graph, target, tmp_path / "dist")
    for n in (0, 1, 3):
        array = np.resize(np.array([1, 0.5, 4, 0.25] if dtype.is_float else [1, 0, 1, 1]).astype(dtype.numpy), (3, n)).T
        plain, again = executable(array, np.ones((), dtype.numpy))
        np.testing.assert_array_equal(plain, array.astype(np.float32))
        assert again.dtype == array.dtype
        assert again.shape == array.shape
        assert again.tobytes() == array.tobytes()
    with pytest.raises(ModelError, match=f"must be {dtype}"):
        executable(np.zeros((1, 3), np.float32), np.ones((), dtype.numpy))


def branching(build: Callable[[Builder, Value], Value], dtype: DType) -> Graph:
    """A graph whose branches compute the same."""
    graph, branches = Graph(), {}
    x, yes = graph.add_input("x", TensorType(dtype, ("n",))), graph.add_input("yes", TensorType(DType.bool, ()))
    for name in ("then_branch", "else_branch"):
        branches[name] = Graph(name, graph)
        branches[name].outputs["y"] = build(Builder(branches[name], location=Location(f"net.{name}")), x)
    type = branches["then_branch"].outputs["y"].type
    graph.outputs["y"] = graph.add_node("If", [yes], [type], branches, location=Location("net")).output
    return graph


def test_what_has_to_be_spelled_out_is_in_graphs_inside_nodes_too(target, tmp_path) -> None:
    graph = branching(lambda op, x: op.Cast(op.Cast(x, to=DType.int4), to=DType.float32), DType.float32)
    executable = lowered(graph, target, tmp_path / "dist")
    assert executable(np.array([1.75, 0.5], np.float32), np.array(True))[0].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda op, x: op.Erf(x), r"^net\.then_branch: onnxruntime can't run Erf of float64: there is no kernel"),
        (lambda op, x: op.Cast(x, to=DType.int2), r"^net: onnxruntime can't run If of bool, int2: "),
    ],
    ids=["inside", "around"],
)
def test_of_control_flow_the_part_at_fault_is_named(build, message: str, target, tmp_path) -> None:
    with pytest.raises(TargetError, match=message):
        lowered(branching(build, DType.float64), target, tmp_path / "dist")


def test_narrow_inputs_alone_need_no_narrow_outputs(make_graph, target, tmp_path) -> None:
    graph = make_graph(lambda op, x: op.DequantizeLinear(x, np.float32(0.5)), "n", dtype=DType.int4)
    executable = lowered(graph, target, tmp_path / "dist")
    assert executable(np.array([-8, 7, 1]).astype(DType.int4.numpy))[0].tolist() == [-4, 3.5, 0.5]


@pytest.mark.parametrize("dtype", [DType.float4_e2m1fn, DType.float6_e2m3fn, DType.float6_e3m2fn], ids=str)
def test_types_that_it_lacks_are_refused_by_layer(dtype: DType, make_graph, target, tmp_path) -> None:
    graph = make_graph(lambda op, x: op.Relu(op.Cast(op.Cast(x, to=dtype), to=DType.float32)), "n")
    with pytest.raises(TargetError, match=f"^layer: onnxruntime can't run Cast of float32, {dtype}: "):
        lowered(graph, target, tmp_path / "dist")


@pytest.mark.parametrize(
    ("queries", "shape"),
    [
        *((5, shape) for shape in ((7,), (1, 7), (2, 1, 1, 7), (3, 1, 7), (5, 7), (5, 3))),
        *(("n", shape) for shape in ((7,), (1, 7), (2, 1, 1, 7))),
    ],
    ids=str,
)
def test_attention_with_masks_of_any_shape(target, tmp_path, queries: int | str, shape: tuple[int, ...]) -> None:
    """ONNX Runtime itself takes masks that speak of each query and key alone."""
    rng = np.random.default_rng(0)
    graph = Graph()
    op = Builder(graph)
    q, k = (TensorType(DType.float32, (2, 3, length, 8)) for length in (queries, 7))
    inputs = [graph.add_input(name, type) for name, type in (("q", q), ("k", k), ("v", k))]
    graph.outputs["y"] = op.Attention(*inputs, op.constant(rng.standard_normal(shape).astype(np.float32)))
    feeds = {
        name: rng.standard_normal((2, 3, length, 8)).astype(np.float32)
        for name, length in (("q", 5), ("k", 7), ("v", 7))
    }
    (found,) = lowered(graph, target, tmp_path / "dist")(**feeds)
    np.testing.assert_allclose(found, Interpreter(graph).run(feeds)["y"], rtol=1e-4, atol=1e-5)


LOWEST = np.float32(np.finfo(np.float32).min)
SEEN = np.tri(5, 7, 1, dtype=bool) & (np.arange(5) != 2)[:, None]
"""Where a query may look: the third one nowhere."""


@pytest.mark.parametrize("fill", [LOWEST, -np.inf], ids=str)
@pytest.mark.parametrize("kind", ["constant", "input", "computed", "broadcast"])
def test_rows_that_are_masked_altogether(kind: str, fill: float, target, tmp_path) -> None:
    """Rows masked by the lowest number give the mean of the values, by minus infinity zeros, in several layers."""
    rng = np.random.default_rng(0)
    graph = Graph()
    op = Builder(graph)
    keys = TensorType(DType.float32, (2, 3, 7, 8))
    x = graph.add_input("x", TensorType(DType.float32, (2, 3, 5, 8)))
    k, v = (graph.add_input(name, keys) for name in ("k", "v"))
    seen = SEEN if kind != "broadcast" else np.zeros((1, 7), dtype=bool)
    feeds = {
        name: rng.standard_normal((2, 3, length, 8)).astype(np.float32)
        for name, length in (("x", 5), ("k", 7), ("v", 7))
    }
    added = np.where(seen, np.float32(0), np.float32(fill))
    if kind == "constant":
        mask = op.constant(added)
    elif kind == "input":
        mask = graph.add_input("mask", TensorType(DType.float32, seen.shape))
        feeds["mask"] = added
    else:
        given = graph.add_input("seen", TensorType(DType.bool, seen.shape))
        mask = op.Where(given, np.float32(0), np.float32(fill))
        feeds["seen"] = seen
    for _ in range(2):
        x = op.Attention(x, k, v, mask)
    graph.outputs["y"] = x
    (found,) = lowered(graph, target, tmp_path / "dist")(**feeds)
    np.testing.assert_allclose(found, Interpreter(graph).run(feeds)["y"], rtol=1e-4, atol=1e-5)
    equals = [node for node in legalized(graph, target, "onnxruntime").nodes if node.operator == "Equal"]
    assert len(equals) == (kind == "input" or (kind in ("computed", "broadcast") and fill == LOWEST))


def test_running_statistics_are_not_written_over(target, tmp_path) -> None:
    """A second call finds the mean that the first found, and who returns it gets what it was."""
    graph, x = Graph(), np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    op, ones = Builder(graph), graph.add_constant(np.ones(3, np.float32), "ones")
    y, mean, _ = op.BatchNormalization(
        graph.add_input("x", TensorType(DType.float32, x.shape)), *4 * [ones], training_mode=1, outputs=3
    )
    graph.outputs = {"y": y, "mean": mean, "ones": ones}
    expected = Interpreter(graph).run({"x": x})
    executable = lowered(graph, target, tmp_path / "dist")
    for _ in range(2):
        for one, other in zip(expected.values(), executable(x), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_mean_of_cubes_is_not_a_variance(make_graph, target, tmp_path) -> None:
    def build(op: Builder, x: Value) -> Value:
        centred = op.Sub(x, op.ReduceMean(x, [-1]))
        spread = op.Sqrt(op.Add(op.ReduceMean(op.Pow(centred, 3.0), [-1]), 0.5))
        return op.Add(op.Mul(op.Div(centred, spread), np.ones(4, np.float32)), np.zeros(4, np.float32))

    graph, x = make_graph(build, 3, 4), np.arange(12, dtype=np.float32).reshape(3, 4) / 7
    expected = Interpreter(graph).run({"x": x})["y"]
    np.testing.assert_allclose(lowered(graph, target, tmp_path / "dist")(x)[0], expected, rtol=1e-5)


def test_a_norm_of_a_later_opset_beside_what_has_kernels_in_earlier_ones(make_graph, target, tmp_path) -> None:
    def compute(op: Builder, x: Value) -> Value:
        image = op.RMSNormalization(x, np.ones(8, np.float32), epsilon=1e-5)
        boxes, items = np.array([[0, 0, 4, 4]], np.float32), np.array([0])
        return op.RoiAlign(image, boxes, items, output_height=2, output_width=2)

    graph = make_graph(compute, 1, 2, 8, 8)
    feeds = {graph.inputs[0].name: np.random.default_rng(0).standard_normal((1, 2, 8, 8)).astype(np.float32)}
    [expected] = Interpreter(graph).run(feeds).values()
    np.testing.assert_allclose(lowered(graph, target, tmp_path / "dist")(**feeds)[0], expected, rtol=1e-4, atol=1e-5)


BIAS = np.arange(16, dtype=np.float32)
READERS: dict[str, Callable[[Builder, Value], Value]] = {
    "Relu": lambda op, y: op.Relu(y),
    "Clip": lambda op, y: op.Clip(y, 0.0, 6.0),
    "Clip from below": lambda op, y: op.Clip(y, -1.0),
    "Clip from above": lambda op, y: op.Clip(y, None, 1.0),
    "Add": lambda op, y: op.Relu(op.Add(y, BIAS)),
    "Add of a matrix": lambda op, y: op.Add(op.Expand(BIAS, op.Shape(y)), y),
}


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
@pytest.mark.parametrize("reader", READERS)
def test_products_of_integers_that_are_read_as_floats_stay_integers(operator: str, reader: str, target, tmp_path):
    """ONNX Runtime computed them in floats, by weights that it dequantized at each call."""
    graph, random = Graph(), np.random.default_rng(0)
    op, scale, zero = Builder(graph), np.float32(0.1), np.uint8(128)
    codes = op.QuantizeLinear(graph.add_input("x", TensorType(DType.float32, ("n", 8))), scale, zero)
    weight = op.constant(random.integers(-60, 60, (8, 16)).astype(np.int8))
    product = op(operator, op.DequantizeLinear(codes, scale, zero), op.DequantizeLinear(weight, scale, np.int8(0)))
    graph.outputs["y"] = op.MatMul(READERS[reader](op, product), random.standard_normal((16, 3)).astype(np.float32))
    x = random.standard_normal((5, 8)).astype(np.float32)
    [found] = lowered(graph, target, tmp_path / "dist")(x)
    np.testing.assert_allclose(found, Interpreter(graph).run({"x": x})["y"], rtol=1e-4, atol=1e-4)
    session(tmp_path / "dist" / "model.onnx", threads=1, optimized_model_filepath=str(tmp_path / "fused.onnx"))
    kernels = {node.op_type for node in onnx_ir.load(tmp_path / "fused.onnx").graph}
    assert kernels & {"QGemm", "MatMulIntegerToFloat"}


@pytest.mark.parametrize(
    ("flags", "target", "weight", "is_told"),
    [
        ("avx2 fma f16c", "x86-64-avx512-vnni", np.int8, True),
        ("avx2 fma f16c", "x86-64-avx2", np.int8, False),
        ("avx2 fma f16c", "x86-64-avx512-vnni", np.float32, False),
        ("avx2 fma f16c avx_vnni", "x86-64-avx512-vnni", np.int8, False),
    ],
)
def test_sums_that_may_saturate_on_this_machine_are_told(
    flags: str, target: str, weight: type, is_told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = Graph()
    op = Builder(graph, location=Location("head"))
    x = graph.add_input("x", TensorType(DType.float32, (2, 4)))
    values = np.full((4, 3), 127, weight)
    held = op.DequantizeLinear(values, np.float32(0.1)) if weight is np.int8 else values
    graph.outputs["y"] = op.MatMul(x, held)
    write_artifact(tmp_path / "dist", graph, find_backend("onnxruntime"), load_target(target))
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setenv("PLANISH_CPUINFO", str(tmp_path / "cpuinfo"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        load(tmp_path / "dist")
    assert ["ONNX Runtime's sums may saturate here" in str(it.message) for it in told] == [True] * is_told
