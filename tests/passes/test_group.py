"""Passes made of others: groups, fixed points, what is selected in them, and what is required of them."""

from collections.abc import Callable
from typing import TypeAlias

import pytest

from planish.ir.errors import UsageError
from planish.ir.graph import Graph
from planish.passes.base import PassResult
from planish.passes.instrument import PassRecord
from planish.passes.manager import PassManager
from planish.passes.pipeline import parse_pipeline
from planish.passes.rewrite import RewriteRule

Run: TypeAlias = Callable[[str], tuple[Graph, tuple[PassRecord, ...]]]

SOURCE = """(%x: float32[2]) {
  %a: float32[2] = Identity(%x) @ "encoder.0"
  %b: float32[2] = Identity(%a) @ "encoder.1"
  %c: float32[2] = Relu(%b) @ "head"
  %d: float32[2] = Identity(%c) @ "head"
  return y = %d
}"""

there = RewriteRule("there", lambda op, x: op.Neg(x), lambda op, x: op.Mul(x, -1.0))
back = RewriteRule("back", lambda op, x: op.Mul(x, -1.0), lambda op, x: op.Neg(x))
HERE = __name__


@pytest.fixture
def run(graph_of, context) -> Run:
    """Run a pipeline over `SOURCE`, or another graph."""

    def run_pipeline(pipeline: str, text: str = SOURCE) -> tuple[Graph, tuple[PassRecord, ...]]:
        source = graph_of(text)
        graph = source.clone()
        return graph, PassManager(parse_pipeline(pipeline)).run(graph, context(source))

    return run_pipeline


def outputs(graph: Graph) -> list[str]:
    return [node.outputs[0].name for node in graph.nodes]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ("only=encoder.*", ["c", "d"]),
        ("skip=encoder.0|head", ["a", "c", "d"]),
        ("only=Identity,skip=b", ["b", "c"]),
        ("only=Relu", ["a", "b", "c", "d"]),
    ],
)
def test_only_and_skip_go_by_layer_operator_and_name(run: Run, options: str, left: list[str]) -> None:
    graph, _ = run(f"remove-identities{{{options}}}")
    assert outputs(graph) == left


def test_every_group_narrows_what_may_be_touched(run: Run) -> None:
    graph, _ = run("group(dce,group(remove-identities{skip=d}){only=head*|encoder.1}){required=true}")
    assert outputs(graph) == ["a", "c", "d"]


def test_each_pass_of_a_group_is_recorded_and_checked_by_itself(run: Run) -> None:
    _, records = run("group(cse,fixpoint(remove-identities,dce))")
    assert [record.name for record in records] == ["cse", *2 * ["remove-identities", "dce"]]
    assert [record.result.changed for record in records] == [False, True, False, False, False]


def test_passes_that_undo_each_other_come_to_an_end_with_an_error(run: Run) -> None:
    text = "(%x: float32[2]) { %y: float32[2] = Neg(%x) return y = %y }"
    with pytest.raises(UsageError, match="fixpoint: after 3 rounds of there, back something still changes"):
        run(f"fixpoint({HERE}:there,{HERE}:back){{most=3}}", text)


def test_what_is_required_must_change_something(run: Run) -> None:
    run("remove-identities{required=true}")
    for pipeline in ("fuse-gelu{required=true}", "group(cse,fuse-gelu){required=true}"):
        with pytest.raises(UsageError, match="pass .*fuse-gelu.* is required, but changed nothing"):
            run(pipeline)


def test_required_passes_say_why_they_changed_nothing(run: Run) -> None:
    text = "(%x: float32[1]) { const %c: float32[1] = [1.0] %b: float32[30000] = Expand(%c, %s) return y = %b }"
    text = text.replace("const %c", "const %s: int64[1] = [30000] const %c")
    with pytest.raises(UsageError, match=r"is required, but changed nothing:\n  folding Expand would add"):
        run("fold-constants{required=true,limit=1KiB}", text)


def test_results_add_up() -> None:
    results = [PassResult({"a": 1, "b": 0}, ["no"], ["seen"]), PassResult({"a": 2}, notes=["timed"], curve=[1.0])]
    assert PassResult.sum(results) == PassResult({"a": 3, "b": 0}, ["no"], ["seen", "timed"])


def test_a_group_runs_without_the_manager_too(graph_of, context) -> None:
    graph = graph_of(SOURCE)
    (group,) = parse_pipeline("fixpoint(remove-identities,dce){skip=d}")
    assert group.apply(graph, context(graph)).counts == {"Identity": 2, "nodes": 0, "constants": 0}


@pytest.mark.parametrize("pipeline", ["quantize,prune-channels", "group(quantize),fixpoint(factorize)"])
def test_what_no_longer_holds_is_told_with_its_cure(run: Run, pipeline: str) -> None:
    with pytest.raises(
        UsageError, match=r"(.+) needs a graph that is float, .* after quantize: put \1 before quantize"
    ):
        run(pipeline)
