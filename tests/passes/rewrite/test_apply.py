"""Rules are applied until none matches, in time linear in the graph, and say why where they weren't."""

import pytest

from planish.ir.errors import CheckError, UsageError
from planish.ir.graph import Graph
from planish.ir.text import print_graph
from planish.ir.verify import verify
from planish.passes.base import Effect, PassResult
from planish.passes.rewrite import RewritePass, RewriteRule, apply_rules, rule_pass


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


def test_a_node_that_loses_its_other_reader_is_tried_again(graph_of) -> None:
    """The exponential is read twice until the second rule, further down, takes one reader away."""
    rules = [
        RewriteRule("inner", lambda op, x: op.Neg(op.Exp(x)), lambda op, x: op.Sin(x)),
        RewriteRule(
            "zero", lambda op, x: op.Mul(x, 0.0), lambda op, match: op.Abs(match.values["x"].producer.input(0))
        ),
    ]
    graph = graph_of(
        """(%x: float32[2]) {
          const %zero: float32[] = 0.0
          %e: float32[2] = Exp(%x)
          %n: float32[2] = Neg(%e)
          %z: float32[2] = Mul(%e, %zero)
          %y: float32[2] = Add(%n, %z)
          return y = %y
        }"""
    )
    apply_rules(graph, rules)
    assert operators(graph) == ["Sin", "Abs", "Add"]


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


def test_a_miss_that_a_later_replacement_mends_is_none(graph_of) -> None:
    """The exponential is refused for its two readers, until the second rule takes one away."""
    rules = [
        RewriteRule(
            "sine",
            lambda op, x: op.Exp(x),
            lambda op, x: op.Sin(x),
            check=lambda match: "" if len(match.root.output.uses) == 1 else "it is read twice",
        ),
        RewriteRule("plain", lambda op, x, y: op.Sub(x, op.Mul(y, 0.0)), lambda op, x: op.Neg(x)),
    ]
    graph = graph_of(
        """(%x: float32[2]) {
          const %zero: float32[] = 0.0
          %e: float32[2] = Exp(%x)
          %z: float32[2] = Mul(%e, %zero)
          %y: float32[2] = Sub(%e, %z)
          return y = %y
        }"""
    )
    assert apply_rules(graph, rules) == PassResult({"plain": 1, "sine": 1}, ())


@pytest.mark.parametrize("reason", ["", "never"])
def test_the_attempts_grow_with_the_graph_and_no_faster(graph_of, reason: str) -> None:
    """Each node is tried once or twice, whether its rule applies or not."""

    def attempts(length: int) -> int:
        tried = []
        rule = RewriteRule(
            "count",
            lambda op, x: op.Relu(op.Relu(x)),
            lambda op, x: op.Relu(x),
            check=lambda match: tried.append(match) or reason,
        )
        apply_rules(chain(graph_of, *["Relu"] * length), [rule])
        return len(tried)

    assert 20 < attempts(40) <= 80
    assert attempts(120) <= 3 * attempts(40) + 6


def test_moving_one_node_up_a_chain_takes_linear_time(graph_of) -> None:
    """A rule that is refused everywhere counts how often the nodes are tried."""
    tried = []
    count = RewriteRule(
        "count", lambda op, x: op.Relu(x), lambda op, x: x, check=lambda match: tried.append(match) or "no"
    )
    hoist = RewriteRule("hoist", lambda op, x: op.Neg(op.Relu(x)), lambda op, x: op.Relu(op.Neg(x)))
    graph = chain(graph_of, *["Relu"] * 60, "Neg")
    assert apply_rules(graph, [count, hoist]).counts == {"hoist": 60}
    assert operators(graph) == ["Neg", *["Relu"] * 60]
    assert len(tried) <= 4 * 60


def test_rules_that_never_end_are_stopped_by_name(graph_of) -> None:
    swap = RewriteRule("swap", lambda op, x, y: op.Sub(x, y), lambda op, x, y: op.Sub(y, x))
    graph = graph_of('(%x: float32[2], %z: float32[2]) { %y: float32[2] = Sub(%x, %z) @ "here" return y = %y }')
    with pytest.raises(UsageError, match="rule swap at here never comes to an end: its result matches again"):
        apply_rules(graph, [swap])


def test_a_replacement_of_another_type_is_refused_by_name(graph_of) -> None:
    rule = RewriteRule("wrong", lambda op, x: op.Neg(x), lambda op, x: op.Shape(x))
    with pytest.raises(CheckError, match=r"rule wrong at an unnamed place replaces float32\[2\] by int64\[1\]"):
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
