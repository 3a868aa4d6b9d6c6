"""Near misses: which nodes matched, and what would have to be otherwise."""

import pytest

from planish.ir.graph import Graph
from planish.passes.fusion.fuse_gelu import GeluFusion
from planish.passes.rewrite import RewriteRule
from planish.passes.rewrite.explain import Explanation, NearMiss, explain


def told(graph: Graph, pattern, check=lambda match: "") -> list[NearMiss]:
    """The near misses of a rule that matches nowhere."""
    (explanation,) = explain(graph, [RewriteRule("mine", pattern, lambda op: None, check)])
    assert (explanation.rule, explanation.matches, explanation.more) == ("mine", 0, 0)
    return list(explanation.near)


def differences(graph: Graph, pattern, check=lambda match: "") -> list[str]:
    """The differences of the only near miss."""
    (miss,) = told(graph, pattern, check)
    return list(miss.differences)


ONE = """(%x: float32[2], %z: float32[2]) {{
  const %c: float32[] = 0.51
  const %d: float32[2] = [1.0, 2.0]
  {}
  %e: float32[2] = Exp(%x) @ "block" "model.py:3"
  %y: float32[2] = Sub(%e, {}) @ "block.act"
  return y = %y{}
}}"""


@pytest.mark.parametrize(
    ("node", "operand", "pattern", "expected"),
    [
        ("", "%c", lambda op, x: op.Sub(op.Exp(x), 0.5),
         "%c is the constant 0.51 of type float32[], where the number 0.5 is wanted"),
        ("", "%d", lambda op, x: op.Sub(op.Exp(x), 0.5),
         "%d is a constant of type float32[2], where the number 0.5 is wanted"),
        ("", "%z", lambda op, x: op.Sub(op.Exp(x), op.Neg(x)),
         "%z is an input of the graph, where a result of Neg is wanted"),
        (
            '%n: float32[2] = Abs(%z) @ "other"',
            "%n",
            lambda op, x: op.Sub(op.Exp(x), op.Neg(x)),
            "%n comes from Abs at other, where a result of Neg is wanted",
        ),
        (
            "",
            "%z",
            lambda op, x: op.Sub(op.Exp(x), x),
            "%z is an input of the graph, where x is to be the same as elsewhere: %x is an input of the graph",
        ),
        ("", "%z", lambda op, x, c: op.Sub(op.Exp(x), op.constant(c)),
         "%z is an input of the graph, where c is to be a constant"),
        ("", "%z", lambda op, x, z: op.Sub(op.Exp(x), z, 1.0), "an input is left out, where the number 1 is wanted"),
        ("", "%z", lambda op, z: op.Sub(op.Exp(), z), "Exp at block at model.py:3 has 1 inputs"),
        ("", "%z", lambda op, x, z: op.Sub(op.Exp(x, base=2), z), "base of Exp at block at model.py:3 is None, not 2"),
        ("", "%z", lambda op, x, z: op.Sub(op.Exp(x, outputs=2)[0], z),
         "Exp at block at model.py:3 has 1 outputs, not 2"),
    ],
)  # fmt: skip
def test_what_differs_is_said_with_the_layer(graph_of, node: str, operand: str, pattern, expected: str) -> None:
    (miss,) = told(graph_of(ONE.format(node, operand, "")), pattern)
    assert (miss.location, miss.matched) == ("block.act", ("Sub %y", "Exp %e"))
    assert miss.differences == (expected,)


def test_other_readers_checks_and_ranks_are_reasons_too(graph_of) -> None:
    def pattern(op, x, z):
        return op.Sub(op.Exp(x), z)

    assert differences(graph_of(ONE.format("", "%z", ", e = %e")), pattern) == [
        "%e is also read by the caller, as an output of the graph"
    ]
    read = ONE.replace("return y = %y", '%a: float32[2] = Abs(%e) @ "head" return a = %a, y = %y')
    assert differences(graph_of(read.format("", "%z", "")), pattern) == ["%e is also read by Abs at head"]
    assert differences(graph_of(ONE.format("", "%z", "")), pattern, lambda match: "it is odd") == ["it is odd"]
    unranked = graph_of(
        "(%x: float32[...]) { %e: float32[...] = Exp(%x) %y: float32[...] = Sub(%e, %x) return y = %y }"
    )
    (reason,) = differences(unranked, pattern)
    assert reason.startswith("the rank of what Sub at an unnamed place reads or computes is unknown")


def test_a_node_of_a_pattern_that_stands_alone_is_told_of(graph_of) -> None:
    graph = graph_of('(%x: float32[2, 2]) { %y: float32[2, 2] = Softmax(%x) {axis = 0} @ "head" return y = %y }')
    assert differences(graph, lambda op, x: op.Softmax(x, axis=-1)) == ["axis of Softmax at head is 0, not -1"]


def test_the_order_that_gets_furthest_is_told(graph_of) -> None:
    """The first operand of the product is the other one's."""
    graph = graph_of(
        """(%x: float32[2], %z: float32[2]) {
          const %one: float32[] = 1.5
          %e: float32[2] = Erf(%x)
          %a: float32[2] = Add(%one, %e)
          %y: float32[2] = Mul(%a, %z)
          return y = %y
        }"""
    )
    (miss,) = told(graph, lambda op, z, x: op.Mul(z, op.Add(op.Erf(x), 1.0)))
    assert (miss.matched, miss.wanted) == (("Mul %y", "Add %a", "Erf %e"), 3)
    assert miss.differences == ("%one is the constant 1.5 of type float32[], where the number 1 is wanted",)


def test_other_results_are_looked_for(graph_of) -> None:
    text = (
        "(%x: float32[2], %z: float32[2]) {{ %a: float32[2] = Exp(%x) %n: float32[2] = Neg(%a) {} "
        "return n = %n, b = %b }}"
    )

    def pattern(op, x):
        return op.Neg(op.Exp(x)), op.Sub(x, 1.0)

    assert differences(graph_of(text.format("%b: float32[2] = Abs(%x)")), pattern) == ["no Sub reads the same"]
    (difference,) = differences(graph_of(text.format("%b: float32[2] = Sub(%x, %z)")), pattern)
    assert difference == "%z is an input of the graph, where the number 1 is wanted"


GELU = """(%x: float32[2]) {{
  const %root: float32[] = 1.4142135
  const %one: float32[] = 1.0
  const %half: float32[] = 0.5
  const %other: float32[] = 0.51
  {}
  return {}
}}"""


def gelu(number: int, half: str, erf: str = "Erf") -> str:
    """Arithmetic from one value to the next."""
    source = f"%y{number - 1}" if number else "%x"
    lines = (
        f"%s{number}: float32[2] = Sin({source})",
        f"%d{number}: float32[2] = Div(%s{number}, %root)",
        f"%e{number}: float32[2] = {erf}(%d{number})",
        f"%a{number}: float32[2] = Add(%e{number}, %one)",
        f"%m{number}: float32[2] = Mul(%s{number}, %a{number})",
        f'%y{number}: float32[2] = Mul(%m{number}, {half}) @ "layer{number}"',
    )
    return "\n".join(lines)


def test_the_longest_come_first_and_parts_of_matches_not_at_all(graph_of) -> None:
    body = "\n".join((gelu(0, "%half"), gelu(1, "%half", "Cos"), *(gelu(number, "%other") for number in range(2, 6))))
    graph = graph_of(GELU.format(body, "y = %y5"))
    before = list(graph.nodes)
    erf, tanh = explain(graph, GeluFusion.rules, most=3)
    assert (erf.rule, erf.matches, [miss.location for miss in erf.near]) == ("gelu", 1, ["layer2", "layer3", "layer4"])
    assert erf.more == 2
    assert all(len(miss.matched) == miss.wanted == 5 for miss in erf.near)
    assert {miss.differences for miss in erf.near} == {
        ("%other is the constant 0.51 of type float32[], where the number 0.5 is wanted",)
    }
    last = explain(graph, GeluFusion.rules)[0].near[-1]
    assert (last.location, last.differences) == (
        "layer1",
        ("%e1 comes from Cos at an unnamed place, where a result of Erf is wanted",),
    )
    assert (tanh.rule, tanh.matches) == ("gelu-tanh", 0)
    assert "layer0" not in {miss.location for miss in tanh.near}
    assert list(graph.nodes) == before


def test_of_several_ways_the_one_that_gets_furthest_is_told(graph_of) -> None:
    text = """(%x: float32[2]) {
      const %c: float32[] = 3.0
      %d: float32[2] = Div(%x, %c)
      %y: float32[2] = Exp(%d)
      return y = %y
    }"""

    def halved(op, x):
        return op.Exp(op.either(op.Mul(op.Neg(x), 0.5), op.Div(x, 2.0), op.Relu(x)))

    (told,) = explain(graph_of(text), [RewriteRule("halved", halved, lambda op, x: x)])
    (miss,) = told.near
    assert (miss.matched, miss.wanted) == (("Exp %y", "Div %d"), 3)
    assert miss.differences == ("%c is the constant 3 of type float32[], where the number 2 is wanted",)


def test_a_graph_without_the_root_has_nothing_to_tell(graph_of) -> None:
    graph = graph_of("(%x: float32[2]) { %y: float32[2] = Exp(%x) return y = %y }")
    assert explain(graph, GeluFusion.rules) == (Explanation("gelu", 0, (), 0), Explanation("gelu-tanh", 0, (), 0))
