"""Nodes are tried again after a replacement where a pattern may match anew: there, and nowhere else."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.text import print_graph
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.passes.base import PassResult
from planish.passes.rewrite import Match, RewriteRule, apply_rules

TYPE = TensorType(DType.float32, (2,))


def operators(graph: Graph) -> list[str]:
    verify(graph)
    return [node.operator for node in graph.nodes]


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


def test_what_is_further_down_is_tried_again(graph_of) -> None:
    """The last node was tried while the exponential was read twice; its pattern ends two nodes above it."""
    rules = [
        RewriteRule("inner", lambda op, x: op.Neg(op.Exp(x)), lambda op, x: op.Sin(x)),
        RewriteRule("outer", lambda op, x: op.Abs(op.Tan(op.Sin(x))), lambda op, x: op.Cos(x)),
        RewriteRule("plain", lambda op, x: op.Mul(x, 0.0), lambda op, match: op.Sinh(match["x"].producer.input(0))),
    ]
    graph = graph_of(
        """(%x: float32[2]) {
          const %zero: float32[] = 0.0
          %e: float32[2] = Exp(%x)
          %n: float32[2] = Neg(%e)
          %t: float32[2] = Tan(%n)
          %a: float32[2] = Abs(%t)
          %z: float32[2] = Mul(%e, %zero)
          return a = %a, z = %z
        }"""
    )
    assert apply_rules(graph, rules).counts == {"plain": 1, "inner": 1, "outer": 1}
    assert operators(graph) == ["Cos", "Sinh"]


def chain(*operators: str) -> Graph:
    """Unary operators one after another."""
    graph = Graph()
    value = graph.add_input("x", TYPE)
    for operator in operators:
        value = graph.add_node(operator, [value], [TYPE]).output
    graph.outputs["y"] = value
    return graph


def twice(op, x):
    return op.Relu(op.Relu(x))


def negated_relu(op, x):
    return op.Neg(op.Relu(x))


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        (RewriteRule("twice", twice, lambda op, x: op.Relu(x)), lambda n: ["Relu"] * n, lambda n: ["Relu"]),
        (
            RewriteRule("never", twice, lambda op, x: op.Relu(x), check=lambda match: "no"),
            lambda n: ["Relu"] * n,
            lambda n: ["Relu"] * n,
        ),
        pytest.param(
            RewriteRule("hoist", negated_relu, lambda op, x: op.Relu(op.Neg(x))),
            lambda n: [*["Relu"] * (n - 1), "Neg"],
            lambda n: ["Neg", *["Relu"] * (n - 1)],
            marks=pytest.mark.wide,
        ),
        (
            RewriteRule("pairs", negated_relu, lambda op, x: op.Relu(op.Abs(x))),
            lambda n: ["Relu", "Neg"] * (n // 2),
            lambda n: ["Abs", "Relu"] * (n // 2),
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_attempts_grow_with_the_graph_and_no_faster(
    rule: RewriteRule, before: Callable[[int], list[str]], after: Callable[[int], list[str]]
) -> None:
    """They are counted by a rule that is asked at every attempt, and refuses."""

    def attempts(length: int) -> int:
        asked: list[Match] = []
        count = RewriteRule(
            "count", lambda op, x: op.Relu(x), lambda op, x: x, lambda match: asked.append(match) or "no"
        )
        graph = chain(*before(length))
        apply_rules(graph, [count, rule])
        assert operators(graph) == after(length)
        return len(asked)

    assert 250 <= attempts(500) <= 1500
    assert attempts(2000) <= 4 * attempts(500) + 16


RULES = (
    RewriteRule("neg-twice", lambda op, x: op.Neg(op.Neg(x)), lambda op, x: x),
    RewriteRule("abs-neg", lambda op, x: op.Abs(op.Neg(x)), lambda op, x: op.Abs(x)),
    RewriteRule("abs-twice", lambda op, x: op.Abs(op.Abs(x)), lambda op, x: op.Abs(x)),
    RewriteRule("add-neg", lambda op, x, y: op.Add(x, op.Neg(y)), lambda op, x, y: op.Sub(x, y)),
    RewriteRule("sub-neg", lambda op, x, y: op.Sub(x, op.Neg(y)), lambda op, x, y: op.Add(x, y)),
    RewriteRule("double", lambda op, x: op.Add(x, x), lambda op, x: op.Mul(x, 2.0)),
    RewriteRule("sum", lambda op, x, y, z: op.Add(op.Add(x, y), z), lambda op, x, y, z: op.Sum(x, y, z)),
    RewriteRule("sums", lambda op, a, b: op.Sum(op.Sum(op.rest(a)), op.rest(b)), lambda op, a, b: op.Sum(*a, *b)),
    RewriteRule(
        "sum-difference",
        lambda op, x, y: (op.Add(x, y), op.Sub(x, y)),
        lambda op, x, y: (op.Sum(x, y), op.Sum(x, op.Mul(y, -1.0))),
    ),
    RewriteRule(
        "relu-abs",
        lambda op, x: (op.Relu(x), op.Abs(x)),
        lambda op, x: (relu := op.Relu(x), op.Sub(op.Mul(relu, 2.0), x)),
    ),
)
"""All exact on small integers, and none that another undoes."""


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Arithmetic, in which most nodes read one of the last, and whatever nobody reads is returned."""
    graph = Graph()
    values = [graph.add_input(name, TYPE) for name in "ab"]
    op = Builder(graph)
    for _ in range(draw(st.integers(1, 14))):
        operator = draw(st.sampled_from(("Neg", "Abs", "Relu", "Neg", "Abs", "Add", "Sub")))
        indices = st.integers(max(0, len(values) - 4), len(values) - 1) | st.integers(0, len(values) - 1)
        count = 2 if operator in ("Add", "Sub") else 1
        values.append(op(operator, *(values[draw(indices)] for _ in range(count))))
    returned = [value for value in values[2:] if not value.uses or draw(st.integers(0, 9)) == 0]
    graph.outputs |= {f"y{index}": value for index, value in enumerate(returned)}
    return graph


@given(graphs(), st.lists(st.sampled_from(RULES), min_size=1, unique=True))
def test_nothing_is_left_to_match_and_the_result_is_the_same(source: Graph, rules: list[RewriteRule]) -> None:
    """The same number by number, and node by node where it is done again; whatever the rules and their order."""
    graph, twin = source.clone(), source.clone()
    result = apply_rules(graph, rules)
    verify(graph)
    assert apply_rules(twin, rules) == result
    assert print_graph(twin) == print_graph(graph)
    assert apply_rules(graph, rules) == PassResult({}, ())
    feeds = {"a": np.array([3, -5], np.float32), "b": np.array([-2, 7], np.float32)}
    wanted, got = Interpreter(source).run(feeds), Interpreter(graph).run(feeds)
    assert {name: array.tolist() for name, array in got.items()} == {
        name: array.tolist() for name, array in wanted.items()
    }
