"""Residual branches: what lies between a value and the Add that adds it back, and what keeps it there."""

import pytest

from planish.ir.analysis.residuals import residual_branches
from planish.ir.text import parse_graph
from planish.ir.verify import verify

TEXT = """\
graph "g"(%x: float32[batch, 2], %mask: float32[batch, 2], %row: float32[2]) {{
  const %w: float32[2, 2] = [1.0, 2.0, 3.0, 4.0]
  const %two: float32[] = 2.0
{}
}}
"""
F = "float32[batch, 2]"
RETURN = "return y = %y"
X, BRANCH = f"%a: {F} = Relu(%x)", f"%b: {F} = MatMul(%a, %w)"


def found(*lines: str) -> list[tuple[str, str, str, str | None]]:
    """The start, the nodes, the sum and the obstacle of each branch."""
    graph = parse_graph(TEXT.format("\n".join(f"  {line}" for line in lines)))
    verify(graph)
    return [
        (it.x.name, " ".join(node.outputs[0].name for node in it.nodes), it.add.output.name, it.frozen)
        for it in residual_branches(graph)
    ]


@pytest.mark.parametrize("total", ["Add(%a, %c)", "Add(%c, %a)"])
def test_a_branch_is_all_between_a_value_and_the_sum_with_it(total: str) -> None:
    lines = (X, BRANCH, f"%other: {F} = Relu(%mask)", f"%c: {F} = Mul(%b, %other)", f"%y: {F} = {total}", RETURN)
    assert found(*lines) == [("a", "b c", "y", None)]


def test_a_branch_may_start_from_an_input_and_lie_in_another() -> None:
    inner = (f"%a: {F} = MatMul(%x, %w)", f"%b: {F} = MatMul(%a, %w)", f"%c: {F} = Add(%a, %b)")
    assert found(*inner, f"%y: {F} = Add(%c, %x)", RETURN) == [("a", "b", "c", None), ("x", "a b c", "y", None)]


@pytest.mark.parametrize(
    "lines",
    [
        (X, f"%b: {F} = MatMul(%mask, %w)", f"%y: {F} = Add(%a, %b)"),  # neither is computed from the other
        (X, f"%b: {F} = Mul(%a, %two)", f"%y: {F} = Add(%a, %b)"),  # as inside of activation functions
        (X, BRANCH, f"%y: {F} = Sub(%a, %b)"),
        (f"%y: {F} = Add(%x, %x)",),
        (f"%b: {F} = MatMul(%x, %w)", f"%y: {F} = Add(%b, %two)"),
    ],
)
def test_other_sums_end_no_branch(lines: tuple[str, ...]) -> None:
    assert found(*lines, RETURN) == []


@pytest.mark.parametrize(
    ("lines", "obstacle"),
    [
        (
            (X, BRANCH, f"%c: {F} = Relu(%b)", f"%d: {F} = Add(%a, %c)", f'%y: {F} = Mul(%d, %b) @ "gate"', RETURN),
            "Mul in gate reads %b, which it computes, too",
        ),
        ((X, BRANCH, f"%y: {F} = Add(%a, %b)", "return y = %y, z = %b"), "the graph returns %b, which it computes"),
        (
            (
                "%a: float32[2] = Relu(%row)",
                "%v: float32[2] = MatMul(%a, %w)",
                f"%b: {F} = Mul(%v, %x)",
                f"%y: {F} = Add(%a, %b)",
                RETURN,
            ),
            "it starts from float32[2] and ends in float32[batch, 2]",
        ),
    ],
)
def test_what_keeps_a_branch_is_told(lines: tuple[str, ...], obstacle: str) -> None:
    assert [it[-1] for it in found(*lines)] == [obstacle]
