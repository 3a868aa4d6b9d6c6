"""Operators of other packages: known to everything once a node of their domain is met, and run by both backends."""

import numpy as np
import pytest

import planish
from planish.ir.builder import Builder
from planish.ir.equal import differences
from planish.ir.errors import ModelError, TargetError, UsageError
from planish.ir.graph import Graph, Location
from planish.ir.interpreter import Interpreter
from planish.ir.ops import operators
from planish.ir.text import parse_graph, print_graph
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.targets.load import load_target

OPERATORS = """
import torch
from planish import operator


def by_hand(op, node):
    x = node.inputs[0]
    relu = op.Relu(x)
    squares = op.Mul(relu, op.Mul(relu, node.attributes.get("scale", 1.0)))
    return (squares, relu)[: len(node.outputs)]


@operator("acme::SquaredRelu", expansion=by_hand)
def squared_relu(x: torch.Tensor, *, scale: float = 1.0, outputs: int = 1):
    relu = torch.relu(x)
    return (scale * relu * relu, relu)[:outputs]


@operator("acme::Bare")
def bare(x: torch.Tensor) -> torch.Tensor:
    return -x


def distances(op, node):
    a, b = (op.Unsqueeze(value, [axis]) for value, axis in zip(node.inputs, (1, 0)))
    return op.ReduceSumSquare(op.Sub(a, b), [2], keepdims=0)


@operator("com.microsoft::CDist", expansion=distances)
def cdist(a: torch.Tensor, b: torch.Tensor, *, metric: str = "sqeuclidean") -> torch.Tensor:
    return (a[:, None] - b[None]).square().sum(2)
"""
ENTRIES = "[planish.operators]\nacme = others\ncom.microsoft = others\n"


@pytest.fixture
def others(install):
    install(ENTRIES, OPERATORS)
    yield install
    for name in ("acme::SquaredRelu", "acme::Bare", "com.microsoft::CDist"):
        operators().pop(name, None)


def graph_of(operator: str, *shapes: tuple, outputs: int = 1, **attributes) -> Graph:
    graph = Graph()
    inputs = [graph.add_input(f"x{index}", TensorType(DType.float32, shape)) for index, shape in enumerate(shapes)]
    made = Builder(graph, location=Location("act"))(operator, *inputs, outputs=outputs, **attributes)
    graph.outputs = {f"y{index}": value for index, value in enumerate(made if outputs > 1 else (made,))}
    return graph


def run(graph: Graph, backend: str, *arrays: np.ndarray) -> list[np.ndarray]:
    pytest.importorskip(backend)
    return planish.compile(graph, backend, load_target("x86-64"))(*arrays)


def test_a_node_of_another_package_is_like_any_other(others, tmp_path) -> None:
    graph = graph_of("acme::SquaredRelu", ("n", 3), outputs=2, scale=0.5)
    assert [str(value.type) for value in graph.outputs.values()] == ["float32[n, 3]"] * 2
    verify(graph)
    assert differences(parse_graph(print_graph(graph)), graph) == []
    for name in ("net.onnx", "net.planish"):
        planish.write(graph, tmp_path / name)
        (node,) = planish.read(tmp_path / name).nodes
        assert (node.operator, node.attributes, node.location.module) == ("acme::SquaredRelu", {"scale": 0.5}, "act")


@pytest.mark.parametrize("backend", ["onnxruntime", pytest.param("tvm", marks=pytest.mark.wide)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_both_backends_run_it_by_its_expansion(others, backend: str, outputs: int) -> None:
    graph = graph_of("acme::SquaredRelu", ("n", 3), outputs=outputs, scale=0.5)
    x = np.array([[1, -2, 3]], np.float32)
    expected = list(Interpreter(graph).run({"x0": x}).values())
    assert np.array_equal(expected[0], [[0.5, 0, 4.5]])
    for wanted, found in zip(expected, run(graph, backend, x), strict=True):
        np.testing.assert_allclose(found, wanted)


@pytest.mark.wide
def test_a_backend_that_has_the_domain_runs_it_itself(others) -> None:
    graph = graph_of("com.microsoft::CDist", (4, 3), (5, 3), metric="sqeuclidean")
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((count, 3)).astype(np.float32) for count in (4, 5))
    (expected,) = Interpreter(graph).run({"x0": a, "x1": b}).values()
    for backend in ("onnxruntime", "tvm"):
        legal = planish.optimize(graph, f"legalize{{backend={backend}}}", target="x86-64").graph
        is_whole = "com.microsoft::CDist" in {node.operator for node in legal.nodes}
        assert is_whole == (backend == "onnxruntime")
        np.testing.assert_allclose(run(graph, backend, a, b)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("backend", ["onnxruntime", "tvm"])
def test_without_an_expansion_it_is_refused_by_name(others, backend: str) -> None:
    pytest.importorskip(backend)
    with pytest.raises(
        TargetError, match=f"act: {backend} can't run acme::Bare: it isn't a standard operator, and has no"
    ):
        run(graph_of("acme::Bare", (2,)), backend, np.zeros(2, np.float32))


def test_what_is_not_there_is_said_with_the_reason(others) -> None:
    with pytest.raises(ModelError, match=r"unknown operator acme::SquaredRelo; did you mean acme::SquaredRelu\?"):
        graph_of("acme::SquaredRelo", (2,))
    with pytest.raises(ModelError, match="unknown operator amce::Bare; no package that is installed has operators of"):
        graph_of("amce::Bare", (2,))
    others("[planish.operators]\nbroken = others\n", "1 / 0")
    with pytest.raises(UsageError, match="'broken' in planish.operators, of the package others 1.0"):
        graph_of("broken::Relu", (2,))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("Relu", "the operator Relu has a meaning already, in planish.ir.ops"), ("Mine", "'Mine' must have a domain")],
)
def test_names_of_the_standard_are_not_another_s_to_give(name: str, reason: str) -> None:
    operators()
    with pytest.raises(UsageError, match=reason):
        planish.operator(name)(lambda x: x)
