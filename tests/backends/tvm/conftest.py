"""TVM's results held to the interpreter's."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias
from zlib import crc32

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
    """Run each case of a test for at most every third target, in turn; `-m slow` runs it for the others."""
    tests: defaultdict[tuple[Path, str], defaultdict[str, list[pytest.Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        name = next((params[fixture] for fixture in ("target", "agree_on") if fixture in params), None)
        if name is not None and len(params.keys() - {"forms"}) > 1 and ("agree_on" in params or _runs_here(name)):
            tests[item.path, item.originalname][item.name.replace(name, "", 1)].append(item)
    for cases in tests.values():
        for number, targets in enumerate(cases.values()):
            for index, item in enumerate(targets, number):
                if index % min(len(targets), 3):
                    item.add_marker(pytest.mark.slow)


@cache
def _runs_here(name: str) -> bool:
    return load_target(name).features <= load_target("native").features


@pytest.fixture(autouse=True)
def numbers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the same numbers whatever ran before: what lies half-way between two integers may be rounded to either."""
    monkeypatch.setattr(request.module, "RNG", np.random.default_rng(0), raising=False)


@pytest.fixture(scope="session", autouse=True)
def lasting_compiler() -> None:
    """Keep a compiler's process for many small graphs: to start one takes 5 seconds."""
    client._MOST_REQUESTS = 512


@pytest.fixture(params=["one", pytest.param("both", marks=pytest.mark.slow)])
def forms(request: pytest.FixtureRequest) -> tuple[bool, ...]:
    """Whether sizes are symbolic in what is compiled: both, or of many cases half, drawn by their names."""
    is_a_case = len(request.node.callspec.params) > 1
    return (crc32(request.node.name.encode()) % 2 == 1,) if is_a_case and request.param == "one" else (False, True)


@pytest.fixture
def agree(target: Target, tmp_path: Path, forms: tuple[bool, ...]) -> Callable[..., None]:
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
        """Hold the results to each other, with the sizes as they are or, if `dims` are given, with symbolic ones.

        Args:
            build: the graph.
            arrays: that are fed.
            dims: of the inputs.
            again: further rows of arrays to feed where sizes are symbolic.
            tolerance: of floats, and ten times that of large ones.
        """
        graph = Graph("test")  # all in one, as a build takes as long as a small kernel
        dtypes, shapes = [DType.of(array.dtype) for array in arrays], [array.shape for array in arrays]
        forms_of_it = forms if dims else (False,)
        for is_symbolic in forms_of_it:
            _append(graph, build, dtypes, dims if dims and is_symbolic else shapes, is_symbolic)
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        write_artifact(folder, graph, backend, target)
        executable = load(folder)
        for row in [arrays, *(again if True in forms_of_it else ())]:
            fed = {True: row, False: arrays}
            named = {_name("x", index, form): array for form in forms_of_it for index, array in enumerate(fed[form])}
            expected = Interpreter(graph).run(named)
            for name, found in zip(graph.outputs, executable.run(named), strict=True):
                _hold(found, expected[name], f"{name} of {[array.shape for array in row]}", tolerance)

    return agree


def _append(
    graph: Graph, build: Build, dtypes: Sequence[DType], shapes: Sequence[Sequence[int | str]], is_symbolic: bool
) -> None:
    types = [TensorType(dtype, tuple(shape)) for dtype, shape in zip(dtypes, shapes, strict=True)]
    inputs = [graph.add_input(_name("x", index, is_symbolic), type) for index, type in enumerate(types)]
    made = build(Builder(graph, location=Location("layer")), *inputs)
    for index, value in enumerate([made] if isinstance(made, Value) else made):
        graph.outputs[_name("y", index, is_symbolic)] = value


def _name(letter: str, index: int, is_symbolic: bool) -> str:
    return f"{letter}{index}{'_of_symbols' * is_symbolic}"


def _hold(found: np.ndarray, expected: np.ndarray, name: str, tolerance: float) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=10 * tolerance, atol=tolerance, err_msg=name)
    else:
        np.testing.assert_array_equal(found, expected, err_msg=name)
