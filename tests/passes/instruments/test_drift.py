"""Which value moves first is told by its layer, through renamed and fused nodes, and for a pass that is found wrong."""

import io
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.errors import CheckError
from planish.passes.base import Effect, Pass, PassResult
from planish.passes.instruments.drift import Drift
from planish.passes.manager import PassManager
from planish.passes.pipeline import parse_pipeline
from planish.passes.rewrite import rule_pass
from planish.passes.rewrite.rule import RewriteRule

SWISH = RewriteRule("swish", lambda op, x: op.Mul(x, op.Sigmoid(x)), lambda op, x: op.Swish(x), effect=Effect.ROUNDING)
SOURCE = """(%x: float32[n, 4]) {
  const %w: float32[4, 4] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
  %a: float32[n, 4] = MatMul(%x, %w) @ "first"
  %s: float32[n, 4] = Sigmoid(%a) @ "act"
  %b: float32[n, 4] = Mul(%a, %s) @ "act"
  %c: float32[n, 4] = MatMul(%b, %w) @ "second"
  %i: int64[n] = ArgMax(%c) {axis = 1, keepdims = 0} @ "choice"
  %d: float32[n, 4] = Neg(%c) @ "last"
  return y = %d, i = %i
}"""


@dataclass(frozen=True)
class Replace(Pass):
    """Writes a node anew, with what it reads scaled."""

    name: ClassVar[str] = "replace"
    effect: ClassVar[Effect] = Effect.LOSSY
    layer: str = "second"
    factor: float = 1.0

    def run(self, graph, context) -> PassResult:
        (node,) = [node for node in graph.nodes if node.location.module == self.layer]
        op = Builder(graph, before=node, location=node.location)
        scaled = op.Mul(node.inputs[0], self.factor)
        graph.replace_uses(node.output, op(node.operator, scaled, *node.inputs[1:], **node.attributes))
        graph.erase(node)
        return PassResult({"replace": 1})


class ReplaceExact(Replace):
    effect: ClassVar[Effect] = Effect.EXACT


@pytest.fixture
def told(graph_of, context):
    def run(*steps: Pass, wrong: bool = False) -> list[str]:
        source, stream = graph_of(SOURCE), io.StringIO()
        manager = PassManager(steps, [Drift(stream)])
        if wrong:
            with pytest.raises(CheckError):
                manager.run(source.clone(), context(source))
        else:
            manager.run(source.clone(), context(source))
        return [line.partition(": ")[2] for line in stream.getvalue().splitlines()]

    return run


def test_what_moves_first_and_what_is_furthest(told) -> None:
    assert told(Replace(factor=1.01), *parse_pipeline("cse"), Replace("last", 1.1)) == [
        (
            "%matmul of second moves first, to 0.01; "
            "furthest from the source is %matmul of second, 0.01 (5 of 6 values compared)"
        ),
        "nothing moves; furthest from the source is %matmul of second, 0.01 (5 of 6 values compared)",
        "%neg of last moves first, to 0.111; furthest from the source is %neg of last, 0.111 (5 of 7 values compared)",
    ]


def test_a_fused_layer_has_the_counterpart_that_it_ends_in(told) -> None:
    assert told(rule_pass(SWISH, "here:swish")()) == ["nothing moves (4 of 4 values compared)"]


def test_a_pass_that_is_found_wrong_is_told_as_well(told) -> None:
    (line,) = told(ReplaceExact(factor=np.float32(2).item()), wrong=True)
    assert line.startswith("%matmul of second moves first, to 1;")
