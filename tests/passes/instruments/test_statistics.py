"""What the passes did in all."""

import io

import pytest

from planish.ir.errors import UsageError
from planish.passes.instruments.statistics import Statistics
from planish.passes.manager import PassManager
from planish.passes.pipeline import parse_pipeline

SOURCE = """(%x: float32[n, 2]) {
  const %c: float32[2] = [1, 2]
  const %d: float32[2] = [3, 4]
  %e: float32[2] = Add(%c, %d)
  %a: float32[n, 2] = Add(%x, %e)
  %b: float32[n, 2] = Add(%x, %e)
  %s: float32[n, 2] = Mul(%a, %b)
  return y = %s
}"""


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_rewrites_are_counted_and_the_graph_is_measured(graph_of, context) -> None:
    source, stream = graph_of(SOURCE), io.StringIO()
    PassManager(parse_pipeline("fixpoint(fold-constants,cse),dce"), [Statistics(stream)]).run(
        source.clone(), context(source)
    )
    assert rows(stream.getvalue()) == [
        ["pass", "rewrite", "times"],
        ["fold-constants", "fold", "1"],
        ["cse", "nodes", "1"],
        [],
        ["graph", "before", "after"],
        ["nodes", "4", "2"],
        ["constants", "2", "1"],
        ["parameters", "4", "2"],
        ["bytes", "16", "B", "8", "B"],
        ["FLOPs", "8", "4"],
    ]


def test_what_was_done_before_a_failure_is_told(graph_of, context) -> None:
    source, stream = graph_of(SOURCE), io.StringIO()
    with pytest.raises(UsageError, match="still changes"):
        PassManager(parse_pipeline("cse,fixpoint(fold-constants){most=1}"), [Statistics(stream)]).run(
            source.clone(), context(source)
        )
    assert ["cse", "nodes", "1"] in rows(stream.getvalue())
