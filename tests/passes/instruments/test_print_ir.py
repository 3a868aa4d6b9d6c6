"""What is printed of the graph, when, and in a form that reads back."""

import io

import pytest

from planish.ir.text import parse_graph, print_graph
from planish.passes.instrument import Instrument
from planish.passes.instruments.print_ir import PrintIR
from planish.passes.manager import PassManager
from planish.passes.pipeline import parse_pipeline

SOURCE = """(%x: float32[2]) {
  const %c: float32[] = 2.0
  %a: float32[2] = Identity(%x)
  %b: float32[2] = Mul(%a, %c)
  return y = %b
}"""


@pytest.fixture
def printed(graph_of, context):
    """The titles of what is printed while a pipeline runs, and the graphs below them."""

    def run(pipeline: str = "dce,remove-identities,fold-constants{limit=9},dce", **options) -> dict[str, str]:
        source = graph_of(SOURCE)
        stream = io.StringIO()
        PassManager(parse_pipeline(pipeline), [PrintIR(**options, stream=stream)]).run(source.clone(), context(source))
        parts = [part.partition("\n") for part in stream.getvalue().split("// ")[1:]]
        return {title: text for title, _, text in parts}

    return run


def test_nothing_is_asked_for_and_nothing_printed(printed) -> None:
    assert printed() == {}


def test_before_and_after_by_name(printed, graph_of) -> None:
    graphs = printed(before=["remove-identities"], after=["remove-identities", "no-such-pass"])
    assert list(graphs) == ["before remove-identities", "after remove-identities"]
    assert print_graph(parse_graph(graphs["before remove-identities"])) == print_graph(graph_of(SOURCE))
    assert "Identity" not in graphs["after remove-identities"]
    assert parse_graph(graphs["after remove-identities"]).outputs.keys() == {"y"}


def test_a_star_stands_for_all(printed) -> None:
    assert list(printed(before="*")) == ["before dce", "before remove-identities", "before fold-constants"]
    assert list(printed(after=["*"])) == ["after dce", "after remove-identities", "after fold-constants{limit=9}"]


def test_only_what_changed(printed) -> None:
    assert list(printed(changed=True)) == ["after remove-identities"]


def test_an_instrument_need_not_watch_everything(graph_of, context) -> None:
    source = graph_of(SOURCE)
    records = PassManager(parse_pipeline("dce"), [Instrument()]).run(source.clone(), context(source))
    assert [record.name for record in records] == ["dce"]
