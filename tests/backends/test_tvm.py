import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

from planish.backends import find_backend
from planish.backends.artifact import load, write_artifact
from planish.backends.base import Executable
from planish.backends.legal import legalized
from planish.backends.tvm.backend import Tvm
from planish.backends.tvm.runtime.guards import Guards
from planish.backends.tvm.runtime.weights import write_weights
from planish.frontends.onnx import read_onnx
from planish.ir.errors import ModelError, TargetError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType


@pytest.fixture
def lower(target, tmp_path) -> Callable[[Graph], Executable]:
    def lower(graph: Graph) -> Executable:
        write_artifact(tmp_path / "dist", graph, Tvm(checks_kernels=False), target)
        return load(tmp_path / "dist")

    return lower


def check(graph: Graph, executable: Executable, feeds: Mapping[str, np.ndarray], atol: float = 1e-4) -> None:
    expected = Interpreter(graph).run(feeds)
    assert [port.name for port in executable.outputs] == list(expected)
    for one, other in zip(expected.values(), executable(**feeds), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=atol)


def test_a_small_cnn_with_a_dynamic_batch(small_cnn, lower) -> None:
    executable = lower(small_cnn)
    for batch in (1, 5):
        x = np.random.default_rng(batch).standard_normal((batch, 1, 8, 8)).astype(np.float32)
        check(small_cnn, executable, {"x": x})


@pytest.mark.wide
def test_a_bert_with_dynamic_batch_and_length(minilm_file, lower) -> None:
    graph = read_onnx(minilm_file)
    executable = lower(graph)
    rng = np.random.default_rng(0)
    for shape in ((1, 7), (3, 12)):
        feeds = {"input_ids": rng.integers(0, 30000, shape), "attention_mask": np.ones(shape, np.int64)}
        feeds["attention_mask"][0, 5:] = 0
        check(graph, executable, feeds)


@pytest.mark.slow
def test_a_text_recognizer_with_dynamic_width(ocr_file, lower) -> None:
    graph = read_onnx(ocr_file)
    executable = lower(graph)
    for shape in ((1, 3, 48, 96), (2, 3, 48, 160)):
        check(graph, executable, {"x": np.random.default_rng(0).random(shape, dtype=np.float32)})


def test_quantized_and_dequantized_integers(make_graph, lower) -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (8, 2, 3, 3)).astype(np.int8)

    def build(op, x):
        scale, zero_point = np.float32(0.05), np.uint8(128)
        x = op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point), scale, zero_point)
        w = op.DequantizeLinear(weight, np.full(8, 0.01, np.float32), np.zeros(8, np.int8), axis=0)
        b = op.DequantizeLinear(rng.integers(-99, 99, 8).astype(np.int32), np.full(8, 0.0005, np.float32), axis=0)
        y = op.Relu(op.Conv(x, w, b, strides=(2, 2)))
        return op.DequantizeLinear(op.QuantizeLinear(y, np.float32(0.1), np.uint8(0)), np.float32(0.1), np.uint8(0))

    graph = make_graph(build, "batch", 2, 9, 9)
    x = rng.standard_normal((2, 2, 9, 9)).astype(np.float32)
    check(graph, lower(graph), {"x": x}, atol=0.1001)  # one step: sums may round to either side of a half


def test_products_of_dynamically_quantized_integers(make_graph, lower) -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (16, 4)).astype(np.int8)

    def build(op, x):
        integers, scale, zero_point = op.DynamicQuantizeLinear(x, outputs=3)
        total = op.MatMulInteger(integers, weight, zero_point, np.zeros(4, np.int8))
        return op.Mul(op.Cast(total, to=DType.float32), op.Mul(scale, np.full(4, 0.02, np.float32)))

    graph = make_graph(build, "rows", 16)
    check(graph, lower(graph), {"x": rng.standard_normal((3, 16)).astype(np.float32)})


def test_attention_where_a_query_may_look_nowhere(make_graph, lower) -> None:
    rng = np.random.default_rng(0)
    mask = np.array([[True, False, True], [False, False, False]])
    k, v = rng.standard_normal((2, 1, 4, 3, 8)).astype(np.float32)
    graph = make_graph(lambda op, x: op.Attention(x, k, v, mask), 1, 4, 2, 8)
    check(graph, lower(graph), {"x": rng.standard_normal((1, 4, 2, 8)).astype(np.float32)})


@pytest.mark.parametrize(
    ("shape", "dims", "repeats"),
    [
        ((3, 4, 5), (3, 4, 5), (8, 6, 3)),  # LLVM miscompiles TVM's own kernel for this one
        ((2, 1, 5), ("n", 1, 5), (3, 4, 2)),
    ],
)
def test_tiles(make_graph, lower, shape, dims, repeats) -> None:
    graph = make_graph(lambda op, x: op.Tile(x, list(repeats)), *dims)
    x = np.random.default_rng(0).random(shape, dtype=np.float32)
    assert np.array_equal(lower(graph)(x)[0], np.tile(x, repeats))


def test_shapes_are_followed_symbolically(make_graph, lower) -> None:
    """Slices from the end, an expansion, a range and a size that is used as a number."""

    def build(op, x):
        length = op.Gather(op.Shape(x), op.constant(1))
        y = op.Slice(op.Slice(x, [1], [1 << 62], [1]), [-2], [-1], [1])  # the last but one, of what follows the first
        y = op.Expand(y, op.Shape(x))
        y = op.Add(y, op.Cast(op.Range(0, length, 1), to=DType.float32))
        y = op.Div(y, op.Cast(length, to=DType.float32))
        return op.Reshape(y, op.Concat(op.Unsqueeze(length, [0]), op.constant([-1]), axis=0))

    graph = make_graph(build, "batch", "length")
    executable = lower(graph)
    for shape in ((1, 3), (4, 7)):
        check(graph, executable, {"x": np.random.default_rng(0).random(shape, dtype=np.float32)})


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_rows_of_a_table(make_graph, lower, dtype) -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    graph = make_graph(lambda op, x: op.Gather(table, x), "n", dtype=DType.of(np.dtype(dtype)))
    executable = lower(graph)
    assert np.array_equal(executable(np.array([0, 3, -1, -4], dtype))[0], table[[0, 3, -1, -4]])
    with pytest.raises(
        ModelError, match=r"^input 'x': .*: Gather reads index 4000000, which is out of range for an axis of size 4$"
    ):
        executable(np.array([0, 4000000], dtype))


def test_computed_rows_of_a_table_are_the_nearest(make_graph, lower) -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    graph = make_graph(lambda op, x: op.Gather(table, op.Add(x, 1)), "n", dtype=DType.int64)
    assert np.array_equal(lower(graph)(np.array([0, 4000000]))[0], table[[1, 3]])


@pytest.mark.parametrize(
    ("scale", "attributes"),
    [
        (2, {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
        (3, {"mode": "linear"}),
        (2, {"mode": "cubic", "cubic_coeff_a": -0.5}),
    ],
)
def test_images_of_symbolic_size_are_resized(make_graph, lower, scale: int, attributes: dict[str, str]) -> None:
    scales = np.array([1, 1, scale, scale], np.float32)
    graph = make_graph(lambda op, x: op.Resize(x, None, scales, **attributes), "n", 3, "height", "width")
    check(graph, lower(graph), {"x": np.random.default_rng(0).random((1, 3, 5, 7), dtype=np.float32)})


def scaled_pools(op, x):
    for factor in (1.0, 2.0, 3.0):
        y = op.Clip(op.MaxPool(x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)), np.float32(0), np.float32(6))
        x = op.Add(op.Mul(y, factor), op.Sigmoid(y))
    return x


def transformer_layer(op, x):
    weights = np.random.default_rng(0).standard_normal((32, 32), np.float32)
    q, k, v = (op.Gelu(op.MatMul(x, weights * scale)) for scale in (1, 2, 3))
    y = op.Attention(q, k, v, q_num_heads=2, kv_num_heads=2, is_causal=1)
    y = op.LayerNormalization(op.Add(op.MatMul(y, weights), x), np.ones(32, np.float32))
    return op.MatMul(op.Softmax(y), op.Sin(op.Transpose(op.Slice(y, [0], [16], [1]), perm=(0, 2, 1))))


@pytest.mark.parametrize(
    ("build", "dims"),
    [
        pytest.param(scaled_pools, ("batch", 3, "height", "width"), marks=pytest.mark.wide),
        (transformer_layer, ("batch", "length", 32)),
    ],
)
def test_the_same_graph_gives_the_same_library(make_graph, target, tmp_path, build, dims) -> None:
    graph = make_graph(build, *dims)
    libraries = set()
    for attempt in range(3):
        (tmp_path / str(attempt)).mkdir()
        legal = legalized(graph, target, "tvm")
        library, *_ = find_backend("tvm").compile(legal, graph, target, tmp_path / str(attempt))
        libraries.add(library.read_bytes())
    assert len(libraries) == 1


def test_what_it_can_t_run_is_refused_with_the_layer(make_graph, lower) -> None:
    with pytest.raises(TargetError, match="layer: tvm can't run RandomUniformLike: there is no kernel for it"):
        lower(make_graph(lambda op, x: op.RandomUniformLike(x), 2, 2))


def test_linking_needs_a_compiler(make_graph, lower, monkeypatch, tmp_path) -> None:
    graph = make_graph(lambda op, x: op.Neg(x), 2)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TargetError, match="TVM needs a C compiler to link with"):
        lower(graph)


def test_a_size_may_differ_from_run_to_run(make_graph, lower) -> None:
    executable = lower(make_graph(lambda op, x: op.ReduceMax(x, [0]), "n"))
    assert np.array_equal(executable(np.array([1, 3, 2], np.float32))[0], [3])
    assert np.array_equal(executable(np.array([1, 2], np.float32))[0], [2])


def test_a_rebuilt_artifact_is_the_new_one(make_graph, lower) -> None:
    x = np.ones(2, np.float32)
    old = lower(make_graph(lambda op, x: op.Add(x, 1.0), 2))
    new = lower(make_graph(lambda op, x: op.Add(x, 2.0), 2))
    assert [executable(x)[0].tolist() for executable in (old, new)] == [[2, 2], [3, 3]]


def test_what_kernels_are_given_is_checked_before_they_run(make_graph, target, tmp_path: Path) -> None:
    """Kernels of fixed sizes check nothing themselves: the artifact does, and the virtual machine behind it."""
    write_artifact(tmp_path / "dist", make_graph(lambda op, x: op.Add(x, x), 3, 4), Tvm(checks_kernels=False), target)
    executable, rows = load(tmp_path / "dist"), np.arange(48, dtype=np.float32).reshape(6, 8)
    np.testing.assert_array_equal(executable(rows[::2, ::2])[0], 2 * rows[::2, ::2])
    with pytest.raises(ModelError, match="'x' .* is missing"):
        executable()
    for wrong, reason in (
        (np.zeros((4, 3), np.float32), "dimension 0 must be 3"),
        (np.zeros((0, 4), np.float32), "dimension 0 must be 3"),
        (np.zeros(12, np.float32), "the rank differs"),
        (np.zeros((3, 4)), "convert it"),
    ):
        with pytest.raises(ModelError, match=reason):
            executable(wrong)
        with pytest.raises(ModelError, match="TVM failed: "):
            executable.run({"x": wrong})


def test_a_damaged_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.so").write_bytes(b"not a library")
    Guards({}, {}).write(tmp_path)
    write_weights(tmp_path, [])
    with pytest.raises(ModelError, match=r"model\.so: TVM can't load it"):
        find_backend("tvm").load(tmp_path, [], [], None)


SORTED = """
import sys

import numpy as np

import planish

print(planish.load(sys.argv[1])(np.array([3, 1, 2], np.float32))[0].tolist())
"""


def test_what_sorts_runs_in_a_process_that_compiles_nothing(make_graph, target, tmp_path) -> None:
    graph = make_graph(lambda op, x: op.TopK(x, np.array([2]), outputs=2)[0], 3)
    write_artifact(tmp_path / "dist", graph, find_backend("tvm"), target)
    program = [sys.executable, "-c", SORTED, str(tmp_path / "dist")]
    run = subprocess.run(program, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[3.0, 2.0]"


PINNED = """
import os
import sys

import planish

cores = os.sched_getaffinity(0)
planish.load(sys.argv[1])
print(os.sched_getaffinity(0) == cores)
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system ties no thread to a core")
def test_loading_leaves_the_caller_free_to_run_on_every_core(make_graph, target, tmp_path) -> None:
    graph = make_graph(lambda op, x: op.Relu(x), "batch", 3)
    write_artifact(tmp_path / "dist", graph, find_backend("tvm"), target)
    environment = {name: value for name, value in os.environ.items() if name != "TVM_BIND_THREADS"}
    program = [sys.executable, "-c", PINNED, str(tmp_path / "dist")]
    run = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "True"
