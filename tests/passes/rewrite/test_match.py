"""Where a pattern matches, what its variables stand for, and where it must not match."""

import pytest

from planish.ir.graph import Graph
from planish.passes.rewrite import Match, RewriteRule
from planish.passes.rewrite.match import find_matches


def matches(graph: Graph, pattern) -> list[Match]:
    """The matches at the last node."""
    rule = RewriteRule("mine", pattern, lambda op: None)
    return list(find_matches(rule, list(graph.nodes)[-1]))


def bound(graph: Graph, pattern) -> list[dict[str, str | None]]:
    """What each match binds, by name."""
    found = matches(graph, pattern)
    return [{key: value and value.name for key, value in match.values.items()} for match in found]


TWO = "(%x: float32[2], %z: float32[2]) {{ {} return y = %y }}"


def test_operands_of_commutative_operators_may_be_swapped(graph_of) -> None:
    graph = graph_of(TWO.format("%e: float32[2] = Exp(%x) %y: float32[2] = Add(%e, %z)"))
    assert bound(graph, lambda op, a, b: op.Add(a, op.Exp(b))) == [{"a": "z", "b": "x"}]
    assert bound(graph, lambda op, a, b: op.Add(op.Exp(b), a)) == [{"a": "z", "b": "x"}]
    assert bound(graph, lambda op, a, b: op.Add(a, b)) == [{"a": "e", "b": "z"}, {"a": "z", "b": "e"}]


def test_operands_of_other_operators_may_not(graph_of) -> None:
    graph = graph_of(TWO.format("%e: float32[2] = Exp(%x) %y: float32[2] = Sub(%e, %z)"))
    assert bound(graph, lambda op, a, b: op.Sub(a, op.Exp(b))) == []
    assert bound(graph, lambda op, a, b: op.Sub(op.Exp(b), a)) == [{"b": "x", "a": "z"}]


def test_three_operands_of_a_variadic_operator_match_in_any_order(graph_of) -> None:
    graph = graph_of(TWO.format("%e: float32[2] = Exp(%x) %n: float32[2] = Neg(%z) %y: float32[2] = Sum(%e, %n, %x)"))
    assert bound(graph, lambda op, a, b, c: op.Sum(op.Neg(a), b, op.Exp(c))) == [{"a": "z", "b": "x", "c": "x"}]


def test_a_variable_that_recurs_is_the_same_value(graph_of) -> None:
    pattern = lambda op, x: op.Mul(x, op.Sigmoid(x))  # noqa: E731
    same = graph_of(TWO.format("%s: float32[2] = Sigmoid(%x) %y: float32[2] = Mul(%x, %s)"))
    other = graph_of(TWO.format("%s: float32[2] = Sigmoid(%x) %y: float32[2] = Mul(%z, %s)"))
    assert bound(same, pattern) == [{"x": "x"}]
    assert bound(other, pattern) == []


def shared(op, x):
    exp = op.Exp(x)
    return op.Add(exp, op.Neg(exp))


def test_a_shared_subpattern_is_one_node(graph_of) -> None:
    one = graph_of(TWO.format("%e: float32[2] = Exp(%x) %n: float32[2] = Neg(%e) %y: float32[2] = Add(%e, %n)"))
    two = graph_of(
        TWO.format(
            "%e: float32[2] = Exp(%x) %f: float32[2] = Exp(%x) %n: float32[2] = Neg(%f) %y: float32[2] = Add(%e, %n)"
        )
    )
    (match,) = matches(one, shared)
    assert sorted(node.operator for node in match.nodes) == ["Add", "Exp", "Neg"]
    assert match.nodes[0] is match.root
    assert matches(two, shared) == []


def test_an_optional_input_binds_to_nothing_where_it_is_left_out(graph_of) -> None:
    text = "(%x: float32[1, 1, 2], %w: float32[1, 1, 1], %b: float32[1]) {{ %y: float32[1, 1, 2] = {} return y = %y }}"
    pattern = lambda op, x, w, b: op.Conv(x, w, b)  # noqa: E731
    (without,) = matches(graph_of(text.format("Conv(%x, %w)")), pattern)
    assert without.values["b"] is None
    assert without.constant("b") is None
    with pytest.raises(KeyError, match="b is an input that is left out"):
        without["b"]
    assert bound(graph_of(text.format("Conv(%x, %w, %b)")), pattern) == [{"x": "x", "w": "w", "b": "b"}]
    assert bound(graph_of(text.format("Conv(%x, %w, %b)")), lambda op, x, w: op.Conv(x, w)) == []


def test_an_input_left_out_in_the_middle_binds_to_nothing(graph_of) -> None:
    text = "(%x: float32[2], %high: float32[]) { %y: float32[2] = Clip(%x, none, %high) return y = %y }"
    pattern = lambda op, x, low, high: op.Clip(x, low, high)  # noqa: E731
    assert bound(graph_of(text), pattern) == [{"x": "x", "low": None, "high": "high"}]
    assert bound(graph_of(text), lambda op, x, high: op.Clip(x, 0.0, high)) == []
    assert bound(graph_of(text), lambda op, x, low, high: op.Clip(x, op.Neg(low), high)) == []


def test_a_commutative_operator_with_fewer_operands_is_another(graph_of) -> None:
    graph = graph_of(TWO.format("%y: float32[2] = Max(%x)"))
    assert bound(graph, lambda op, a, b: op.Max(a, b)) == []


def test_attributes_that_are_given_must_be_equal_and_others_are_free(graph_of) -> None:
    text = "(%x: float32[2, 2]) { %y: float32[2, 2] = Transpose(%x) {perm = [1, 0]} return y = %y }"
    graph = graph_of(text)
    assert len(matches(graph, lambda op, x: op.Transpose(x))) == 1
    assert len(matches(graph, lambda op, x: op.Transpose(x, perm=[1, 0]))) == 1
    assert matches(graph, lambda op, x: op.Transpose(x, perm=[0, 1])) == []
    assert matches(graph, lambda op, x: op.Transpose(x, other=1)) == []


@pytest.mark.parametrize(
    ("constant", "found"),
    [
        ("float32[] = 0.044715", True),
        ("float32[1, 1] = [0.044715]", True),
        ("float32[1, 1, 1] = [0.044715]", False),  # it gives the product a third dimension
        ("float32[2] = [0.044715, 0.044715]", False),
        ("float32[] = 0.04472", False),
    ],
)
def test_numbers_match_constants_of_one_element_that_only_scale(graph_of, constant: str, found: bool) -> None:
    rank = "1, 2, 2" if "1, 1, 1" in constant else "2, 2"
    text = f"(%x: float32[2, 2]) {{ const %c: {constant} %y: float32[{rank}] = Mul(%x, %c) return y = %y }}"
    assert bool(matches(graph_of(text), lambda op, x: op.Mul(x, 0.044715))) is found


def test_a_number_matches_no_computed_value(graph_of) -> None:
    graph = graph_of("(%x: float32[2], %c: float32[]) { %y: float32[2] = Mul(%x, %c) return y = %y }")
    assert matches(graph, lambda op, x: op.Mul(x, 0.5)) == []


INNER = "(%x: float32[2]) {{ %e: float32[2] = Exp(%x) %y: float32[2] = Neg(%e) {} }}"


def negated_exp(op, x):
    return op.Neg(op.Exp(x))


def test_inner_nodes_are_read_by_nobody_else(graph_of) -> None:
    alone = graph_of(INNER.format("return y = %y"))
    assert len(matches(alone, negated_exp)) == 1
    returned = graph_of(INNER.format("return y = %y, e = %e"))
    assert matches(returned, negated_exp) == []
    read = graph_of("(%x: float32[2]) { %e: float32[2] = Exp(%x) %a: float32[2] = Abs(%e) %y: float32[2] = Neg(%e)"
                    " return y = %y, a = %a }")  # fmt: skip
    assert matches(read, negated_exp) == []


def test_the_root_may_be_read_by_anybody(graph_of) -> None:
    graph = graph_of(INNER.format("return y = %y, again = %y"))
    assert len(matches(graph, negated_exp)) == 1


def test_only_the_first_output_is_replaced(graph_of) -> None:
    split = "%a: float32[1], %b: float32[1] = Split(%x) {num_outputs = 2}"
    whole = lambda op, x: op.Split(x)  # noqa: E731
    assert matches(graph_of(f"(%x: float32[2]) {{ {split} return a = %a, b = %b }}"), whole) == []
    assert len(matches(graph_of(f"(%x: float32[2]) {{ {split} return a = %a }}"), whole)) == 1
    second = graph_of(f"(%x: float32[2]) {{ {split} %y: float32[1] = Neg(%b) return y = %y }}")
    assert matches(second, lambda op, x: op.Neg(op.Split(x))) == []


def test_a_match_gives_its_nodes_by_operator_and_its_constants(graph_of) -> None:
    text = "(%x: float32[2]) { const %c: float32[] = 2.0 %m: float32[2] = Mul(%x, %c) %y: float32[2] = Exp(%m) return y = %y }"
    (match,) = matches(graph_of(text), lambda op, x: op.Exp(op.Mul(x, 2.0)))
    assert match.node("Mul").output.name == "m"
    (match, _) = matches(graph_of(text), lambda op, a, c: op.Exp(op.Mul(a, c)))
    assert match.constant("c") == match.data("c") == 2.0
    assert match.constant("a") is None


def test_tensors_of_an_unknown_rank_match_nothing(graph_of) -> None:
    """Checks of rules ask for shapes."""
    graph = graph_of("(%x: float32[...]) { %e: float32[...] = Exp(%x) %y: float32[...] = Neg(%e) return y = %y }")
    assert bound(graph, lambda op, a: op.Neg(a)) == []
