"""Activations that exporters spell out are recognised in every order of operands, and only with their constants."""

import pytest

AFTER = "(%x: float32[2, 4]) {{ %{name}: float32[2, 4] = {call} return y = %{name} }}"
SIXTH = 0.1666666716337204  # float32's


def written(*calls: str, dtype: str = "float32", shape: str = "2, 4", constants: str = "") -> str:
    """A graph of calls that yield %a, %b, %c ..., the last of which is returned."""
    lines = [f"%{name}: {dtype}[{shape}] = {call}" for name, call in zip("abcdefgh", calls, strict=False)]
    names = "abcdefgh"[len(calls) - 1]
    return f"(%x: {dtype}[{shape}]) {{ {constants} {' '.join(lines)} return y = %{names} }}"


HARD = f"""const %three: float32[] = 3.0 const %zero: float32[] = 0.0 const %six: float32[] = 6.0
           const %sixth: float32[] = {SIXTH}"""


@pytest.mark.parametrize(
    ("calls", "rest"),
    [
        (("Add(%x, %three)", "Clip(%a, %zero, %six)", "Div(%b, %six)"), "const %sixth: float32[] = 0.16666667"),
        (("Add(%three, %x)", "Clip(%a, %zero, %six)", "Div(%b, %six)"), "const %sixth: float32[] = 0.16666667"),
        (("Add(%x, %three)", "Clip(%a, %zero, %six)", "Mul(%b, %sixth)"), ""),
        (("Add(%x, %three)", "Clip(%a, %zero, %six)", "Mul(%sixth, %b)"), ""),
    ],
)
def test_hard_sigmoid(becomes, calls: tuple[str, ...], rest: str) -> None:
    after = f"""(%x: float32[2, 4]) {{
      {rest}
      %hardsigmoid: float32[2, 4] = HardSigmoid(%x) {{alpha = 0.16666666666666666, beta = 0.5}}
      return y = %hardsigmoid
    }}"""
    assert becomes("fuse-activations", written(*calls, constants=HARD), after).counts == {"hard-sigmoid": 1}


@pytest.mark.parametrize(
    ("calls", "rest"),
    [
        (
            ("Add(%x, %three)", "Clip(%a, %zero, %six)", "Mul(%x, %b)", "Div(%c, %six)"),
            "const %sixth: float32[] = 0.16666667",
        ),
        (("Add(%three, %x)", "Clip(%a, %zero, %six)", "Mul(%b, %x)", "Mul(%sixth, %c)"), ""),
    ],
)
def test_hard_swish(becomes, calls: tuple[str, ...], rest: str) -> None:
    after = f"(%x: float32[2, 4]) {{ {rest} %hardswish: float32[2, 4] = HardSwish(%x) return y = %hardswish }}"
    assert becomes("fuse-activations", written(*calls, constants=HARD), after).counts == {"hard-swish": 1}


def test_a_hard_sigmoid_that_is_recognised_leads_on_to_hard_swish(becomes) -> None:
    calls = ("Add(%x, %three)", "Clip(%a, %zero, %six)", "Div(%b, %six)", "Mul(%c, %x)")
    after = """(%x: float32[2, 4]) {
      const %sixth: float32[] = 0.16666667
      %hardswish: float32[2, 4] = HardSwish(%x)
      return y = %hardswish
    }"""
    result = becomes("fuse-activations", written(*calls, constants=HARD), after)
    assert result.counts == {"hard-sigmoid": 1, "hard-swish": 1}


@pytest.mark.parametrize(
    ("calls", "name", "call"),
    [
        (("Sigmoid(%x)", "Mul(%x, %a)"), "swish", "Swish(%x)"),
        (("Sigmoid(%x)", "Mul(%a, %x)"), "swish", "Swish(%x)"),
        (("Softplus(%x)", "Tanh(%a)", "Mul(%b, %x)"), "mish", "Mish(%x)"),
        (("HardSigmoid(%x) {alpha = 0.16666667}", "Mul(%a, %x)"), "hardswish", "HardSwish(%x)"),
    ],
)
def test_products_with_a_gate(becomes, calls: tuple[str, ...], name: str, call: str) -> None:
    becomes("fuse-activations", written(*calls), AFTER.format(name=name, call=call))


@pytest.mark.parametrize(
    "calls",
    [
        ("Add(%x, %six)", "Clip(%a, %zero, %six)", "Div(%b, %six)"),
        ("Add(%x, %three)", "Clip(%a, %three, %six)", "Div(%b, %six)"),
        ("Add(%x, %three)", "Clip(%a, none, %six)", "Div(%b, %six)"),
        ("Add(%x, %three)", "Clip(%a, %zero)", "Div(%b, %six)"),
        ("Add(%x, %three)", "Clip(%a, %zero, %six)", "Div(%b, %three)"),
        ("Add(%x, %three)", "Clip(%a, %zero, %six)", "Div(%six, %b)"),
        ("Add(%x, %three)", "Clip(%a, %zero, %six)", "Mul(%b, %six)"),
        ("Sub(%x, %three)", "Clip(%a, %zero, %six)", "Div(%b, %six)"),
    ],
)
def test_other_constants_bounds_and_orders_are_something_else(stays, calls: tuple[str, ...]) -> None:
    assert stays("fuse-activations", written(*calls, constants=HARD)).misses == ()


@pytest.mark.parametrize(
    "calls", [("Relu(%x)", "Sigmoid(%a)", "Mul(%x, %b)"), ("Sigmoid(%x)", "Add(%x, %a)"), ("Tanh(%x)", "Mul(%x, %a)")]
)
def test_another_gate_is_no_swish(stays, calls: tuple[str, ...]) -> None:
    stays("fuse-activations", written(*calls))


def test_a_hard_sigmoid_of_onnxs_own_slope_is_no_part_of_hard_swish(stays) -> None:
    text = "(%x: float32[4]) { %a: float32[4] = HardSigmoid(%x) %b: float32[4] = Mul(%x, %a) @ {} return y = %b }"
    result = stays("fuse-activations", text.replace("{}", '"block.act"'))
    assert result.misses == ("hard-swish at block.act: its hard sigmoid has another slope",)


def test_a_gate_that_is_read_elsewhere_stays(stays) -> None:
    stays(
        "fuse-activations",
        """(%x: float32[4]) {
          %gate: float32[4] = Sigmoid(%x)
          %y: float32[4] = Mul(%x, %gate)
          %z: float32[4] = Exp(%gate)
          return y = %y, z = %z
        }""",
    )


def test_a_gate_that_the_graph_returns_stays(stays) -> None:
    text = "(%x: float32[4]) { %g: float32[4] = Sigmoid(%x) %y: float32[4] = Mul(%x, %g) return y = %y, g = %g }"
    stays("fuse-activations", text)


def test_an_integer_division_rounds_and_is_no_hard_sigmoid(stays) -> None:
    constants = "const %three: int64[] = 3 const %zero: int64[] = 0 const %six: int64[] = 6"
    calls = ("Add(%x, %three)", "Clip(%a, %zero, %six)", "Div(%b, %six)")
    stays("fuse-activations", written(*calls, dtype="int64", constants=constants))
    swish = ("Add(%x, %three)", "Clip(%a, %zero, %six)", "Mul(%x, %b)", "Div(%c, %six)")
    stays("fuse-activations", written(*swish, dtype="int64", constants=constants))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats(becomes, dtype: str) -> None:
    before = written("Sigmoid(%x)", "Mul(%x, %a)", dtype=dtype)
    becomes(
        "fuse-activations", before, f"(%x: {dtype}[2, 4]) {{ %swish: {dtype}[2, 4] = Swish(%x) return y = %swish }}"
    )


def test_a_constant_that_adds_an_axis_is_more_than_a_number(stays) -> None:
    stays(
        "fuse-activations",
        """(%x: float32[4]) {
          const %three: float32[1, 1] = [3.0]
          const %zero: float32[] = 0.0
          const %six: float32[] = 6.0
          %a: float32[1, 4] = Add(%x, %three)
          %b: float32[1, 4] = Clip(%a, %zero, %six)
          %c: float32[1, 4] = Div(%b, %six)
          return y = %c
        }""",
    )
