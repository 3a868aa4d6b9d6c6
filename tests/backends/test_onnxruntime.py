from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from planish.backends import Executable, find_backend
from planish.backends.artifact import load, write_artifact
from planish.frontends.onnx import read_onnx
from planish.ir.errors import ModelError, TargetError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType


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


def test_a_bert_with_dynamic_batch_and_length(minilm_file: Path, target, tmp_path) -> None:
    graph = read_onnx(minilm_file)
    executable = lowered(graph, target, tmp_path / "dist")
    assert [port.shape for port in executable.inputs] == [("batch_size", "sequence_length")] * 2
    rng = np.random.default_rng(0)
    for shape in ((1, 7), (3, 12)):
        feeds = {"input_ids": rng.integers(0, 30000, shape), "attention_mask": np.ones(shape, np.int64)}
        feeds["attention_mask"][0, 5:] = 0
        check(graph, executable, minilm_file, feeds)


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
    graph = make_graph(lambda op, x: op.Erf(x), 2, dtype=DType.float64)
    with pytest.raises(TargetError, match=r"ONNX Runtime can't run the model: .*Erf"):
        write_artifact(tmp_path / "dist", graph, find_backend("onnxruntime"), target)
    assert not (tmp_path / "dist").exists()
