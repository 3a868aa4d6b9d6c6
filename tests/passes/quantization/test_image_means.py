"""The mean over an image becomes a pool; other means stay."""

import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType
from planish.passes.quantization.image_means import pool_image_means


@pytest.mark.parametrize(
    ("shape", "axes", "keepdims", "operators"),
    [
        ((2, 3, 4, 5), [2, 3], 0, ["GlobalAveragePool", "Flatten"]),
        ((2, 3, 4, 5), [-1, -2], None, ["GlobalAveragePool"]),
        ((2, 3, 4, 5), [1, 2], 0, ["ReduceMean"]),
        ((2, 3, 4, 5), [2], 1, ["ReduceMean"]),
        ((2, 3, 4), [-1], 1, ["ReduceMean"]),
    ],
)
def test_means(shape: tuple[int, ...], axes: list[int], keepdims: int | None, operators: list[str]) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, ("batch", *shape[1:])))
    graph.outputs["y"] = Builder(graph).ReduceMean(x, axes, keepdims=keepdims)
    feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    before, type = Interpreter(graph).run(feeds)["y"], graph.outputs["y"].type
    assert pool_image_means(graph, frozenset({"GlobalAveragePool"})) == ("GlobalAveragePool" in operators)
    assert [node.operator for node in graph.nodes] == operators
    assert graph.outputs["y"].type == type
    np.testing.assert_allclose(Interpreter(graph).run(feeds)["y"], before, rtol=1e-6)
