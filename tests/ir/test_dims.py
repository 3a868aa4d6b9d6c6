"""Dimensions are arithmetic on symbols, read from text that a user may have written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from planish.ir.dims import evaluate, is_dim, symbols
from planish.ir.scope import scope

SIZES = {"batch": 3, "s0": 14}


@pytest.mark.parametrize(
    ("dim", "size"),
    [
        (5, 5),
        ("batch", 3),
        ("batch*12", 36),
        ("(s0 - 3)//2 + 1", 6),
        ("-s0//4", -4),
        ("-(s0//4)", -3),
        ("s0/2", 7),
        ("s0 % 4 + batch**2", 11),
        ("FloorDiv(s0, 4) + CleanDiv(s0, 2) + Mod(s0, 3) + PythonMod(s0, 5)", 3 + 7 + 2 + 4),
        ("Max(1, Min(batch, s0), 2)", 3),
    ],
)
def test_a_dimension_has_a_value_once_its_symbols_have(dim: int | str, size: int) -> None:
    assert evaluate(dim, SIZES) == size


def test_symbols_are_what_is_not_a_function() -> None:
    assert symbols(7) == symbols("7") == frozenset()
    assert symbols("Max(1, height//2)*width") == {"height", "width"}


def test_a_symbol_without_a_value_is_named() -> None:
    with pytest.raises(KeyError, match="height"):
        evaluate("height + batch", SIZES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "N x M",
        "batch,",
        "batch[0]",
        "batch.size",
        "1.5",
        "'batch'",
        "f(batch)",
        "Max(a=1)",
        "batch << 2",
        "__import__('os')",
        "(lambda: 1)()",
        "batch/0",
        "9**9**9**9",
        "-" * 100_000 + "1",
        "batch\0",
    ],
)
def test_what_is_no_dimension_is_refused(text: str) -> None:
    assert not is_dim(text)
    with pytest.raises((ValueError, ArithmeticError)):
        evaluate(text, SIZES)


@st.composite
def _expressions(draw: DrawFn, depth: int = 3) -> str:
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(["a", "b", "1", "2", "16"]))
    left, right = draw(_expressions(depth - 1)), draw(_expressions(depth - 1))
    form = draw(
        st.sampled_from(["({} + {})", "({} - {})", "{} * {}", "{} // 3", "{} // a", "Max({}, {})", "Min({}, {})"])
    )
    return form.format(left, right)


@given(_expressions(), st.integers(1, 50), st.integers(1, 50))
def test_torch_gives_back_a_dimension_of_the_same_value(text: str, a: int, b: int) -> None:
    """An expression that goes through symbolic ints and sympy's canonical form changes its looks alone."""
    within = scope(("a", "b"))
    again = within.dim(within.size(text))
    assert is_dim(str(again))
    assert evaluate(again, {"a": a, "b": b}) == evaluate(text, {"a": a, "b": b})
