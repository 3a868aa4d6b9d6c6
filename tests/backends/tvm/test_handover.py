"""A graph that is handed to a compiler's process is the same over there."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

from planish.backends.tvm.compiler import handover
from planish.backends.tvm.compiler.handover import handed_over, taken_over
from planish.ir.builder import Builder
from planish.ir.equal import differences
from planish.ir.graph import Graph, Location
from planish.ir.types import DType, TensorType


def test_weights_of_any_type_lie_as_they_lay(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    numbers = random.standard_normal((40, 30, 20), np.float32)
    arrays = {
        "plain": numbers,
        "turned": numbers.transpose(2, 0, 1),
        "cut": numbers[::2, :, 3:],
        "spread": np.broadcast_to(numbers[0, :1], (30, 20)),
        "backwards": numbers[::-1],
        "empty": np.zeros((0, 7), np.float32),
        "half": numbers.astype(DType.bfloat16.numpy).transpose(1, 0, 2),
        "nibbles": random.integers(-8, 8, (300, 11)).astype(DType.int4.numpy).T,
        "scalar": np.array(7, np.int64),
    }
    graph = Graph("net")
    op = Builder(graph, location=Location("layer"))
    graph.add_input("x", TensorType(DType.float32, ("n", 3)))
    for name, array in arrays.items():
        graph.outputs[name] = op.Identity(graph.add_constant(array, name), name=f"{name}_out")
    with handed_over(graph, tmp_path / "graph") as folder:
        again = taken_over(folder)
    assert differences(graph, again) == []
    turned = again.constants["turned"].data
    assert turned.strides == arrays["turned"].strides


def test_a_graph_without_weights(make_graph, tmp_path: Path) -> None:
    graph = make_graph(lambda op, x: op.Relu(x), "n", 3)
    with handed_over(graph, tmp_path / "graph") as folder:
        assert differences(graph, taken_over(folder)) == []


def test_weights_that_are_too_large_for_memory(make_graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "_MOST_IN_MEMORY", 8)
    graph = make_graph(lambda op, x: op.Add(x, np.arange(300, dtype=np.float32)), "n", 300)
    with handed_over(graph, tmp_path / "graph") as folder:
        assert not any(path.is_symlink() for path in folder.iterdir())
        assert differences(graph, taken_over(folder)) == []
