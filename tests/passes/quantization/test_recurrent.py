"""Recurrent layers keep their weights in int8: what is rounded, what both backends make of it, and what files hold."""

from pathlib import Path

import numpy as np
import pytest

import planish
from planish.backends import find_backend
from planish.backends.legal import legalized
from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift
from planish.ir.types import DType, TensorType
from planish.passes.base import PassContext, PassResult
from planish.passes.quantization.quantize import Quantize
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STEPS, FEATURES, HIDDEN = 5, 24, 32
FEEDS = {"x": RNG.standard_normal((STEPS, 2, FEATURES)).astype(np.float32)}


def recurrent(operator: str, directions: int = 1, layers: int = 1) -> Graph:
    """A graph of layers that read the same input by the same weights."""
    graph = Graph("main")
    x = graph.add_input("x", TensorType(DType.float32, (STEPS, 2, FEATURES)))
    op = Builder(graph)
    rows = GATES[operator] * HIDDEN
    w, r = (
        op.constant((RNG.standard_normal((directions, rows, k)) / np.sqrt(k)).astype(np.float32), name)
        for name, k in (("w", FEATURES), ("r", HIDDEN))
    )
    direction = "bidirectional" if directions == 2 else "forward"
    ys = [op(operator, x, w, r, outputs=2, hidden_size=HIDDEN, direction=direction)[0] for _ in range(layers)]
    graph.outputs = {f"y{index}": y for index, y in enumerate(ys)}
    return graph


def quantized(graph: Graph) -> PassResult:
    context = PassContext(load_target("native"), source=graph.clone())
    return Quantize(scheme="int8-dynamic").apply(graph, context)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("operator", GATES)
def test_every_row_of_a_gate_has_its_own_scale(operator: str, directions: int) -> None:
    graph = recurrent(operator, directions)
    weight = graph.constants["w"].data
    assert quantized(graph).counts["recurrent"] == 1
    integers, scale = graph.constants["w.integers"].data, graph.constants["w.scale"].data
    assert (integers.dtype, integers.shape, scale.shape) == (np.int8, weight.shape, (*weight.shape[:2], 1))
    assert np.all(np.abs(integers * scale - weight) <= scale * 0.501)
    assert not {"w", "r"} & graph.constants.keys()


@pytest.mark.parametrize("operator", [pytest.param(it, marks=[] if it == "LSTM" else pytest.mark.wide) for it in GATES])
def test_backends_agree_with_the_interpreter(operator: str) -> None:
    source = recurrent(operator, directions=2)
    graph = source.clone()
    quantized(graph)
    expected, exact = Interpreter(graph).run(FEEDS), Interpreter(source).run(FEEDS)
    assert 0 < drift([exact], [expected]) < 0.02
    for backend in ("onnxruntime", "tvm"):
        found = planish.compile(graph, backend=backend)(*FEEDS.values())[0]
        np.testing.assert_allclose(found, expected["y0"], atol=2e-6)


def test_a_weight_that_two_layers_read_stays_one() -> None:
    graph = recurrent("LSTM", layers=2)
    assert quantized(graph).counts["recurrent"] == 2
    assert [constant.data.dtype for constant in graph.constants.values()].count(np.int8) == 2


def test_the_file_for_onnx_runtime_holds_integers(tmp_path: Path) -> None:
    sizes = []
    for is_quantized in (False, True):
        graph = recurrent("LSTM")
        if is_quantized:
            quantized(graph)
        target, backend = load_target("native"), find_backend("onnxruntime")
        folder = tmp_path / str(is_quantized)
        folder.mkdir()
        files = backend.compile(legalized(graph, target, backend), graph, target, folder)
        sizes.append(sum((folder / file).stat().st_size for file in files))
    assert sizes[1] < 0.4 * sizes[0]


def test_weights_that_are_computed_are_told() -> None:
    graph = Graph("main")
    x, w, r = (
        graph.add_input(name, TensorType(DType.float32, shape))
        for name, shape in (("x", (STEPS, 2, 4)), ("w", (1, 8, 4)), ("r", (1, 8, 8)))
    )
    graph.outputs = {"y": Builder(graph).RNN(x, w, r, hidden_size=8)}
    result = quantized(graph)
    assert result.counts["recurrent"] == 0
    assert "RNN stays as it is: its weights are no constants in float32" in result.misses[-1]


def test_weights_whose_rounding_loses_much_stay_in_float() -> None:
    """Weights that are small because what they multiply is large are rounded away beside the others of their row."""
    graph = recurrent("GRU")
    loud = np.where(np.arange(FEATURES) < 4, 1000, 1).astype(np.float32)
    graph.constants["w"].data = graph.constants["w"].data / loud
    batches = [{"x": RNG.standard_normal((STEPS, 2, FEATURES)).astype(np.float32) * loud} for _ in range(4)]
    result = planish.optimize(graph, "quantize", data=batches)
    assert {"w", "r.integers"} <= result.graph.constants.keys()
    (found,) = (record.result for record in result.records if record.result.changed)
    assert found.counts["recurrent"] == 1
    assert "GRU keeps the weights of its input in float: int8 would lose" in found.misses[-1]

    batches = [{"x": batch["x"] / loud} for batch in batches]
    even = planish.optimize(recurrent("GRU"), "quantize", data=batches)
    assert {"w.integers", "r.integers"} <= even.graph.constants.keys()
