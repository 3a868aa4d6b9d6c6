"""Where a pattern matches, what its variables stand for, and where it must not match."""

import pytest

from planish.ir.graph import Graph
from planish.ir.types import DType
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
    text = (
        "(%x: float32[2]) { const %c: float32[] = 2.0 %m: float32[2] = Mul(%x, %c) %y: float32[2] = Exp(%m) "
        "return y = %y }"
    )
    (match,) = matches(graph_of(text), lambda op, x: op.Exp(op.Mul(x, 2.0)))
    assert match.node("Mul").output.name == "m"
    (match, _) = matches(graph_of(text), lambda op, a, c: op.Exp(op.Mul(a, c)))
    assert match.constant("c") == match.data("c") == 2.0
    assert match.constant("a") is None


def test_tensors_of_an_unknown_rank_match_nothing(graph_of) -> None:
    """Checks of rules ask for shapes."""
    graph = graph_of("(%x: float32[...]) { %e: float32[...] = Exp(%x) %y: float32[...] = Neg(%e) return y = %y }")
    assert bound(graph, lambda op, a: op.Neg(a)) == []


# -- what else may stand in a pattern


CONCAT = "(%x: float32[2], %y: float32[2], %z: float32[2]) {{ {} return c = %c }}"


def test_the_rest_of_the_operands_is_a_tuple(graph_of) -> None:
    three = graph_of(CONCAT.format("%e: float32[2] = Exp(%x) %c: float32[6] = Concat(%e, %y, %z) {axis = 0}"))
    one = graph_of(CONCAT.format("%e: float32[2] = Exp(%x) %c: float32[2] = Concat(%e) {axis = 0}"))
    pattern = lambda op, first, others: op.Concat(op.Exp(first), op.rest(others))  # noqa: E731
    (match,) = matches(three, pattern)
    assert match["first"].name == "x"
    assert [value and value.name for value in match.rests["others"]] == ["y", "z"]
    assert matches(one, pattern)[0].rests == {"others": ()}
    assert matches(three, lambda op, first: op.Concat(op.Exp(first))) == []


def test_the_rest_of_a_commutative_operator_may_stand_anywhere(graph_of) -> None:
    graph = graph_of(CONCAT.format("%e: float32[2] = Exp(%y) %c: float32[2] = Sum(%x, %e, %z)"))
    (match,) = matches(graph, lambda op, inner, others: op.Sum(op.Exp(inner), op.rest(others)))
    assert [value and value.name for value in match.rests["others"]] == ["x", "z"]
    assert matches(graph, lambda op, a, b, c, d, r: op.Sum(a, b, c, d, op.rest(r))) == []


def test_a_rest_that_recurs_is_the_same_values(graph_of) -> None:
    text = (
        "%a: float32[4] = Concat(%x, %y) {axis = 0} %b: float32[4] = Concat(%x, %y) {axis = 0} "
        "%c: float32[4] = Sub(%a, %b)"
    )
    pattern = lambda op, r: op.Sub(op.Concat(op.rest(r)), op.Concat(op.rest(r)))  # noqa: E731
    assert len(matches(graph_of(CONCAT.format(text)), pattern)) == 1
    assert (
        matches(
            graph_of(CONCAT.format(text.replace("b: float32[4] = Concat(%x, %y)", "b: float32[4] = Concat(%x, %z)"))),
            pattern,
        )
        == []
    )


def test_a_constant_is_told_from_what_is_computed(graph_of) -> None:
    text = "(%x: float32[2]) { const %c: float32[2] = [1.0, 2.0] %y: float32[2] = Mul(%c, %x) return y = %y }"
    assert bound(graph_of(text), lambda op, x, c: op.Mul(x, op.constant(c))) == [{"x": "x", "c": "c"}]
    assert bound(graph_of(text), lambda op, x, c: op.Div(x, op.constant(c))) == []
    clip = "(%x: float32[2], %high: float32[]) { %y: float32[2] = Clip(%x, none, %high) return y = %y }"
    assert bound(graph_of(clip), lambda op, x, low, high: op.Clip(x, op.constant(low), high)) == []
    assert bound(graph_of(clip), lambda op, x, low, high: op.Clip(x, low, op.constant(high))) == []


def test_an_optional_pattern_is_held_to_what_is_there(graph_of) -> None:
    text = (
        "(%x: float32[2], %e: float32[]) {{ const %c: float32[] = 6.0 %n: float32[] = Neg(%e) "
        "%y: float32[2] = Clip({}) return y = %y }}"
    )

    def six(op, x, low):
        return op.Clip(x, op.optional(op.Neg(low)), op.optional(6.0))

    assert bound(graph_of(text.format("%x, %n, %c")), six) == [{"x": "x", "low": "e"}]
    assert bound(graph_of(text.format("%x, none, %c")), six) == [{"x": "x", "low": None}]
    assert bound(graph_of(text.format("%x")), six) == [{"x": "x", "low": None}]
    assert bound(graph_of(text.format("%x, %e, %c")), six) == []
    assert bound(graph_of(text.format("%x, %n, %e")), six) == []
    same = lambda op, x, low: op.Clip(x, low, op.optional(op.Neg(low)))  # noqa: E731
    assert bound(graph_of(text.format("%x, %n")), same) == []  # low would be %n, and left out


def test_an_operand_may_be_written_in_several_ways(graph_of) -> None:
    text = """(%x: float32[2], %c: float32[2]) {{
      const %half: float32[] = 0.5
      %m: float32[2] = {}
      %y: float32[2] = Exp(%m)
      return y = %y
    }}"""

    def halved(op, x, other):
        return op.Exp(op.either(op.Mul(x, 0.5), op.Neg(op.Add(x, other)), op.Relu(x)))

    assert bound(graph_of(text.format("Mul(%half, %x)")), halved) == [{"x": "x", "other": None}]
    assert bound(graph_of(text.format("Relu(%x)")), halved) == [{"x": "x", "other": None}]
    assert bound(graph_of(text.format("Mul(%x, %c)")), halved) == []
    negated = "Add(%x, %c) %n: float32[2] = Neg(%m)"
    summed = graph_of(text.format(negated).replace("Exp(%m)", "Exp(%n)"))
    assert bound(summed, halved) == [{"x": "x", "other": "c"}, {"x": "c", "other": "x"}]
    either = lambda op, x, y: op.Exp(op.either(x, op.Mul(x, y)))  # noqa: E731
    assert bound(graph_of(text.format("Mul(%half, %x)")), either)[0] == {"x": "m", "y": None}


def test_attributes_are_bound_by_name_with_the_schemas_defaults(graph_of) -> None:
    text = (
        "(%x: float32[4, 2]) {{ %t: float32[2, 4] = Transpose(%x) {} "
        "%y: float32[2, 4] = HardSigmoid(%t) {{beta = 0.25}} return y = %y }}"
    )

    def pattern(op, x):
        inner = op.Transpose(x, perm=op.attribute("perm"))
        return op.HardSigmoid(inner, alpha=op.attribute("slope"), beta=op.attribute("beta"))

    (match,) = matches(graph_of(text.format("{perm = [1, 0]}")), pattern)
    assert match.attributes == {"slope": 0.2, "beta": 0.25, "perm": (1, 0)}
    (match,) = matches(graph_of(text.format("")), pattern)
    assert match.attributes["perm"] is None
    assert len(matches(graph_of(text.format("")), lambda op, x: op.HardSigmoid(x, alpha=0.2))) == 1
    assert matches(graph_of(text.format("")), lambda op, x: op.HardSigmoid(x, beta=0.5)) == []


def test_an_attribute_that_recurs_is_the_same(graph_of) -> None:
    text = (
        "(%x: float32[2, 2]) {{ %a: float32[2, 2] = Softmax(%x) {{axis = {}}} %y: float32[2, 2] = LogSoftmax(%a) "
        "return y = %y }}"
    )

    def pattern(op, x):
        return op.LogSoftmax(op.Softmax(x, axis=op.attribute("axis")), axis=op.attribute("axis"))

    assert len(matches(graph_of(text.format(-1)), pattern)) == 1
    assert matches(graph_of(text.format(0)), pattern) == []


def test_attributes_are_compared_as_the_builder_holds_them(graph_of) -> None:
    graph = graph_of("(%x: float32[2]) { %y: float16[2] = Cast(%x) {to = 10} return y = %y }")
    assert len(matches(graph, lambda op, x: op.Cast(x, to=DType.float16))) == 1
    assert matches(graph, lambda op, x: op.Cast(x, to=DType.float64)) == []


BRANCHES = """(%b: bool[], %x: float32[2]) {
  %e: float32[2] = Exp(%x)
  %y: float32[2] = If(%b) {then_branch = graph "then"() {
    %n: float32[2] = Neg(%e)
    return n = %n
  }, else_branch = graph "else"() {
    %m: float32[2] = Exp(%x)
    return m = %m
  }}
  return y = %y
}"""


def test_a_match_lies_in_one_graph(graph_of) -> None:
    """Neither may it take a node from around, nor is a graph an attribute that could be handed on."""
    graph = graph_of(BRANCHES)
    node = list(graph.nodes)[-1]
    negation = next(node.graphs[0].nodes)
    assert list(find_matches(RewriteRule("mine", negated_exp, lambda op: None), negation)) == []
    assert bound(graph, lambda op, b: op.If(b)) == [{"b": "b"}]
    assert bound(graph, lambda op, b: op.If(b, then_branch=op.attribute("body"))) == []


# -- several results


SPLIT = "(%x: float32[4]) {{ %a: float32[2], %b: float32[2] = Split(%x) {{num_outputs = 2}} {} }}"


def test_a_node_of_several_outputs_gives_a_tuple(graph_of) -> None:
    def halves(op, x):
        first, second = op.Split(x, outputs=2)
        return op.Sub(second, first)

    right = graph_of(SPLIT.format("%y: float32[2] = Sub(%b, %a) return y = %y"))
    wrong = graph_of(SPLIT.format("%y: float32[2] = Sub(%a, %b) return y = %y"))
    returned = graph_of(SPLIT.format("%y: float32[2] = Sub(%b, %a) return y = %y, a = %a"))
    assert bound(right, halves) == [{"x": "x"}]
    assert bound(wrong, halves) == []
    assert bound(returned, halves) == []
    assert bound(right, lambda op, x, y: op.Sub(op.Split(x, outputs=3)[1], y)) == []


def test_all_outputs_that_are_read_are_results_or_within(graph_of) -> None:
    graph = graph_of(SPLIT.format("return a = %a, b = %b"))
    (match,) = matches(graph, lambda op, x: op.Split(x, outputs=2))
    assert [value.name for value in match.results] == ["a", "b"]
    assert bound(graph, lambda op, x: op.Split(x, outputs=2)[1]) == []


HEADS = """(%x: float32[2, 2], %z: float32[2, 2]) {{
  const %v: float32[2, 2] = [1.0, 2.0, 3.0, 4.0]
  const %w: float32[2, 2] = [5.0, 6.0, 7.0, 8.0]
  {}
}}"""


def pair(op, x, v, w):
    return op.MatMul(x, op.constant(v)), op.MatMul(x, op.constant(w))


@pytest.mark.parametrize(
    ("nodes", "place"),
    [
        ("%a: float32[2, 2] = MatMul(%x, %v) %b: float32[2, 2] = MatMul(%x, %w) return a = %a, b = %b", "b"),
        (
            (
                "%a: float32[2, 2] = MatMul(%x, %v) %r: float32[2, 2] = Relu(%a) %b: float32[2, 2] = MatMul(%x, %w) "
                "return b = %b"
            ),
            "r",
        ),
        ("%a: float32[2, 2] = MatMul(%x, %v) %b: float32[2, 2] = MatMul(%z, %w) return a = %a, b = %b", ""),
        ("%a: float32[2, 2] = MatMul(%x, %v) return a = %a", ""),
    ],
)
def test_several_results_are_replaced_before_who_reads_them(graph_of, nodes: str, place: str) -> None:
    graph = graph_of(HEADS.format(nodes))
    rule = RewriteRule("mine", pair, lambda op, x: (x, x))
    found = list(find_matches(rule, next(graph.nodes)))
    assert [match.place.output.name for match in found] == ([place] if place else [])
    assert all([value.name for value in match.results] == ["a", "b"] for match in found)


@pytest.mark.parametrize(
    "nodes",
    [
        "%r: float32[2, 2] = Relu(%a) %b: float32[2, 2] = Mul(%r, %w) return b = %b",
        (
            "%r: float32[2, 2] = Relu(%a) %s: float32[2, 2] = Exp(%x) %b: float32[2, 2] = Mul(%s, %w) "
            "return r = %r, b = %b"
        ),
    ],
)
def test_results_without_a_place_between_inputs_and_readers_are_no_match(graph_of, nodes: str) -> None:
    """One result is computed from the other, or its input comes after the other's reader."""
    graph = graph_of(HEADS.format(f"%a: float32[2, 2] = Mul(%x, %w) {nodes}"))
    rule = RewriteRule("mine", lambda op, x, z, w: (op.Mul(x, w), op.Mul(z, w)), lambda op, x, z: (x, z))
    assert [match for node in graph.nodes for match in find_matches(rule, node) if len(match.nodes) == 2] == []


def test_one_result_may_be_read_by_another(graph_of) -> None:
    graph = graph_of(
        TWO.format("%e: float32[2] = Exp(%x) %y: float32[2] = Neg(%e)").replace("return", "return e = %e,")
    )

    def both(op, x):
        exp = op.Exp(x)
        return exp, op.Neg(exp)

    (match,) = find_matches(RewriteRule("mine", both, lambda op, x: (x, x)), next(graph.nodes))
    assert [value.name for value in match.results] == ["e", "y"]
    assert match.place is match.root.outputs[0].uses[0].node


def test_a_result_of_several_that_a_graph_inside_reads_is_no_match(graph_of) -> None:
    """Unless it is the last one: where the reader stands isn't known."""
    text = "(%b: bool[], %x: float32[2]) {{ %p: float32[2] = {} %q: float32[2] = {} %y: float32[2] = If(%b) {{"
    text += 'then_branch = graph "t"() {{ %n: float32[2] = Neg(%p) return n = %n }},'
    text += 'else_branch = graph "e"() {{ %m: float32[2] = Abs(%x) return m = %m }}}} return y = %y, q = %q }}'
    rule = RewriteRule("mine", lambda op, x: (op.Exp(x), op.Sin(x)), lambda op, x: (x, x))

    def count(graph: Graph) -> int:
        return len([match for node in graph.nodes for match in find_matches(rule, node)])

    assert count(graph_of(text.format("Exp(%x)", "Sin(%x)"))) == 0
    assert count(graph_of(text.format("Exp(%x)", "Sin(%x)").replace("Neg(%p)", "Neg(%q)"))) == 1
