"""Rules are applied until none matches, in time linear in the graph, and say why where they weren't."""

import numpy as np
import pytest

from planish.ir.errors import CheckError, UsageError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.text import print_graph
from planish.ir.verify import verify
from planish.passes.base import Effect, PassResult
from planish.passes.rewrite import Match, RewritePass, RewriteRule, apply_rules, rule_pass


def chain(graph_of, *operators: str) -> Graph:
    """Unary operators one after another."""
    names = ["x", *(f"v{index}" for index in range(len(operators)))]
    lines = [
        f"%{name}: float32[2] = {operator}(%{source})"
        for source, name, operator in zip(names, names[1:], operators, strict=False)
    ]
    return graph_of(f"(%x: float32[2]) {{ {' '.join(lines)} return y = %{names[-1]} }}")


def operators(graph: Graph) -> list[str]:
    verify(graph)
    return [node.operator for node in graph.nodes]


twice = RewriteRule("relu-twice", lambda op, x: op.Relu(op.Relu(x)), lambda op, x: op.Relu(x))


def test_a_chain_collapses_in_one_run(graph_of) -> None:
    graph = chain(graph_of, *["Relu"] * 5)
    assert apply_rules(graph, [twice]) == PassResult({"relu-twice": 4}, ())
    assert operators(graph) == ["Relu"]
    assert apply_rules(graph, [twice]) == PassResult({}, ())


def test_a_replacement_may_be_a_value_that_is_there(graph_of) -> None:
    graph = chain(graph_of, "Exp", "Neg", "Neg")
    rule = RewriteRule("neg-twice", lambda op, x: op.Neg(op.Neg(x)), lambda op, x: x)
    apply_rules(graph, [rule])
    assert operators(graph) == ["Exp"]
    assert graph.outputs["y"].producer is next(graph.nodes)


def test_new_nodes_take_the_roots_place_and_location(graph_of) -> None:
    graph = graph_of(
        """(%x: float32[2]) {
          %a: float32[2] = Exp(%x) @ "first"
          %b: float32[2] = Neg(%a) @ "second" "model.py:3"
          %c: float32[2] = Abs(%b)
          return c = %c
        }"""
    )
    rule = RewriteRule("split", lambda op, x: op.Neg(op.Exp(x)), lambda op, x: op.Tan(op.Sin(x)))
    apply_rules(graph, [rule])
    assert print_graph(graph) == print_graph(
        graph_of(
            """(%x: float32[2]) {
              %sin: float32[2] = Sin(%x) @ "second" "model.py:3"
              %tan: float32[2] = Tan(%sin) @ "second" "model.py:3"
              %c: float32[2] = Abs(%tan)
              return c = %c
            }"""
        )
    )


def test_all_of_a_match_goes_with_the_weights_that_it_alone_read(graph_of) -> None:
    """The shared inner node, too, though it comes first among those that read it."""

    def shared(op, x, w):
        product = op.Mul(x, w)
        return op.Add(product, op.Neg(product))

    graph = graph_of(
        """(%x: float32[2]) {
          const %w: float32[2] = [1.0, 2.0]
          const %kept: float32[2] = [3.0, 4.0]
          %p: float32[2] = Mul(%x, %w)
          %n: float32[2] = Neg(%p)
          %y: float32[2] = Add(%p, %n)
          return y = %y, w = %kept
        }"""
    )
    apply_rules(graph, [RewriteRule("zero", shared, lambda op, x: op.Sub(x, x))])
    assert operators(graph) == ["Sub"]
    assert list(graph.constants) == ["kept"]


def test_one_replacement_makes_way_for_the_next(graph_of) -> None:
    """Down the graph, and inside what was just written."""
    rules = [
        RewriteRule("second", lambda op, x: op.Abs(op.Neg(op.Sigmoid(x))), lambda op, x: op.Tanh(x)),
        RewriteRule("first", lambda op, x: op.Relu(op.Relu(x)), lambda op, x: op.Sigmoid(op.Elu(x))),
        RewriteRule("inner", lambda op, x: op.Elu(x), lambda op, x: op.Exp(x)),
    ]
    graph = chain(graph_of, "Relu", "Relu", "Neg", "Abs")
    assert apply_rules(graph, rules).counts == {"first": 1, "inner": 1, "second": 1}
    assert operators(graph) == ["Exp", "Tanh"]


def test_the_first_rule_that_matches_is_taken(graph_of) -> None:
    rules = [
        RewriteRule("a", lambda op, x: op.Neg(x), lambda op, x: op.Exp(x)),
        RewriteRule("b", lambda op, x: op.Neg(x), lambda op, x: op.Sin(x)),
    ]
    graph = chain(graph_of, "Neg")
    assert apply_rules(graph, rules).counts == {"a": 1}
    assert operators(graph) == ["Exp"]


def test_the_reason_of_a_check_is_a_miss(graph_of) -> None:
    rule = RewriteRule(
        "mine",
        lambda op, x: op.Neg(x),
        lambda op, x: op.Exp(x),
        check=lambda match: "" if match["x"].shape == (2,) else "it is too wide",
    )
    graph = graph_of(
        """(%x: float32[2], %z: float32[3]) {
          %a: float32[3] = Neg(%z) @ "head" "model.py:7"
          %b: float32[2] = Neg(%x)
          return a = %a, b = %b
        }"""
    )
    assert apply_rules(graph, [rule]) == PassResult({"mine": 1}, ("mine at head at model.py:7: it is too wide",))
    assert operators(graph) == ["Neg", "Exp"]


def test_a_check_may_choose_between_swapped_operands(graph_of) -> None:
    """The constant comes first, and the pattern's first try binds it to x."""
    rule = RewriteRule(
        "scale",
        lambda op, x, c: op.Mul(x, c),
        lambda op, x, c: op.Div(x, c),
        check=lambda match: "" if match.constant("c") is not None else "c is not constant",
    )
    text = "(%x: float32[2]) { const %c: float32[2] = [1.0, 2.0] %y: float32[2] = Mul(%c, %x) return y = %y }"
    graph = graph_of(text)
    assert apply_rules(graph, [rule]) == PassResult({"scale": 1}, ())
    (node,) = graph.nodes
    assert node.input(0) is graph.inputs[0]


def test_both_results_of_a_pattern_are_replaced(becomes_by) -> None:
    becomes_by(
        RewriteRule(
            "join-products",
            lambda op, x, v, w: (op.MatMul(x, op.constant(v)), op.MatMul(x, op.constant(w))),
            lambda op, x, v, w: op.Split(op.MatMul(x, op.Concat(v, w, axis=1)), axis=1, num_outputs=2, outputs=2),
        ),
        """(%x: float32[1, 2]) {
          const %v: float32[2, 2] = [1.0, 2.0, 3.0, 4.0]
          const %w: float32[2, 2] = [5.0, 6.0, 7.0, 8.0]
          %a: float32[1, 2] = MatMul(%x, %v) @ "query"
          %r: float32[1, 2] = Relu(%a) @ "query"
          %b: float32[1, 2] = MatMul(%x, %w) @ "key"
          return r = %r, b = %b
        }""",
        """(%x: float32[1, 2]) {
          const %v: float32[2, 2] = [1.0, 2.0, 3.0, 4.0]
          const %w: float32[2, 2] = [5.0, 6.0, 7.0, 8.0]
          %concat: float32[2, 4] = Concat(%v, %w) {axis = 1} @ "query"
          %matmul: float32[1, 4] = MatMul(%x, %concat) @ "query"
          %split: float32[1, 2], %split_1: float32[1, 2] = Split(%matmul) {axis = 1, num_outputs = 2} @ "query"
          %r: float32[1, 2] = Relu(%split) @ "query"
          return r = %r, b = %split_1
        }""",
    )


def test_rests_and_attributes_reach_the_replacement(becomes_by) -> None:
    becomes_by(
        RewriteRule(
            "flatten-concat",
            lambda op, head, tail: op.Concat(
                op.Concat(op.rest(head), axis=op.attribute("axis")), op.rest(tail), axis=op.attribute("axis")
            ),
            lambda op, head, tail, axis: op.Concat(*head, *tail, axis=axis),
            effect=Effect.EXACT,
        ),
        """(%x: float32[2, 1], %z: float32[2, 1]) {
          %a: float32[2, 2] = Concat(%x, %z) {axis = 1}
          %b: float32[2, 4] = Concat(%a, %z, %x) {axis = 1}
          %c: float32[4, 4] = Concat(%b, %b) {axis = 0}
          return c = %c
        }""",
        """(%x: float32[2, 1], %z: float32[2, 1]) {
          %concat: float32[2, 4] = Concat(%x, %z, %z, %x) {axis = 1}
          %c: float32[4, 4] = Concat(%concat, %concat) {axis = 0}
          return c = %c
        }""",
    )


@pytest.fixture
def becomes_by(graph_of, feeds_of):
    """Hold a rule to its text before and after, to the numbers, and to finding nothing when it is applied again."""

    def check(rule: RewriteRule, before: str, after: str) -> None:
        graph = graph_of(before)
        source = graph.clone()
        assert apply_rules(graph, [rule]).changed
        verify(graph)
        assert print_graph(graph) == print_graph(graph_of(after))
        assert not apply_rules(graph, [rule]).changed
        feeds = feeds_of(source)
        for name, wanted in Interpreter(source).run(feeds).items():
            np.testing.assert_allclose(Interpreter(graph).run(feeds)[name], wanted, rtol=1e-6)

    return check


BRANCHES = """(%b: bool[], %x: float32[2]) {{
  const %two: float32[] = 2.0
  {}
  %y: float32[2] = If(%b) {{then_branch = graph "then"() {{
    {}
    return n = %n
  }}, else_branch = graph "else"() {{
    {}
    return m = %m
  }}}}
  return y = %y
}}"""


def test_graphs_inside_of_nodes_are_rewritten(becomes_by) -> None:
    """They use constants of the graph around them, and may return what isn't theirs."""
    becomes_by(
        RewriteRule("halve", lambda op, x, c: op.Neg(op.Mul(op.Neg(x), op.constant(c))), lambda op, x: op.Add(x, x)),
        BRANCHES.format(
            "%k: float32[2] = Exp(%x)",
            "%p: float32[2] = Neg(%k) %q: float32[2] = Mul(%p, %two) %n: float32[2] = Neg(%q)",
            "%m: float32[2] = Abs(%k)",
        ),
        BRANCHES.format("%k: float32[2] = Exp(%x)", "%n: float32[2] = Add(%k, %k)", "%m: float32[2] = Abs(%k)")
        .replace("  const %two: float32[] = 2.0\n", "")
        .replace("%n", "%add"),
    )
    becomes_by(
        RewriteRule("neg-twice", lambda op, x: op.Neg(op.Neg(x)), lambda op, x: x, effect=Effect.EXACT),
        BRANCHES.format("", "%p: float32[2] = Neg(%x) %n: float32[2] = Neg(%p)", "%m: float32[2] = Mul(%x, %two)"),
        BRANCHES.format("", "%n: float32[2] = Identity(%x)", "%m: float32[2] = Mul(%x, %two)").replace(
            "%n", "%identity"
        ),
    )


def test_an_identity_that_returns_a_value_from_around_stays(graph_of) -> None:
    rule = RewriteRule("identity", lambda op, x: op.Identity(x), lambda op, x: x)
    inner = "%i: float32[2] = Identity(%x) %n: float32[2] = Identity(%i)"
    graph = graph_of(BRANCHES.format("%j: float32[2] = Identity(%x)", inner, "%m: float32[2] = Mul(%x, %two)"))
    assert apply_rules(graph, [rule]).counts == {"identity": 2}
    assert not apply_rules(graph, [rule]).changed
    assert operators(graph) == ["If"]
    (branch,) = (node.graphs[0] for node in graph.nodes)
    assert operators_of(branch) == ["Identity"]


def operators_of(graph: Graph) -> list[str]:
    return [node.operator for node in graph.nodes]


def test_nodes_inside_of_what_is_replaced_are_not_tried(graph_of) -> None:
    asked: list[Match] = []
    count = RewriteRule(
        "count", lambda op, x: op.Neg(x), lambda op, x: x, check=lambda match: asked.append(match) or "no"
    )
    choose = RewriteRule("choose", lambda op, b: op.If(b), lambda op, match: op.Abs(match.root.captured[0]))
    graph = graph_of(BRANCHES.format("", "%n: float32[2] = Neg(%x)", "%m: float32[2] = Neg(%x)"))
    assert apply_rules(graph, [choose, count]) == PassResult({"choose": 1}, ())
    assert operators(graph) == ["Abs"]
    assert asked == []


def test_rules_that_never_end_are_stopped_by_name(graph_of) -> None:
    swap = RewriteRule("swap", lambda op, x, y: op.Sub(x, y), lambda op, x, y: op.Sub(y, x))
    graph = graph_of('(%x: float32[2], %z: float32[2]) { %y: float32[2] = Sub(%x, %z) @ "here" return y = %y }')
    with pytest.raises(UsageError, match="rule swap at here never comes to an end: its result matches again"):
        apply_rules(graph, [swap])


def test_a_replacement_of_another_type_is_refused_by_name(graph_of) -> None:
    rule = RewriteRule("wrong", lambda op, x: op.Neg(x), lambda op, x: op.Shape(x))
    with pytest.raises(CheckError, match=r"rule wrong at an unnamed place replaces float32\[2\] by int64\[1\]"):
        apply_rules(chain(graph_of, "Neg"), [rule])
    rule = RewriteRule("wrong", lambda op, x: op.Neg(x), lambda op, x: op.Concat(x, x, axis=0))
    with pytest.raises(CheckError, match=r"rule wrong at an unnamed place replaces float32\[2\] by float32\[4\]"):
        apply_rules(chain(graph_of, "Neg"), [rule])


def test_a_pass_of_rules_and_a_rule_as_a_pass(graph_of, context) -> None:
    class Mine(RewritePass):
        name = "mine"
        effect = Effect.EXACT
        rules = (twice,)

    graph = chain(graph_of, "Relu", "Relu")
    assert Mine().run(graph.clone(), context(graph)).counts == {"relu-twice": 1}
    step = rule_pass(twice, "module:twice")()
    assert (step.name, step.effect, step.after) == ("relu-twice", Effect.ROUNDING, ())
    assert step.apply(graph, context(graph)).counts == {"relu-twice": 1}
