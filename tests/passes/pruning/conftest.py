"""Small convolutional networks with random weights."""

from collections.abc import Callable

import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location, Value
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType


class Net:
    """A graph under construction; a layer's name is its location and its weight's name."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.graph = Graph()
        self.x = self.graph.add_input("x", TensorType(DType.float32, ("batch", 3, 8, 8)))
        self.op = Builder(self.graph)

    def array(self, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape).astype(np.float32)

    def conv(self, x: Value, name: str, channels: int, kernel: int = 1, group: int = 1) -> Value:
        self.op.location = Location(name)
        weight = self.op.constant(self.array(channels, width(x) // group, kernel, kernel), name)
        return self.op.Conv(x, weight, self.array(channels), group=group, pads=(kernel // 2,) * 4)

    def norm(self, x: Value) -> Value:
        scale, shift, mean, spread = (self.array(width(x)) for _ in range(4))
        return self.op.BatchNormalization(x, scale, shift, mean, np.abs(spread) + 1)

    def linear(self, x: Value, name: str, outputs: int) -> Value:
        self.op.location = Location(name)
        weight = self.op.constant(self.array(outputs, width(x)), name)
        return self.op.Gemm(x, weight, self.array(outputs), transB=1)

    def classify(self, x: Value) -> Graph:
        """The finished graph, with ten outputs by name of `y`."""
        self.graph.outputs["y"] = self.linear(self.op.Flatten(self.op.GlobalAveragePool(x)), "head", 10)
        return self.graph

    @staticmethod
    def run(graph: Graph) -> np.ndarray:
        images = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
        return Interpreter(graph).run({"x": images})["y"]


def width(x: Value) -> int:
    channels = x.shape[1]
    assert isinstance(channels, int)
    return channels


@pytest.fixture(scope="session")
def new_net() -> Callable[..., Net]:
    return Net
