import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from planish.backends import Executable, find_backend
from planish.driver.backend_check import BackendCheck
from planish.driver.build import build
from planish.driver.debugging import find_fault
from planish.driver.lowering import Contest, Lowering, lower, refuse_early
from planish.driver.measurement import Latency
from planish.driver.optimize import optimize_file
from planish.driver.recipe import Budget
from planish.driver.reporter import SILENT
from planish.ir.builder import Builder
from planish.ir.errors import CheckError, TargetError, UsageError
from planish.ir.graph import Graph, Location, Node, Value
from planish.ir.storage import save
from planish.ir.text import print_graph
from planish.ir.types import DType, TensorType
from planish.passes.base import Effect, Pass, PassContext, PassResult
from planish.passes.legalization.expansions import EXPANSIONS
from planish.passes.legalization.legalize import Legalization
from planish.passes.pipeline import parse_pipeline
from planish.passes.reproducer import Reproducer
from planish.passes.verification import Verification
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
        CheckError, match=r"onnxruntime computes something other than the graph: output 'y' is off by 0\.1 "
    ):
        check.hold(Altered(right, 1.1, 2), graph, PROBES, tmp_path)
    with pytest.raises(CheckError, match=r"output 'y' has shape \[1, 1\] instead of \[1, 2\] on probe 0"):
        check.hold(Altered(right, 1, 1), graph, PROBES, tmp_path)


def test_a_wrong_rule_of_legalization_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph("gates")
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 2)))
    first, second = (Builder(graph, location=Location(layer)) for layer in ("net.first", "net.second"))
    graph.outputs["y"] = second.Swish(first.HardSwish(x), alpha=2.0)
    right, target = EXPANSIONS["Swish"], load_target("native")

    def wrong(op: Builder, node: Node) -> Value:
        return op.Mul(node.inputs[0], op.Sigmoid(node.inputs[0]))  # alpha is forgotten

    lowering = Lowering(target, PROBES, Verification(), tmp_path, SILENT)
    monkeypatch.setitem(EXPANSIONS, "Swish", wrong)
    with pytest.raises(CheckError, match="legalize") as raised:
        lowering.candidates(graph, "tvm")
    (folder,) = set(re.findall(r"\S+planish-reproducer-\S+", str(raised.value)))
    save(graph, tmp_path / "net.planish")
    (tmp_path / "recipe.yaml").write_text("model: net.planish\nbackend: tvm\npasses: [cleanup]\n")
    for subject in (folder, str(tmp_path / "recipe.yaml")):
        fault = find_fault(subject, None, None, "native")
        assert fault is not None
        assert (fault.step, fault.rewrite) == ("legalize{backend=tvm}", "expand Swish")
        assert "net.second" in fault.node
    monkeypatch.setitem(EXPANSIONS, "Swish", right)
    assert find_fault(folder, None, None, "native") is None


@pytest.mark.parametrize(("fault", "kind"), [("crash", RuntimeError), ("malformed", CheckError)])
def test_a_backends_own_pass_leaves_a_reproducer_wherever_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, kind: type[Exception]
) -> None:
    """Nothing is told of it before, where it could leave none."""

    def run(self: Legalization, graph: Graph, context: PassContext) -> PassResult:
        if fault == "crash":
            raise RuntimeError("out of luck")
        next(iter(graph.nodes)).attributes = {"slope": 1}
        return PassResult({"slope": 1})

    monkeypatch.setattr(Legalization, "run", run)
    save(relu(), tmp_path / "net.planish")
    (tmp_path / "recipe.yaml").write_text("model: net.planish\nbackend: onnxruntime\npasses: [cleanup]\noutput: dist\n")
    with pytest.raises(kind) as raised:
        build(str(tmp_path / "recipe.yaml"))
    said = "\n".join([str(raised.value), *getattr(raised.value, "__notes__", ())])
    (folder,) = set(re.findall(r"planish opt (\S+)", said))
    with pytest.raises(kind):
        optimize_file(folder, None, None)


def test_what_a_backend_refuses_is_no_fault_of_its_passes(tmp_path: Path) -> None:
    save(distinct(), tmp_path / "net.planish")
    for backend in ("auto", "tvm"):
        recipe = tmp_path / f"{backend}.yaml"
        recipe.write_text(f"model: net.planish\nbackend: {backend}\npasses: [cleanup]\n")
        refusal = pytest.raises(TargetError, match="tvm can't run Unique: there is no kernel for it")
        with refusal if backend == "tvm" else nullcontext():
            assert find_fault(str(recipe), None, None, "native") is None


def test_opt_lowers_a_model_or_a_reproducer_to_a_backend(tmp_path: Path) -> None:
    graph = Graph("gate")
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 2)))
    graph.outputs["y"] = Builder(graph).Swish(x)
    save(graph, tmp_path / "net.planish")
    Reproducer(graph, "cleanup", target="x86-64").write(tmp_path / "case")
    for model, pipeline in (
        (tmp_path / "net.planish", None),
        (tmp_path / "net.planish", "dce"),
        (tmp_path / "case", None),
    ):
        result = optimize_file(str(model), pipeline, None, lower_to="tvm")
        assert [node.operator for node in result.graph.nodes] == ["Sigmoid", "Mul"]
    with pytest.raises(UsageError, match="unknown backend 'tv'; did you mean 'tvm'"):
        optimize_file(str(tmp_path / "net.planish"), None, None, lower_to="tv")


def distinct(*, is_used: bool = True) -> Graph:
    """What TVM has no kernel for."""
    graph = Graph("distinct")
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 2)))
    found = Builder(graph, location=Location("net.head")).Unique(x)
    graph.outputs["y"] = found if is_used else Builder(graph).Relu(x)
    return graph


@dataclass(frozen=True)
class Mending(Pass):
    """Leaves out what isn't needed, as anybody's pass may."""

    name: ClassVar[str] = "mending"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        return PassResult()


def test_what_no_pass_changes_is_refused_early() -> None:
    target, backends = load_target("native"), [find_backend(name) for name in ("onnxruntime", "tvm")]
    for graph, steps, is_refused in [
        (distinct(), (), True),
        (distinct(), parse_pipeline("cleanup,fuse,quantize"), True),
        (distinct(), (Mending(),), False),  # nobody knows what that does
        (distinct(is_used=False), (), True),
        (distinct(is_used=False), parse_pipeline("group(dce)"), False),
    ]:
        before, context = print_graph(graph), PassContext(target, graph)
        refuse_early(graph, steps, context, backends[0])
        with pytest.raises(TargetError) if is_refused else nullcontext() as raised:
            refuse_early(graph, steps, context, backends[1])
        if is_refused:
            assert str(raised.value).startswith("net.head: tvm can't run Unique: there is no kernel for it; build for")
        assert print_graph(graph) == before


@pytest.mark.parametrize(
    ("first", "second", "chosen", "why"),
    [
        ([1.0, 1.0, 1.0, 1.0], [0.5, 0.6, 0.5, 0.7], 1, "onnxruntime takes 1.83x (1.61-2.00) as long"),
        ([1.0, 1.0, 1.0, 1.0], [0.9, 1.1, 0.9, 1.2], 0, "onnxruntime is not faster"),
        ([1.0, 1.0, 1.0, 1.0], [0.9, 1.1, 0.9, 1.05], 0, "onnxruntime is faster by less than the noise, 1.03x"),
        ([1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0], 0, "onnxruntime takes 2.00x (2.00-2.00) as long"),
    ],
)
def test_the_faster_one_is_kept_and_the_first_within_noise(
    tmp_path: Path, first: list[float], second: list[float], chosen: int, why: str
) -> None:
    candidate = lower(relu(), find_backend("onnxruntime"), load_target("native"), tmp_path / "artifact")
    candidates = [candidate, replace(candidate, name="second")]
    latencies = [Latency(np.array(first)), Latency(np.array(second))]
    contest = Contest(candidates, latencies)
    assert contest.winner == (candidates[chosen], latencies[chosen])
    assert contest.verdict.startswith(f"took onnxruntime: {why}")


@pytest.mark.parametrize(
    ("budget", "goal", "chosen", "why"),
    [
        ({"size": "1000 B"}, "latency", 1, "large has 4 kB instead of 400 B"),
        ({"size": "100 B"}, "latency", 1, "large has 4 kB instead of 400 B"),
        ({"size": "5 kB"}, "latency", 0, "small takes 2.00x (2.00-2.00) as long"),
        ({}, "size", 1, "large has 4 kB instead of 400 B"),
        ({"latency": "1.5 s"}, "size", 0, "small takes longer than the budget"),
    ],
)
def test_the_choice_of_a_backend_hears_the_size(tmp_path, budget, goal: str, chosen: int, why: str) -> None:
    candidate = lower(relu(), find_backend("onnxruntime"), load_target("native"), tmp_path / "artifact")
    candidates = [replace(candidate, backend="large", size=4000), replace(candidate, backend="small", size=400)]
    latencies = [Latency(np.array([time] * 4)) for time in (1.0, 2.0)]
    contest = Contest(candidates, latencies, Budget(**budget), goal)
    assert contest.winner == (candidates[chosen], latencies[chosen])
    assert contest.verdict == f"took {candidates[chosen].backend}: {why}"


@pytest.mark.parametrize(("work", "chosen"), [(0.95, 0), (0.5, 1)])
def test_beside_other_work_the_faster_one_must_work_clearly_less(tmp_path: Path, work: float, chosen: int) -> None:
    candidate = lower(relu(), find_backend("onnxruntime"), load_target("native"), tmp_path / "artifact")
    candidates = [candidate, replace(candidate, name="second")]
    latencies = [Latency(np.full(7, 1.0), np.full(7, 1.0)), Latency(np.full(7, 20.0), np.full(7, work))]
    contest = Contest(candidates, latencies)
    assert contest.winner[0] is candidates[chosen]
    assert contest.verdict.endswith("measured beside other work, so the processor's time decided")
