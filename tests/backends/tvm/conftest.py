"""TVM's results held to the interpreter's."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from planish.backends.artifact import load, write_artifact
from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location, Value
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType
from planish.targets import Target

Build: TypeAlias = Callable[..., Value | Sequence[Value]]
"""A function from a builder and the inputs to what a graph gives."""


@pytest.fixture(autouse=True)
def numbers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the same numbers whatever ran before: what lies half-way between two integers may be rounded to either."""
    monkeypatch.setattr(request.module, "RNG", np.random.default_rng(0), raising=False)


@pytest.fixture
def agree(target: Target, tmp_path: Path) -> Callable[..., None]:
    """A check that a graph gives the same in TVM and in the interpreter."""
    pytest.importorskip("tvm")
    from planish.backends.tvm.backend import Tvm

    backend = Tvm(checks_kernels=False)  # this compares with the interpreter itself

    def agree(
        build: Build,
        *arrays: np.ndarray,
        dims: Sequence[Sequence[int | str]] | None = None,
        again: Sequence[Sequence[np.ndarray]] = (),
        tolerance: float = 1e-5,
    ) -> None:
        """Hold the results to each other, with the sizes as they are, and with symbolic ones if `dims` are given.

        Args:
            build: the graph.
            arrays: that are fed.
            dims: of the inputs.
            again: further rows of arrays to feed where sizes are symbolic.
            tolerance: of floats, and ten times that of large ones.
        """
        given = [array.shape for array in arrays]
        for shapes, feeds in [(given, [arrays]), *([(dims, [arrays, *again])] if dims else [])]:
            graph = _graph(build, [DType.of(array.dtype) for array in arrays], shapes)
            folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
            write_artifact(folder, graph, backend, target)
            executable = load(folder)
            for row in feeds:
                named = {f"x{index}": array for index, array in enumerate(row)}
                for name, found in zip(graph.outputs, executable.run(named), strict=True):
                    _hold(found, Interpreter(graph).run(named)[name], f"{name} of {shapes}", tolerance)

    return agree


def _graph(build: Build, dtypes: Sequence[DType], shapes: Sequence[Sequence[int | str]]) -> Graph:
    graph = Graph("test")
    types = [TensorType(dtype, tuple(shape)) for dtype, shape in zip(dtypes, shapes, strict=True)]
    inputs = [graph.add_input(f"x{index}", type) for index, type in enumerate(types)]
    made = build(Builder(graph, location=Location("layer")), *inputs)
    graph.outputs = {f"y{index}": value for index, value in enumerate([made] if isinstance(made, Value) else made)}
    return graph


def _hold(found: np.ndarray, expected: np.ndarray, name: str, tolerance: float) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=10 * tolerance, atol=tolerance, err_msg=name)
    else:
        np.testing.assert_array_equal(found, expected, err_msg=name)
