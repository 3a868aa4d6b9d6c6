"""Small models of any width, for many calls and many builds: a convolution, attention, a product, any batch size."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import numpy_helper

import planish
from planish.ir.graph import Graph

_TEXT = """<ir_version: 10, opset_import: ["": 24]>
net (float[n, 3, 12, 12] x) => (float[n, 10] y) {{
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, filters)
    r = Relu(c)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
    shape = Constant <value_ints = [0, {width}, 36]> ()
    rows = Reshape(p, shape)
    tokens = Transpose <perm = [0, 2, 1]> (rows)
    q = MatMul(tokens, wq)  k = MatMul(tokens, wk)  v = MatMul(tokens, wv)
    kt = Transpose <perm = [0, 2, 1]> (k)
    s = MatMul(q, kt)
    scale = Constant <value_float = 0.25> ()
    t = Mul(s, scale)
    a = Softmax <axis = -1> (t)
    o = MatMul(a, v)
    axis = Constant <value_ints = [1]> ()
    m = ReduceMean <keepdims = 0> (o, axis)
    y = Gemm(m, w, b)
}}"""
PIPELINES = {"float32": "cleanup,fuse", "int8": "cleanup,fuse,quantize{scheme=int8}"}
"""What makes a model of an element type, by that."""


def model(width: int) -> Graph:
    """A model with so many channels."""
    random = np.random.default_rng(width)
    proto = onnx.parser.parse_model(_TEXT.format(width=width))
    shapes = {"filters": (width, 3, 3, 3), **dict.fromkeys(("wq", "wk", "wv"), (width, 16)), "w": (16, 10), "b": (10,)}
    for name, shape in shapes.items():
        weight = random.normal(0, 0.3, shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(weight, name))
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(proto, path)
        return planish.read(path)


def batch(size: int, seed: int = 0) -> np.ndarray:
    """Inputs of a model."""
    return np.random.default_rng((seed, size)).normal(size=(size, 3, 12, 12)).astype(np.float32)


def optimized(graph: Graph, dtype: str) -> Graph:
    """The graph as it is compiled for an element type."""
    return planish.optimize(graph, PIPELINES[dtype], data=[{"x": batch(16)}]).graph
