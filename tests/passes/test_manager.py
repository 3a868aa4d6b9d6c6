"""The manager runs passes in order, and stops at the first that breaks the graph or what it declares, by name."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from planish import optimize
from planish.ir.builder import Builder
from planish.ir.errors import CheckError, ModelError, PassError, UsageError
from planish.ir.graph import Graph
from planish.ir.text import print_graph
from planish.ir.types import DType, TensorType
from planish.passes.base import Effect, Pass, PassResult
from planish.passes.cleanup.dce import DeadCodeElimination
from planish.passes.instrument import Instrument
from planish.passes.manager import PassManager
from planish.passes.pipeline import parse_pipeline
from planish.passes.rewrite import RewriteRule, rule_pass

SOURCE = """(%x: float32[batch, 4]) {
  const %w: float32[4, 2] = [1, 2, 3, 4, 5, 6, 7, 8]
  %a: float32[batch, 2] = MatMul(%x, %w) @ "head"
  %y: float32[batch, 2] = Relu(%a) @ "act"
  return y = %y
}"""


def last(graph: Graph):
    """The last node and a builder before it."""
    (node,) = list(graph.nodes)[-1:]
    return node, Builder(graph, before=node, location=node.location)


@dataclass(frozen=True)
class Scale(Pass):
    """Multiplies what the last node reads."""

    name: ClassVar[str] = "scale"
    effect: ClassVar[Effect] = Effect.EXACT
    factor: float = 1.0

    def run(self, graph, context) -> PassResult:
        node, op = last(graph)
        graph.set_input(node, 0, op.Mul(node.inputs[0], self.factor))
        return PassResult({"scale": 1})


class ScaleRounding(Scale):
    name: ClassVar[str] = "scale-rounding"
    effect: ClassVar[Effect] = Effect.ROUNDING


class ScaleLossy(Scale):
    name: ClassVar[str] = "scale-lossy"
    effect: ClassVar[Effect] = Effect.LOSSY


@dataclass(frozen=True)
class Early(Pass):
    name: ClassVar[str] = "early"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph, context) -> PassResult:
        return PassResult()


@dataclass(frozen=True)
class Late(Early):
    name: ClassVar[str] = "late"
    after: ClassVar[tuple[str, ...]] = ("early", "dce")


@dataclass(frozen=True)
class Break(Early):
    """Leaves a graph that is malformed, each time in another way."""

    name: ClassVar[str] = "break"
    how: str = ""

    def run(self, graph, context) -> PassResult:
        node, _ = last(graph)
        match self.how:
            case "attribute":
                node.attributes = {"axis": 1}
            case "operator":
                node.operator = "Rleu"
            case "order":
                graph.set_input(node, 0, graph.add_node("Exp", [graph.inputs[0]], [node.output.type]).output)
            case "foreign":
                graph.outputs["y"] = graph.clone().outputs["y"]
            case "shape":
                wide = graph.add_constant(np.ones((4, 3), np.float32))
                graph.set_input(next(graph.nodes), 1, wide)
                graph.set_input(node, 0, graph.add_node("Add", [node.inputs[0], node.inputs[0]], [node.output.type],
                                                        before=node).output)  # fmt: skip
            case "output":
                graph.outputs["renamed"] = graph.outputs.pop("y")
        return PassResult({"break": 1})


@dataclass(frozen=True)
class Fail(Early):
    name: ClassVar[str] = "fail"
    how: str = ""

    def run(self, graph, context) -> PassResult:
        errors = {"model": ModelError("head: bad"), "check": CheckError("fail: bad"), "usage": UsageError("fail: how")}
        raise errors.get(self.how, RuntimeError("out of luck"))


class Log(Instrument):
    """Writes down what it is told."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def start(self, graph: Graph, context) -> None:
        self.log.append(f"{self.name} start {len(graph)}")

    def before(self, step, graph: Graph) -> None:
        self.log.append(f"{self.name} before {step.name} {len(graph)}")

    def ran(self, step, graph: Graph) -> None:
        self.log.append(f"{self.name} ran {step.name} {len(graph)}")

    def finish(self) -> None:
        self.log.append(f"{self.name} finish")

    def after(self, record, graph: Graph) -> None:
        self.log.append(f"{self.name} after {record.name} {len(graph)}")


@pytest.fixture
def run(graph_of, context):
    """Runs passes over a fresh copy of the source, which it gives back with the records."""

    def run(*passes: Pass, verify: str = "numeric", instruments=()):
        source = graph_of(SOURCE)
        graph = source.clone()
        return graph, PassManager(passes, instruments, verify).run(graph, context(source))

    return run


# -- records


def test_each_pass_has_a_record(run) -> None:
    graph, (first, second) = run(Scale(), ScaleLossy(factor=1.5))
    assert (first.name, first.effect, first.drift) == ("scale", Effect.EXACT, 0.0)
    assert first.text.endswith(":Scale")
    assert first.result == PassResult({"scale": 1})
    assert second.text.endswith(":ScaleLossy{factor=1.5}")
    assert second.drift == pytest.approx(0.5)
    assert (first.nodes, second.nodes) == (3, len(graph)) == (3, 4)
    assert first.seconds >= 0


def test_no_passes_no_records(run, graph_of) -> None:
    graph, records = run()
    assert records == ()
    assert print_graph(graph) == print_graph(graph_of(SOURCE))


def test_the_source_is_left_as_it_was(graph_of, context) -> None:
    source = graph_of(SOURCE)
    PassManager(parse_pipeline("cleanup,fuse")).run(source.clone(), context(source))
    assert print_graph(source) == print_graph(graph_of(SOURCE))


# -- what is stopped


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Scale(1.001), "pass scale declares itself exact, but output 'y' differs by up to"),
        (ScaleRounding(1.01), "pass scale-rounding declares itself rounding, but output 'y' differs by up to"),
        (ScaleRounding(float("nan")), "pass scale-rounding declares itself rounding, but output 'y' has become NaN"),
        (ScaleLossy(float("nan")), "pass scale-lossy declares itself lossy, but output 'y' has become NaN"),
        (ScaleLossy(-1e6), "pass scale-lossy moved the outputs by"),
        (ScaleLossy(100.0), "pass scale-lossy moved the outputs by 99 .*more than the 1 that is plausible for it"),
    ],
)
def test_a_pass_that_goes_further_than_it_declares_is_stopped_by_name(run, step: Pass, message: str) -> None:
    with pytest.raises(CheckError, match=message):
        run(Early(), step, Late())


def test_a_pass_within_what_it_declares_is_not_stopped(run) -> None:
    _, records = run(Scale(1.0), ScaleRounding(1.0001), ScaleLossy(1.5))
    assert [record.drift for record in records] == pytest.approx([0, 1e-4, 0.5], abs=1e-3)


def test_an_exact_pass_is_not_blamed_for_a_layout_in_memory(graph_of, context) -> None:
    """A concatenation copies what a transpose only looks at differently, and sums over the two round differently."""
    graph = graph_of(
        """(%x: float32[64, 300]) {
          const %axes: int64[1] = [1]
          %a: float32[300, 64] = Transpose(%x) {perm = [1, 0]}
          %b: float32[300, 64] = Concat(%a) {axis = 0}
          %y: float32[300] = ReduceSum(%b, %axes) {keepdims = 0}
          return y = %y
        }"""
    )
    (record,) = PassManager(parse_pipeline("remove-identities")).run(graph.clone(), context(graph))
    assert record.result.counts == {"Concat": 1}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("attribute", "pass break left a malformed graph: Relu.* of act: Relu has no attribute axis"),
        ("operator", "pass break left a malformed graph: Rleu.* has no operator Rleu; did you mean Relu?"),
        ("order", "pass break left a malformed graph: Relu.* of act: it reads %exp, which nothing before it"),
        ("foreign", "pass break left a malformed graph: the graph returns %y as y, but nothing in it defines"),
        ("shape", "pass break left a graph whose types are wrong: %a: .* of head came out with the shape"),
        ("output", r"pass break changed the model's outputs from \['y'\] to \['renamed'\]"),
    ],
)
def test_a_pass_that_breaks_the_graph_is_stopped_by_name(run, how: str, message: str) -> None:
    with pytest.raises(CheckError, match=message):
        run(Early(), Break(how), Late())


def test_a_malformed_source_is_no_pass_s_fault(context) -> None:
    graph = Graph()
    graph.outputs["y"] = graph.add_node("Rleu", [], [TensorType(DType.float32, ())]).output
    with pytest.raises(CheckError, match=r"^Rleu\(\)"):
        PassManager([Early()]).run(graph, context(graph))


def test_errors_inside_a_pass_carry_its_name(run) -> None:
    with pytest.raises(ModelError, match="^pass fail: head: bad$"):
        run(Fail("model"))
    with pytest.raises(CheckError, match="^pass fail: bad$"):
        run(Fail("check"))
    with pytest.raises(UsageError, match="^fail: how"):
        run(Fail("usage"))


def test_a_crash_names_the_line_of_a_pass_and_the_pass_of_ours(run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        PassError, match=r"^pass .*Fail{how=.*} failed: RuntimeError: out of luck \(.*test_manager.py:\d+\)"
    ) as caught:
        run(Fail("?"))
    assert isinstance(caught.value.__cause__, RuntimeError)

    def crash(self: Pass, *surroundings: object) -> PassResult:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(DeadCodeElimination, "run", crash)
    with pytest.raises(RuntimeError, match="out of luck") as bug:
        run(DeadCodeElimination(skip=("x",)))
    assert bug.value.__notes__ == ["in the pass dce{skip=x}"]


def test_a_crash_names_the_line_of_a_rule(run) -> None:
    for broken in ("check", "replacement"):
        parts = {"replacement": lambda op, x: op.Relu(x), broken: lambda *given: given[9]}
        rule = RewriteRule("broken", lambda op, x: op.Relu(x), **parts)
        with pytest.raises(PassError, match=r"failed: IndexError: .* \(.*test_manager.py:\d+\)"):
            run(rule_pass(rule, "rules_of_mine:broken")())


# -- how much is verified


def test_without_numbers_only_the_structure_is_held(run) -> None:
    _, (record,) = run(Scale(3.0), verify="structure")
    assert record.drift is None
    with pytest.raises(CheckError, match="pass break left a malformed graph"):
        run(Break("attribute"), verify="structure")


def test_without_verification_anything_goes(run) -> None:
    graph, records = run(Scale(3.0), Break("attribute"), verify="none")
    assert [record.drift for record in records] == [None, None]
    assert last(graph)[0].attributes == {"axis": 1}


def test_probes_are_the_calibration_data(graph_of, context) -> None:
    """A mistake that only real data shows: random floats are never this large."""

    class Clip(Scale):
        name: ClassVar[str] = "clip"

        def run(self, graph, context) -> PassResult:
            node, op = last(graph)
            graph.set_input(node, 0, op.Clip(node.inputs[0], -1e3, 1e3))
            return PassResult({"clip": 1})

    from dataclasses import replace

    source = graph_of(SOURCE)
    blind = context(source)
    PassManager([Clip()]).run(source.clone(), blind)
    aware = replace(blind, calibration=[{"x": np.full((1, 4), 1e4, np.float32)}])
    with pytest.raises(CheckError, match="pass clip declares itself exact"):
        PassManager([Clip()]).run(source.clone(), aware)


# -- order


@pytest.mark.parametrize(
    ("passes", "late"), [((Late(), Early()), "early"), ((Early(), Late(), *parse_pipeline("dce")), "dce")]
)
def test_a_pass_before_what_it_must_follow_is_refused(run, passes: tuple[Pass, ...], late: str) -> None:
    with pytest.raises(UsageError, match=f"late must come after {late}, but comes earlier in the pipeline"):
        run(*passes)


def test_both_are_named_where_two_come_late(run) -> None:
    with pytest.raises(UsageError, match="late must come after early, dce, but"):
        run(Late(), *parse_pipeline("dce"), Early())


@pytest.mark.parametrize("passes", [(Late(),), (Early(), Late()), (Early(), Late(), Early())])
def test_what_is_not_there_or_was_there_before_is_fine(run, passes: tuple[Pass, ...]) -> None:
    assert len(run(*passes)[1]) == len(passes)


def test_the_order_is_checked_before_anything_runs(run) -> None:
    log: list[str] = []
    with pytest.raises(UsageError):
        run(Late(), Early(), instruments=[Log("a", log)])
    assert log == []


# -- instruments


def test_instruments_are_told_in_order(run) -> None:
    log: list[str] = []
    run(Early(), Scale(), instruments=[Log("a", log), Log("b", log)])
    assert log == [
        "a start 2",
        "b start 2",
        "a before early 2",
        "b before early 2",
        "a ran early 2",
        "b ran early 2",
        "a after early 2",
        "b after early 2",
        "a before scale 2",
        "b before scale 2",
        "a ran scale 3",
        "b ran scale 3",
        "a after scale 3",
        "b after scale 3",
        "a finish",
        "b finish",
    ]


def test_after_is_only_told_of_a_pass_that_was_right(run) -> None:
    log: list[str] = []
    with pytest.raises(CheckError):
        run(Early(), Scale(2.0), instruments=[Log("a", log)])
    first = ["a start 2", "a before early 2", "a ran early 2", "a after early 2"]
    assert log == [*first, "a before scale 2", "a ran scale 3", "a finish"]

    log.clear()
    with pytest.raises(CheckError):  # nothing is shown of what is no graph
        run(Early(), Break("attribute"), instruments=[Log("a", log)])
    assert log == [*first, "a before break 2", "a finish"]


@pytest.mark.parametrize("hook", ["start", "before", "ran", "after", "finish"])
def test_an_instrument_that_raises_names_itself(run, hook: str) -> None:
    def fail(*_) -> None:
        raise RuntimeError("out of luck")

    broken = type("Broken", (Instrument,), {hook: fail})()
    message = rf"the instrument {__name__}:Broken failed: RuntimeError: out of luck \(.*test_manager.py:\d+\)"
    with pytest.raises(ModelError, match=message):
        run(Early(), instruments=[broken])


def test_what_went_wrong_first_is_told(run) -> None:
    broken = type("Broken", (Instrument,), {"finish": lambda self: 1 / 0})()
    with pytest.raises(CheckError, match="pass scale declares itself exact"):
        run(Scale(2.0), instruments=[broken])


def test_layers_inside_branches_are_named_where_nothing_changed(graph_of) -> None:
    graph = graph_of(
        """(%x: float32[1, 4], %p: bool[]) {
          %y: float32[1, 4] = If(%p) {else_branch = graph "no"() {
            %r: float32[1, 4] = Relu(%x)
            return r = %r
          }, then_branch = graph "yes"() {
            const %w: float32[4, 4]
            %m: float32[1, 4] = MatMul(%x, %w)
            return m = %m
          }} @ "rated"
          return y = %y
        }""",
        {"y>then_branch>w": np.ones((4, 4), np.float32)},
    )
    message = r"layers inside If stay as they are; .* give it a value: model.onnx{input=value} \(rated\)"
    with pytest.raises(UsageError, match=message):
        optimize(graph, "quantize{scheme=int4}", target="x86-64-avx512-vnni")
