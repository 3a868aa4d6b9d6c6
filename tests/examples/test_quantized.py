"""The quantized examples in each backend: every node does what it means, and what they differ by is rounding."""

from pathlib import Path

import numpy as np
import pytest

import planish
from planish import Graph
from planish.backends import Backend, find_backend
from planish.backends.legal import legalized
from planish.backends.tvm.backend import Tvm
from planish.driver.backend_check import BackendCheck
from planish.driver.lowering import lower
from planish.driver.recipe_file import read_recipe
from planish.ir.contents import contents
from planish.ir.graph import Constant, Node, Value
from planish.ir.infer import find_operator
from planish.ir.interpreter import evaluate
from planish.ir.ops.dtypes import to_numpy, to_torch
from planish.passes.pipeline import format_pipeline
from planish.passes.quantization.quantize import Quantize
from planish.targets.load import native


@pytest.fixture(scope="module")
def known() -> dict[Path, Graph]:
    """The graphs that were quantized by now, by their examples' folders."""
    return {}


@pytest.fixture
def quantized(example, known: dict[Path, Graph]) -> Graph:
    """The example's optimized graph, quantized as its recipe does it, or where that chooses layers, in all of them."""
    if example.folder not in known:
        quantize = read_recipe(example.folder / "recipe.yaml").pipeline()[-1]
        quantize = quantize if quantize.name == "quantize" else Quantize()
        known[example.folder] = planish.optimize(
            example.optimized, format_pipeline([quantize]), data=[example.feeds], verify="structure"
        ).graph
    return known[example.folder]


WAYS = [
    *(pytest.param(name, "onnxruntime", marks=pytest.mark.wide) for name in ("digits", "minilm", "ocr")),
    *(pytest.param(name, "tvm", marks=pytest.mark.wide) for name in ("digits", "minilm")),
    pytest.param("ocr", "tvm", marks=pytest.mark.slow),  # where a width isn't known, TVM has no kernels but its own
]


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    """The backend; TVM's kernels are held to the interpreter by these tests alone."""
    backend = Tvm(checks_kernels=False) if request.param == "tvm" else find_backend(request.param)
    if missing := backend.available():
        pytest.skip(missing)
    return backend


@pytest.mark.parametrize(("example", "backend"), WAYS, indirect=True)
def test_a_backend_differs_by_no_more_than_rounding(example, quantized, backend, tmp_path: Path) -> None:
    candidate = lower(quantized, backend, native(), tmp_path / "dist")
    BackendCheck(backend, native()).hold(candidate.executable, quantized, [example.feeds], tmp_path)


@pytest.mark.parametrize(("example", "backend"), WAYS, indirect=True)
def test_every_node_means_in_a_backend_what_it_means(example, quantized, backend, tmp_path: Path) -> None:
    """Nodes are held to the interpreter on the backend's own operands, where no rounding can hide a wrong kernel."""
    graph = legalized(quantized, native(), backend.name)
    seen = [value for node in graph.nodes for value in node.outputs if contents(value) is None]
    graph.outputs = {f"value_{index}": value for index, value in enumerate(seen)}
    executable = lower(graph, backend, native(), tmp_path / "dist").executable
    values: dict[Value, np.ndarray] = dict(zip(seen, executable.run(example.feeds), strict=True))
    values |= {value: example.feeds[value.name] for value in graph.inputs}
    compared = 0
    for node in graph.nodes:
        operands = {value: _tensor(value, values) for value in node.inputs if value is not None}
        for output, tensor in zip(node.outputs, evaluate(node, find_operator(node.operator), operands), strict=False):
            wanted = to_numpy(tensor)
            if output in values:
                _compare(values[output], wanted, node)
                compared += 1
            values.setdefault(output, wanted)
    assert compared == len(seen)


def _compare(found: np.ndarray, wanted: np.ndarray, node: Node) -> None:
    """Compare what a node gives; a few floats half-way between two steps may be rounded to either.

    A backend may multiply by the scale's reciprocal instead of dividing by the scale.
    """
    if node.operator != "QuantizeLinear":
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4, err_msg=repr(node))
        return
    steps = np.abs(found.astype(int) - wanted.astype(int))
    assert steps.max() <= 1 and steps.mean() < 1e-4, repr(node)


def _tensor(value: Value, values: dict[Value, np.ndarray]):
    return to_torch(value.data if isinstance(value, Constant) else values[value])
