"""Small convolutional networks with random weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

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
        return Interpreter(graph).run(Net.images())["y"]

    @staticmethod
    def images() -> dict[str, np.ndarray]:
        return {"x": np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)}


def width(x: Value) -> int:
    channels = x.shape[1]
    assert isinstance(channels, int)
    return channels


@pytest.fixture(scope="session")
def new_net() -> Callable[..., Net]:
    return Net


@pytest.fixture(scope="session")
def networks() -> Callable[[Any], st.SearchStrategy[Graph]]:
    return any_network


def layer(net: Net, draw: st.DrawFn, values: list[Value], name: str) -> Value:
    """A layer that reads one or two of the values, which all have the same resolution."""
    x, other = draw(st.sampled_from(values)), draw(st.sampled_from(values))
    channels = width(x)
    kinds = {
        "conv": lambda: net.conv(x, name, draw(st.integers(1, 6)), draw(st.sampled_from([1, 3]))),
        "depthwise": lambda: net.conv(x, name, channels * draw(st.integers(1, 2)), 3, group=channels),
        "grouped": lambda: net.conv(net.conv(x, name, 6), f"{name}g", 4, group=2),
        "add": lambda: net.op.Add(x, net.conv(other, name, channels)),
        "concat": lambda: net.op.Concat(x, net.op.Tanh(other), axis=1),
        "gate": lambda: net.op.Mul(x, net.op.Sigmoid(net.conv(net.op.GlobalMaxPool(x), name, channels))),
        "norm": lambda: net.op.Relu(net.norm(x)),
        "turn": lambda: net.op.Transpose(net.op.Relu(net.op.Transpose(x, perm=(0, 2, 3, 1))), perm=(0, 3, 1, 2)),
    }
    return kinds[draw(st.sampled_from(sorted(kinds)))]()


@st.composite
def any_network(draw: st.DrawFn, new_net: Callable[..., Any]) -> Graph:
    net = new_net(draw(st.integers(0, 99)))
    values = [net.conv(net.x, "layer0", draw(st.integers(1, 6)))]
    for index in range(1, draw(st.integers(2, 7))):
        values.append(layer(net, draw, values, f"layer{index}"))
    return net.classify(net.op.Concat(*values[-2:], axis=1))
