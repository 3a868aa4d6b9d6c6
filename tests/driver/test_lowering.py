from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planish.backends import Executable, find_backend
from planish.driver.backend_check import BackendCheck
from planish.driver.lowering import fastest, lower
from planish.driver.measurement import Latency
from planish.ir.builder import Builder
from planish.ir.errors import CheckError
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.targets.load import load_target

PROBES = [{"x": np.array([[-1.0, 2.0]], np.float32)}]


class Altered(Executable):
    """Runs another executable and changes what comes out."""

    def __init__(self, inner: Executable, scale: float, width: int) -> None:
        self.inputs, self.outputs = inner.inputs, inner.outputs
        self._inner, self._scale, self._width = inner, scale, width

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return [output[:, : self._width] * np.float32(self._scale) for output in self._inner.run(feeds)]


def relu() -> Graph:
    graph = Graph("relu")
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 2)))
    graph.outputs["y"] = Builder(graph).Relu(x)
    return graph


def test_a_backend_is_held_to_the_interpreter(tmp_path: Path) -> None:
    graph, backend, target = relu(), find_backend("onnxruntime"), load_target("native")
    right = lower(graph, backend, target, tmp_path / "artifact").executable
    check = BackendCheck(backend, target)
    check.hold(right, graph, PROBES, tmp_path)
    with pytest.raises(
        CheckError, match=r"onnxruntime computes something else than the graph: output 'y' is off by 0\.1 "
    ):
        check.hold(Altered(right, 1.1, 2), graph, PROBES, tmp_path)
    with pytest.raises(CheckError, match=r"output 'y' has shape \[1, 1\] instead of \[1, 2\] on probe 0"):
        check.hold(Altered(right, 1, 1), graph, PROBES, tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "chosen"),
    [
        ([1.0, 1.0, 1.0, 1.0], [0.5, 0.6, 0.5, 0.7], 1),
        ([1.0, 1.0, 1.0, 1.0], [0.9, 1.1, 0.9, 1.2], 0),  # within noise
        ([1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0], 0),
    ],
)
def test_the_faster_one_is_kept_and_the_first_within_noise(
    tmp_path: Path, first: list[float], second: list[float], chosen: int
) -> None:
    candidate = lower(relu(), find_backend("onnxruntime"), load_target("native"), tmp_path / "artifact")
    candidates = [candidate, replace(candidate, name="second")]
    latencies = [Latency(np.array(first)), Latency(np.array(second))]
    assert fastest(candidates, latencies) == (candidates[chosen], latencies[chosen])
