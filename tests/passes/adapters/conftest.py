"""A network with layers of all kinds."""

from collections.abc import Callable

import numpy as np
import pytest

import planish
from planish.ir.graph import Graph
from planish.passes.base import Feeds

NET = """(%x: float32[batch, 4, 6, 6]) {
  const %w: float32[8, 4, 3, 3]
  const %b: float32[8]
  const %v: float32[8, 8, 1, 1]
  const %u: float32[8, 12]
  const %t: float32[5, 12]
  const %d: float32[5]
  const %axes: int64[2] = [2, 3]
  %a: float32[batch, 8, 3, 3] = Conv(%x, %w, %b) {kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]} @ "stem"
  %r: float32[batch, 8, 3, 3] = Relu(%a)
  %e: float32[batch, 8, 3, 3] = Conv(%r, %v) @ "/body/point/Conv"
  %m: float32[batch, 8] = ReduceMean(%e, %axes) {keepdims = 0}
  %h: float32[batch, 12] = MatMul(%m, %u) @ "body.wide"
  %g: float32[batch, 12] = Tanh(%h)
  %y: float32[batch, 5] = Gemm(%g, %t, %d) {alpha = 0.5, transB = 1} @ "head"
  return y = %y
}"""
SHAPES = {"w": (8, 4, 3, 3), "b": (8,), "v": (8, 8, 1, 1), "u": (8, 12), "t": (5, 12), "d": (5,)}


@pytest.fixture
def source(graph_of: Callable[..., Graph]) -> Graph:
    random = np.random.default_rng(1)
    weights = {name: random.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}
    return graph_of(NET, {name: (array / np.sqrt(array[0].size)).astype("f") for name, array in weights.items()})


@pytest.fixture(scope="session")
def data() -> list[Feeds]:
    random = np.random.default_rng(0)
    return [{"x": random.standard_normal((16, 4, 6, 6), np.float32)} for _ in range(12)]


@pytest.fixture
def adapted(source: Graph, data: list[Feeds]) -> Graph:
    """A network with adapters that do something."""
    graph = planish.optimize(source, "lora{rank=2,alpha=4}", data=data).graph
    random = np.random.default_rng(2)
    for name, constant in graph.constants.items():
        if ".lora_B" in name:
            constant.data = 0.3 * random.standard_normal(constant.shape, np.float32)
    return graph
