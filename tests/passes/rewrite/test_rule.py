"""A pattern is an ordinary function; what it writes becomes a tree."""

import pytest

from planish.ir.errors import UsageError
from planish.passes.base import Effect
from planish.passes.rewrite import RewriteRule, apply_rules
from planish.passes.rewrite.pattern import Number, Result, Variable


def rule(pattern, replacement=lambda op, x: x) -> RewriteRule:
    return RewriteRule("mine", pattern, replacement)


def test_variables_numbers_attributes_and_domains_are_recorded() -> None:
    root = rule(lambda op, x, w: op("com.microsoft::FusedMatMul", op.Add(x, 1), w, alpha=0.5, axes=[1, 2])).root
    assert (root.operator, root.attributes) == ("com.microsoft::FusedMatMul", {"alpha": 0.5, "axes": (1, 2)})
    add, weight = root.operands
    assert weight == Variable("w")
    assert isinstance(add, Result)
    assert (add.application.operator, add.application.operands) == ("Add", (Variable("x"), Number(1)))


def test_a_result_that_is_used_twice_is_one_node_of_the_pattern() -> None:
    def pattern(op, x):
        shared = op.Exp(x)
        return op.Add(shared, op.Neg(shared))

    first, second = rule(pattern).root.operands
    assert isinstance(second, Result)
    assert second.application.operands[0] is first


def test_the_pattern_is_read_once() -> None:
    calls = []
    mine = rule(lambda op, x: calls.append(x) or op.Relu(x))
    assert mine.root is mine.root
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (lambda op, x: x, None, "the pattern of rule mine must return an operator's result, or a tuple of them"),
        (lambda op, x: (), None, "the pattern of rule mine must return an operator's result, or a tuple of them"),
        (lambda op, x: (op.Exp(x), x), None, "the pattern of rule mine must return an operator's result, or a tuple"),
        (lambda op, x: op.Exp("x"), None, "'x' is no operand of a pattern"),
        (lambda op, x: op.Sum(op.rest(x), x), None, "is no operand of a pattern"),
        (lambda op, x: op.Softmax(x, axis=op.attribute("x")), None, "calls two things 'x'"),
        (lambda op, x, z: op.Sum(x, op.rest(x)), None, "calls two things 'x'"),
        (
            lambda op, x, z: op.Exp(x),
            lambda op, z: z,
            "the replacement of rule mine asks for 'z', which its pattern doesn't",
        ),
        (lambda op, x, z: (op.Exp(x), op.Sin(z)), None, "result 1 of the pattern of rule mine has nothing in common"),
    ],
)
def test_rules_that_make_no_sense_are_refused(pattern, replacement, message: str) -> None:
    mine = rule(pattern, replacement or (lambda op: None))
    with pytest.raises(UsageError, match=message):
        _ = mine.ways


def test_a_replacement_gives_as_many_values_as_the_pattern(graph_of) -> None:
    graph = graph_of("(%x: float32[2]) { %y: float32[2] = Exp(%x) return y = %y }")
    with pytest.raises(UsageError, match="rule mine replaces 1 values by 2"):
        apply_rules(graph, [rule(lambda op, x: op.Exp(x), lambda op, x: (x, x))])


def test_a_rule_rounds_and_is_not_refused_unless_it_says_so() -> None:
    mine = rule(lambda op, x: op.Relu(x))
    assert mine.effect is Effect.ROUNDING
    assert RewriteRule("exact", mine.pattern, mine.replacement, effect=Effect.EXACT).effect is Effect.EXACT
