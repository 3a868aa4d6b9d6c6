"""TVM's results held to the interpreter's."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from planish.backends.artifact import load, write_artifact
from planish.backends.tvm.compiler import client
from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location, Value
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType
from planish.targets import Target
from planish.targets.load import load_target

Build: TypeAlias = Callable[..., Value | Sequence[Value]]
"""A function from a builder and the inputs to what a graph gives."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run one case of each test, for targets and for sizes of both forms in turn.

    The others are wide.
    """
    tests: defaultdict[tuple[Path, str], list[pytest.Item]] = defaultdict(list)
    for item in (item for item in items if item.path.parent == Path(__file__).parent):
        runs = _runs_here(_parameters(item).get("target", "native"))
        if runs and (_target(item) or _form(item)):
            tests[item.path, item.originalname].append(item)
    for number, cases in enumerate(tests.values()):
        ways = list(dict.fromkeys((_target(item), _form(item)) for item in cases))
        kept = next(item for item in cases if (_target(item), _form(item)) == ways[number % len(ways)])
        for item in cases:
            if item is not kept:
                item.add_marker(pytest.mark.wide)


def _target(item: pytest.Item) -> str:
    return _parameters(item).get("target") or _parameters(item).get("agree_on", "")


def _form(item: pytest.Item) -> str:
    return _parameters(item).get("sizes", "")


def _parameters(item: pytest.Item) -> dict[str, str]:
    return getattr(getattr(item, "callspec", None), "params", {})


@cache
def _runs_here(name: str) -> bool:
    return load_target(name).features <= load_target("native").features


@pytest.fixture(scope="session", autouse=True)
def lasting_compiler() -> None:
    """Keep a compiler's process for many small graphs: to start one takes 4 seconds."""
    client._MOST_REQUESTS = 512


@pytest.fixture(params=["fixed", "symbolic"])
def sizes(request: pytest.FixtureRequest) -> str:
    """The form of the sizes in graphs whose dims are given."""
    return request.param


@pytest.fixture
def agree(target: Target, sizes: str, tmp_path: Path) -> Callable[..., None]:
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
        """Hold the results to each other.

        Args:
            build: a function that builds the graph.
            arrays: the arrays that are fed.
            dims: the dimensions of the inputs, where sizes are symbolic; else they are the arrays' own.
            again: further rows of arrays to feed where sizes are symbolic.
            tolerance: how far floats may be off, and ten times that relative to large ones.
        """
        is_symbolic = dims is not None and sizes == "symbolic"
        shapes = dims if dims and is_symbolic else [array.shape for array in arrays]
        graph = _graph(build, [DType.of(array.dtype) for array in arrays], shapes)
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        write_artifact(folder, graph, backend, target)
        executable = load(folder)
        for row in [arrays, *(again if is_symbolic else ())]:
            named = {f"x{index}": array for index, array in enumerate(row)}
            expected = Interpreter(graph).run(named)
            for name, found in zip(graph.outputs, executable.run(named), strict=True):
                _hold(found, expected[name], f"{name} of {shapes}", tolerance)

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
