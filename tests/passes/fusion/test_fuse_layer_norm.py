"""Layer normalisation is recognised along the last axis, and nowhere else."""

import pytest

SQUARES = ("Pow(%d, %two)", "Mul(%d, %d)")

NORM = """(%x: float32[batch, 3, 4]) {{
  const %two: float32[] = 2.0
  const %axes: int64[1] = {axes}
  const %eps: float32[] = 1e-3
  const %scale: {scale}
  const %bias: float32[4] = [0.5, 0.0, -0.5, 1.0]
  %m: float32[batch, 3, 1] = ReduceMean(%x, %axes) @ "ln"
  %d: float32[batch, 3, 4] = Sub(%x, %m) @ "ln"
  %s: float32[batch, 3, 4] = {square} @ "ln"
  %v: float32[batch, 3, 1] = ReduceMean(%s, %axes) @ "ln"
  %e: float32[batch, 3, 1] = Add({added}) @ "ln"
  %r: float32[batch, 3, 1] = Sqrt(%e) @ "ln"
  %q: float32[batch, 3, 4] = Div(%d, %r) @ "ln"
  %a: float32[batch, 3, 4] = Mul({scaled}) @ "ln"
  %y: float32[batch, 3, 4] = Add({biased}) @ "ln"
  return y = %y
}}"""
DEFAULTS = {
    "axes": "[-1]",
    "scale": "float32[4] = [1.0, 2.0, 3.0, 4.0]",
    "square": SQUARES[0],
    "added": "%v, %eps",
    "scaled": "%q, %scale",
    "biased": "%a, %bias",
}


@pytest.mark.parametrize("order", [{}, {"added": "%eps, %v", "scaled": "%scale, %q", "biased": "%bias, %a"}])
@pytest.mark.parametrize("axes", ["[-1]", "[2]"])
@pytest.mark.parametrize("square", SQUARES)
def test_layer_norm(becomes, square: str, axes: str, order: dict[str, str]) -> None:
    before = NORM.format(**DEFAULTS | {"square": square, "axes": axes} | order)
    after = f"""(%x: float32[batch, 3, 4]) {{
      {"" if "two" in square else "const %two: float32[] = 2.0"}
      const %scale: float32[4] = [1.0, 2.0, 3.0, 4.0]
      const %bias: float32[4] = [0.5, 0.0, -0.5, 1.0]
      %layernormalization: float32[batch, 3, 4] = LayerNormalization(%x, %scale, %bias)
        {{axis = -1, epsilon = 0.0010000000474974513}} @ "ln"
      return y = %layernormalization
    }}"""
    assert becomes("fuse-layer-norm", before, after).counts == {"layer-norm": 1}


@pytest.mark.parametrize(
    ("changes", "replaced", "reason"),
    [
        ({"axes": "[1]"}, {"float32[batch, 3, 1]": "float32[batch, 1, 4]"}, "it doesn't normalise the last axis"),
        ({"scale": "float32[1] = [2.0]"}, {}, "scale or bias are not constants of the last axis"),
        ({"scale": "float32[3, 1] = [1, 2, 3]"}, {}, "scale or bias are not constants of the last axis"),
        (
            {},
            {"[batch, 3, 4]) {": "[batch, 3, 4], %scale: float32[4]) {",
             "const %scale: float32[4] = [1.0, 2.0, 3.0, 4.0]": ""},
            "scale or bias are not constants of the last axis",
        ),
        (
            {},
            {"[batch, 3, 4]) {": "[batch, 3, 4], %eps: float32[]) {", "const %eps: float32[] = 1e-3": ""},
            "epsilon is not a constant",
        ),
    ],
)  # fmt: skip
def test_what_is_no_plain_layer_norm_stays_and_is_reported(stays, changes, replaced, reason: str) -> None:
    text = NORM.format(**DEFAULTS | changes)
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    assert stays("fuse-layer-norm", text).misses == (f"layer-norm at ln: {reason}",)


def test_a_mean_over_two_axes_stays(stays) -> None:
    text = NORM.format(**DEFAULTS).replace("[1] = [-1]", "[2] = [-1, -2]").replace("batch, 3, 1", "batch, 1, 1")
    assert stays("fuse-layer-norm", text).misses == ("layer-norm at ln: it doesn't normalise the last axis",)


def test_an_epsilon_that_adds_an_axis_stays(stays) -> None:
    """The sum has four dimensions then, and what follows as well."""
    text = NORM.format(**DEFAULTS).replace("%eps: float32[] = 1e-3", "%eps: float32[1, 1, 1, 1] = [1e-3]")
    for name in "er":
        text = text.replace(f"%{name}: float32[batch, 3, 1]", f"%{name}: float32[1, batch, 3, 1]")
    for name in "qay":
        text = text.replace(f"%{name}: float32[batch, 3, 4]", f"%{name}: float32[1, batch, 3, 4]")
    assert stays("fuse-layer-norm", text).misses == ("layer-norm at ln: epsilon is not a constant",)


def test_the_variance_of_something_else_stays(stays) -> None:
    stays("fuse-layer-norm", NORM.format(**DEFAULTS | {"square": "Mul(%x, %x)"}))
    stays("fuse-layer-norm", NORM.format(**DEFAULTS | {"square": "Mul(%d, %x)"}))


@pytest.mark.parametrize("power", ["1.0", "3.0"])
def test_another_moment_stays(stays, power: str) -> None:
    text = NORM.format(**DEFAULTS).replace("%two: float32[] = 2.0", f"%two: float32[] = {power}")
    stays("fuse-layer-norm", text)


@pytest.mark.parametrize("value", ["m", "d", "v", "q"])
def test_a_part_that_is_returned_stays(stays, value: str) -> None:
    text = NORM.format(**DEFAULTS)
    stays("fuse-layer-norm", text.replace("return y = %y", f"return y = %y, part = %{value}"))
