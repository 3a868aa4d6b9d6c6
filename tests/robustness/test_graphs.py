"""The short form of the long run over random graphs in both backends, of which TVM compiles many together."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

from edge_cases.cases import DIFFERENT
from random_graphs.checks import Broken, State, after_all, decided_by_rounding, hold_outputs, unequal
from random_graphs.graphs import Recipe, Sample, recipe, sample
from random_graphs.together import Here, run_together, symbol_of
from random_graphs.unspecified import UNSPECIFIED
from tvm import te

from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.passes.probes import run_graph

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("first", "cases", "equal"),
    [
        pytest.param(104, 1, 1, marks=pytest.mark.wide, id="alone"),
        pytest.param(104, 4, 3, marks=pytest.mark.wide),
        pytest.param(100, 12, 9, marks=pytest.mark.slow),
    ],
)
def test_graphs_are_equal_together_or_refused_by_name(first: int, cases: int, equal: int) -> None:
    numbers = ["--first", str(first), "--cases", str(cases)]
    command = [sys.executable, ROOT / "benchmarks" / "soak.py", "graphs", *numbers, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["failures"]
    assert found["counts"]["equal"] == equal
    assert sum(found["counts"].values()) == cases
    assert sum(found["reasons"].values()) >= cases - equal


def test_a_wrong_graph_is_found_among_others(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)  # why a graph has no answer
    samples = {str(number): sample(recipe(number)) for number in (100, 101, 102)}
    graphs = {name: after_all(given, "tvm") for name, given in samples.items()}
    wrong = graphs["101"] = graphs["101"].clone()
    name, value = next((name, value) for name, value in wrong.outputs.items() if value.dtype.is_float)
    wrong.outputs[name] = Builder(wrong).Add(value, 1)
    answers = run_together({name: given.probes for name, given in samples.items()}, graphs)
    assert answers.keys() == samples.keys()
    differing = [
        name for name, given in samples.items() if unequal(given, given.outputs, answers[name], is_exact=False)
    ]
    assert differing == ["101"]


def test_kernels_that_differ_in_names_alone_are_one() -> None:
    def symbol(
        name: str, first: str, second: str, width: str, size: int = 4, sign: int = 1, turned: bool = False
    ) -> str:
        shape = (size, te.var(width))
        a, b = te.placeholder(shape, name=first), te.placeholder(shape, name=second)
        y = te.compute(a.shape, lambda *place: a(*place) + sign * b(*place), name="y")
        kernel = te.create_prim_func([b, a, y] if turned else [a, b, y])
        return symbol_of(kernel.with_attr("global_symbol", name))

    first = symbol("add", "a", "b", "n")
    assert symbol("add_1", "lv2", "lv", "width") == symbol("sum", "b", "a", "m") == first
    others = [symbol("add", "a", "b", "n", **{key: value}) for key, value in (("size", 5), ("sign", -1))]
    assert len({first, *others, symbol("add", "a", "b", "n", sign=-1, turned=True)}) == 4


def test_only_what_the_standard_says_nothing_of_may_differ() -> None:
    """A graph raises 0 to the power of -1, and returns other things too."""
    given, runtime = sample(recipe(1913)), Here("onnxruntime")
    wrong = given.graph.clone()
    wrong.outputs["y1"] = Builder(wrong).Add(wrong.outputs["y1"], 1)
    with pytest.raises(Broken, match="y1"):
        runtime.hold(given, [("same", State(given.graph, given.outputs)), ("wrong", State(wrong, given.outputs))])
    assert runtime.unspecified == ["Pow: integers beyond 64 bits, 0 to the power of -1"]
    assert not runtime.strange


def test_what_is_spelled_out_may_differ_in_a_case_of_the_table_alone() -> None:
    """A graph transforms infinity, which a matrix of waves carries to where a fast transform doesn't."""
    given = sample(recipe(4454))
    spelled_out = after_all(given, "tvm")
    hold_outputs(given, spelled_out)
    spelled_out.outputs["y4"] = Builder(spelled_out).Add(spelled_out.outputs["y4"], 1)
    with pytest.raises(Broken, match="y4"):
        hold_outputs(given, spelled_out)


@pytest.mark.parametrize(("place", "reasons"), [(0, ["rounding inside ReduceSum decides"]), (2, [])])
def test_only_what_rounding_decides_may_be_another(place: int, reasons: list[str]) -> None:
    """Two sums cancel but for a billionth; the third is far below them."""
    graph = Graph()
    op, x = Builder(graph), graph.add_input("x", TensorType(DType.float32, (3, 3)))
    graph.outputs["y"] = op.ArgMax(op.ReduceSum(x, [1], keepdims=0), axis=0, keepdims=0)
    given = _given(graph, np.array([[1, -1, 1e-9], [1, -1, 3e-9], [1, 1, -4]], np.float32))
    assert given.outputs[0]["y"] == 1
    assert list(decided_by_rounding(given, [{"y": np.array(place)}]).values()) == reasons


@pytest.mark.parametrize(("found", "reasons"), [(0.0, ["rounding inside Sigmoid decides"]), (1e-4, [])])
def test_what_is_small_beside_1_may_be_off_by_its_rounding(found: float, reasons: list[str]) -> None:
    graph = Graph()
    op, x = Builder(graph), graph.add_input("x", TensorType(DType.float32, (2,)))
    graph.outputs["y"] = op.Sigmoid(x)
    given = _given(graph, np.array([-52, -40], np.float32))
    assert list(decided_by_rounding(given, [{"y": np.array([found, 0], np.float32)}]).values()) == reasons


def _given(graph: Graph, x: np.ndarray) -> Sample:
    probes = [{"x": x}]
    return Sample(Recipe(()), graph, probes, run_graph(graph, probes))


@pytest.mark.parametrize(
    ("number", "name", "operator"), [(7461, "y5", "Sigmoid"), pytest.param(7882, "y2", "STFT", marks=pytest.mark.wide)]
)
def test_a_mistake_where_rounding_decides_is_found(number: int, name: str, operator: str) -> None:
    given, runtime = sample(recipe(number)), Here("onnxruntime")
    wrong = given.graph.clone()
    wrong.outputs[name] = Builder(wrong).Add(wrong.outputs[name], 1)
    with pytest.raises(Broken, match=name):
        runtime.hold(given, [("same", State(given.graph, given.outputs)), ("wrong", State(wrong, given.outputs))])
    assert set(runtime.rounded) == {f"rounding inside {operator} decides"}
    assert not runtime.strange


def test_what_may_differ_is_in_the_table() -> None:
    assert UNSPECIFIED.keys() <= DIFFERENT.keys()
