"""RMS normalisation is recognised along the last axis, and nowhere else."""

import pytest

from planish.passes.pipeline import parse_pipeline

NORM = """(%x: float32[batch, 3, 4]) {{
  {constants}
  const %axes: int64[1] = {axes}
  const %eps: float32[] = 1e-3
  const %scale: {scale}
  %s: float32[batch, 3, 4] = {square} @ "norm"
  %m: float32[batch, 3, 1] = ReduceMean(%s, %axes) @ "norm"
  %e: float32[batch, 3, 1] = Add({added}) @ "norm"
  {quotient}
  %y: float32[batch, 3, 4] = Mul({scaled}) @ "norm"
  return y = %y
}}"""
QUOTIENTS = {
    "quotient": """%r: float32[batch, 3, 1] = Sqrt(%e) @ "norm"
      %q: float32[batch, 3, 4] = Div(%x, %r) @ "norm" """,
    "reciprocal": """%t: float32[batch, 3, 1] = Sqrt(%e) @ "norm"
      %r: float32[batch, 3, 1] = Reciprocal(%t) @ "norm"
      %q: float32[batch, 3, 4] = Mul(%x, %r) @ "norm" """,
    "one over": """%t: float32[batch, 3, 1] = Sqrt(%e) @ "norm"
      %r: float32[batch, 3, 1] = Div(%one, %t) @ "norm"
      %q: float32[batch, 3, 4] = Mul(%r, %x) @ "norm" """,
    "power": """%r: float32[batch, 3, 1] = Pow(%e, %half) @ "norm"
      %q: float32[batch, 3, 4] = Mul(%x, %r) @ "norm" """,
}
CONSTANTS = {
    "%one": "const %one: float32[] = 1.0",
    "%two": "const %two: float32[] = 2.0",
    "%half": "const %half: float32[] = -0.5",
}
DEFAULTS = {
    "axes": "[-1]",
    "scale": "float32[4] = [1.0, 2.0, 3.0, 4.0]",
    "square": "Mul(%x, %x)",
    "added": "%m, %eps",
    "quotient": QUOTIENTS["quotient"],
    "scaled": "%q, %scale",
}


def text_of(changes: dict[str, str]) -> str:
    parts = DEFAULTS | changes
    used = [line for name, line in CONSTANTS.items() if name in parts["square"] + parts["quotient"]]
    return NORM.format(**parts, constants="\n".join(used))


@pytest.mark.parametrize("quotient", QUOTIENTS.values(), ids=QUOTIENTS)
@pytest.mark.parametrize("square", ["Mul(%x, %x)", "Pow(%x, %two)"])
@pytest.mark.parametrize("order", [{}, {"added": "%eps, %m", "scaled": "%scale, %q", "axes": "[2]"}])
def test_rms_norm(becomes, quotient: str, square: str, order: dict[str, str]) -> None:
    before = text_of(order | {"quotient": quotient, "square": square})
    after = """(%x: float32[batch, 3, 4]) {
      const %scale: float32[4] = [1.0, 2.0, 3.0, 4.0]
      %rmsnormalization_1: float32[batch, 3, 4] = RMSNormalization(%x, %scale)
        {axis = -1, epsilon = 0.0010000000474974513, stash_type = 1} @ "norm"
      return y = %rmsnormalization_1
    }"""
    assert becomes("fuse-rms-norm", before, after).counts == {"rms-norm": 1, "scale": 1}


def test_what_has_no_scale_has_one_of_ones(becomes) -> None:
    before = text_of({"scaled": "%q, %x"})
    after = """(%x: float32[batch, 3, 4]) {
      const %scale: float32[4] = [1.0, 2.0, 3.0, 4.0]
      const %constant: float32[4] = [1.0, 1.0, 1.0, 1.0]
      %rmsnormalization: float32[batch, 3, 4] =
        RMSNormalization(%x, %constant) {axis = -1, epsilon = 0.0010000000474974513} @ "norm"
      %y: float32[batch, 3, 4] = Mul(%rmsnormalization, %x) @ "norm"
      return y = %y
    }"""
    assert becomes("fuse-rms-norm", before, after).counts == {"rms-norm": 1}


@pytest.mark.parametrize(
    ("changes", "replaced", "reason"),
    [
        ({"axes": "[1]"}, {"[batch, 3, 1]": "[batch, 1, 4]"}, "rms-norm at norm: it doesn't normalise the last axis"),
        ({"axes": "[-1]"}, {"3, 4]": "3, width]", "float32[4] = [1.0, 2.0, 3.0, 4.0]": "float32[1] = [2.0]"},
         "rms-norm at norm: the size of the last axis isn't known"),
        ({}, {"3, 4]) {": "3, 4], %eps: float32[]) {", "const %eps: float32[] = 1e-3": ""},
         "rms-norm at norm: epsilon is not a constant"),
    ],
)  # fmt: skip
def test_what_is_no_rms_norm_stays_and_is_reported(stays, changes, replaced, reason: str) -> None:
    text = text_of(changes)
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    assert reason in stays("fuse-rms-norm", text).misses


@pytest.mark.parametrize(
    ("scale", "reason"),
    [
        ("float32[1] = [2.0]", "the scale is no constant of the last axis"),
        ("float32[3, 1] = [1, 2, 3]", "the scale is no"),
    ],
)
def test_a_scale_of_another_shape_stays(graph_of, context, scale: str, reason: str) -> None:
    graph = graph_of(text_of({"scale": scale}))
    result = parse_pipeline("fuse-rms-norm")[0].apply(graph, context(graph))
    assert result.counts == {"rms-norm": 1}
    assert any(reason in miss for miss in result.misses)
