"""GELU is recognised wherever exporters put its constants, and only with these constants."""

import math
import re

import pytest

ERF_INNER = ("Div(%x, %root)", "Mul(%x, %reciprocal)", "Mul(%reciprocal, %x)")
FACTOR = (
    ("Mul(%x, %plus)", "Mul(%m, %half)"),
    ("Mul(%plus, %x)", "Mul(%half, %m)"),
    ("Mul(%x, %half)", "Mul(%m, %plus)"),
    ("Mul(%plus, %half)", "Mul(%x, %m)"),
    ("Mul(%plus, %x)", "Div(%m, %two)"),
)
CUBE = (
    ("Pow(%x, %three)", ""),
    ("Mul(%square, %x)", "%square: float32[2, 4] = Mul(%x, %x)"),
    ("Mul(%x, %square)", "%square: float32[2, 4] = Mul(%x, %x)"),
)

NUMBERS = {
    "root": math.sqrt(2),
    "reciprocal": math.sqrt(0.5),
    "half": 0.5,
    "one": 1.0,
    "two": 2.0,
    "three": 3.0,
    "cubic": 0.044715,
    "scale": math.sqrt(2 / math.pi),
}


def graph(lines: str, numbers: dict[str, float] | None = None) -> str:
    """A graph of lines with the constants that they name; the lines' types are all alike."""
    held = NUMBERS | (numbers or {})
    constants = "".join(
        f"const %{name}: float32[] = {held[name]!r}\n" for name in held if re.search(rf"%{name}\b", lines)
    )
    typed = lines.replace(" =", ": float32[2, 4] =").replace(": float32[2, 4]: float32[2, 4]", ": float32[2, 4]")
    return f"(%x: float32[2, 4]) {{\n{constants}{typed}\nreturn y = %y\n}}"


def erf(inner: str, first: str, second: str, numbers: dict[str, float] | None = None) -> str:
    lines = f"%i = {inner}\n%e = Erf(%i)\n%plus = Add(%e, %one)\n%m = {first}\n%y = {second}"
    return graph(lines, numbers)


def tanh(cube: str, square: str, first: str, second: str, numbers: dict[str, float] | None = None) -> str:
    lines = f"""{square}
      %cube = {cube}
      %c = Mul(%cube, %cubic)
      %s = Add(%x, %c)
      %i = Mul(%s, %scale)
      %t = Tanh(%i)
      %plus = Add(%one, %t)
      %m = {first}
      %y = {second}"""
    return graph(lines, numbers)


AFTER = "(%x: float32[2, 4]) { %gelu: float32[2, 4] = Gelu(%x) return y = %gelu }"


@pytest.mark.parametrize("factor", FACTOR)
@pytest.mark.parametrize("inner", ERF_INNER)
def test_gelu(becomes, inner: str, factor: tuple[str, str]) -> None:
    assert becomes("fuse-gelu", erf(inner, *factor), AFTER).counts == {"gelu": 1}


@pytest.mark.parametrize("factor", FACTOR)
@pytest.mark.parametrize("cube", CUBE)
def test_its_approximation_by_tanh(becomes, cube: tuple[str, str], factor: tuple[str, str]) -> None:
    after = AFTER.replace("Gelu(%x)", 'Gelu(%x) {approximate = "tanh"}')
    assert becomes("fuse-gelu", tanh(*cube, *factor), after).counts == {"gelu-tanh": 1}


@pytest.mark.parametrize(
    "numbers", [{"root": 1.414}, {"root": 2.0}, {"one": 1.001}, {"one": 0.0}, {"half": 1.0}, {"half": -0.5}]
)
def test_other_constants_are_no_gelu(stays, numbers: dict[str, float]) -> None:
    stays("fuse-gelu", erf(ERF_INNER[0], *FACTOR[0], numbers))


@pytest.mark.parametrize(
    "numbers", [{"cubic": 0.0447}, {"cubic": 0.0356}, {"three": 2.0}, {"scale": 0.8}, {"one": 2.0}, {"half": 0.4999}]
)
def test_other_constants_are_no_approximation(stays, numbers: dict[str, float]) -> None:
    stays("fuse-gelu", tanh(*CUBE[0], *FACTOR[0], numbers))


@pytest.mark.parametrize(
    "text",
    [
        erf("Div(%x, %root)", "Mul(%i, %plus)", "Mul(%m, %half)"),  # another factor
        erf("Div(%root, %x)", "Mul(%x, %plus)", "Mul(%m, %half)"),  # a quotient upside down
        erf("Div(%x, %root)", "Mul(%x, %plus)", "Div(%two, %m)"),
        erf("Div(%x, %root)", "Mul(%x, %e)", "Mul(%m, %half)"),  # the one is not added
    ],
)
def test_another_formula_is_no_gelu(stays, text: str) -> None:
    stays("fuse-gelu", text)


def test_a_part_that_is_read_elsewhere_stays(stays) -> None:
    text = erf("Div(%x, %root)", "Mul(%x, %plus)", "Mul(%m, %half)")
    stays("fuse-gelu", text.replace("return y = %y", "return y = %y, e = %e"))


def test_constants_of_one_element_count_as_numbers(becomes) -> None:
    before = erf("Div(%x, %root)", "Mul(%x, %plus)", "Mul(%m, %half)")
    before = before.replace("const %half: float32[] = 0.5", "const %half: float32[1, 1] = [0.5]")
    becomes("fuse-gelu", before, AFTER)


def test_constants_of_many_elements_do_not(stays) -> None:
    before = erf("Div(%x, %root)", "Mul(%x, %plus)", "Mul(%m, %half)")
    stays(
        "fuse-gelu", before.replace("const %half: float32[] = 0.5", "const %half: float32[4] = [0.5, 0.5, 0.5, 0.25]")
    )


def test_a_constant_that_adds_an_axis_is_more_than_a_number(stays) -> None:
    before = erf("Div(%x, %root)", "Mul(%x, %plus)", "Mul(%m, %half)")
    before = before.replace("const %half: float32[] = 0.5", "const %half: float32[1, 1, 1] = [0.5]")
    stays("fuse-gelu", before.replace("%y: float32[2, 4]", "%y: float32[1, 2, 4]"))
