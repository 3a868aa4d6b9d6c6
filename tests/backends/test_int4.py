"""Weights of a real sentence encoder in 4 bits, in both backends."""

import numpy as np
import pytest

import planish
from planish.backends import find_backend
from planish.backends.artifact import write_artifact
from planish.backends.tvm.backend import Tvm
from planish.driver.backend_check import BackendCheck
from planish.frontends.onnx import read_onnx
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter

EMBEDDING = "461"
"""The model's name of the embedding."""


@pytest.fixture(scope="module")
def graphs(minilm_file) -> tuple[Graph, Graph]:
    """A sentence encoder in float32, and with weights in 4 bits."""
    graph = read_onnx(minilm_file)
    return graph, planish.optimize(graph, "cleanup,fuse,quantize{scheme=int4}").graph


@pytest.mark.wide
@pytest.mark.parametrize("backend", ["onnxruntime", "tvm"])
def test_a_bert_stays_close_to_float(graphs: tuple[Graph, Graph], target, tmp_path, backend: str) -> None:
    """Embeddings of sentences of random tokens. ONNX Runtime rounds activations to 8 bits, block by block."""
    if backend == "tvm":
        pytest.importorskip("tvm")
    graph, small = graphs
    assert sum(node.operator == "com.microsoft::MatMulNBits" for node in small.nodes) == 18
    compiler = Tvm(checks_kernels=False) if backend == "tvm" else find_backend(backend)
    write_artifact(tmp_path / "dist", small, compiler, target)
    executable = planish.load(tmp_path / "dist")
    rng = np.random.default_rng(0)
    for shape in ((1, 7), (3, 12)):
        feeds = {"input_ids": rng.integers(0, 30000, shape), "attention_mask": np.ones(shape, np.int64)}
        wanted, exact = (Interpreter(each).run(feeds)[EMBEDDING] for each in (graph, small))
        found = executable(**feeds)[list(graph.outputs).index(EMBEDDING)]
        assert cosine(exact, found).min() > (0.998 if backend == "onnxruntime" else 0.999999)
        assert 0.95 < cosine(wanted, found).min() < 0.9999


@pytest.mark.wide
def test_a_build_lets_onnx_runtime_round_activations(graphs: tuple[Graph, Graph], target, tmp_path) -> None:
    _, small = graphs
    backend = find_backend("onnxruntime")
    write_artifact(tmp_path / "dist", small, backend, target)
    tokens = np.random.default_rng(0).integers(0, 30000, (3, 12))
    probe = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    BackendCheck(backend, target).hold(planish.load(tmp_path / "dist"), small, [probe], tmp_path)


def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(axis=-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
