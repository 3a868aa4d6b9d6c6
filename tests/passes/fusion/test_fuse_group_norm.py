"""Group normalisation is recognised in instance normalisation of groups, and nowhere else."""

import pytest

from planish.passes.pipeline import parse_pipeline

NORM = """(%x: float32[batch, 8, 3, width]) {{
  const %flat: int64[3] = {flat}
  const %ones: float32[{groups}] = {ones}
  const %zeros: float32[{groups}] = {zeros}
  const %shape: int64[4] = [0, 8, 3, -1]
  const %c: float32[8, 1, 1] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
  %parts: float32[{parts}] = Reshape(%x, %flat) @ "norm"
  %n: float32[{parts}] = InstanceNormalization(%parts, %ones, %zeros) {{epsilon = 0.25}} @ "norm"
  %whole: float32[batch, 8, 3, width] = Reshape(%n, %shape) @ "norm"
  %s: float32[batch, 8, 3, width] = Mul({scaled}) @ "norm"
  %y: float32[batch, 8, 3, width] = Add({added}) @ "norm"
  return y = %y
}}"""
DEFAULTS = {
    "flat": "[0, 2, -1]", "groups": "2", "ones": "[1.0, 3.0]", "zeros": "[0.0, 1.0]", "parts": "batch, 2, 12 * width",
    "scaled": "%whole, %c", "added": "%s, %c",
}  # fmt: skip
FUSED = """(%x: float32[batch, 8, 3, width]) {
  const %c_1: float32[8] = [1.0, 2.0, 3.0, 4.0, 15.0, 18.0, 21.0, 24.0]
  const %c_2: float32[8] = [1.0, 2.0, 3.0, 4.0, 10.0, 12.0, 14.0, 16.0]
  %groupnormalization: float32[batch, 8, 3, width] = GroupNormalization(%x, %c_1, %c_2)\
 {epsilon = 0.25, num_groups = 2} @ "norm"
  return y = %groupnormalization
}"""


def operators(graph) -> list[str]:
    return [node.operator for node in graph.nodes]


def fused(graph_of, context, text: str):
    graph = graph_of(text)
    return graph, parse_pipeline("fuse-group-norm")[0].apply(graph, context(graph))


@pytest.mark.parametrize("order", [{}, {"scaled": "%c, %whole", "added": "%c, %s"}])
def test_group_norm(becomes, order: dict[str, str]) -> None:
    counts = becomes("fuse-group-norm", NORM.format(**DEFAULTS | order), FUSED).counts
    assert counts == {"group-norm": 1, "scale": 1, "bias": 1}


def test_a_shape_that_is_computed(graph_of, context) -> None:
    computed = '%shape: int64[4] = Shape(%x) @ "norm"'
    graph, _ = fused(
        graph_of, context, NORM.format(**DEFAULTS).replace("const %shape: int64[4] = [0, 8, 3, -1]", computed)
    )
    assert operators(graph) == ["Shape", "GroupNormalization"]


def test_groups_of_one_channel_are_instances(graph_of, context) -> None:
    numbers = "[1, 2, 3, 4, 5, 6, 7, 8]"
    changes = {"flat": "[0, 8, -1]", "groups": "8", "ones": numbers, "zeros": numbers, "parts": "batch, 8, 3 * width"}
    graph, _ = fused(graph_of, context, NORM.format(**DEFAULTS | changes))
    assert operators(graph) == ["InstanceNormalization"]


@pytest.mark.parametrize(
    ("changes", "replaced", "reason"),
    [
        ({}, {"%x: float32[batch, 8, 3, width]) {": "%x: float32[batch, 8, 3, width], %ones: float32[2]) {",
              "const %ones: float32[2] = [1.0, 3.0]": ""},
         "its scales or biases are not constant"),
        ({}, {"const %shape: int64[4] = [0, 8, 3, -1]": "%shape: int64[4] = Shape(%x)",
              "const %flat: int64[3] = [0, 2, -1]": "const %flat: int64[3] = [-1, 2, 36]",
              "[batch, 2, 12 * width]": "[batch * width // 3, 2, 36]"},
         "what it normalises are no groups of channels"),
        ({}, {"[0, 8, 3, -1]": "[0, 8, -1, 3]", "[batch, 8, 3, width] = ": "[batch, 8, width, 3] = "},
         "its input isn't an image cut into groups of channels"),
    ],
    ids=["computed scales", "groups of other axes", "another shape"],
)  # fmt: skip
def test_what_is_no_group_norm_stays(graph_of, context, changes, replaced, reason: str) -> None:
    text = NORM.format(**DEFAULTS | changes)
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    _, result = fused(graph_of, context, text)
    assert not result.changed
    assert any(reason in miss for miss in result.misses)


@pytest.mark.parametrize(
    "operand", ["const %c: float32[3, 1] = [1, 2, 3]", "const %c: float32[1, 8, 1, 1, 1] = [1, 2, 3, 4, 5, 6, 7, 8]"]
)
def test_a_scale_of_something_else_stays(graph_of, context, operand: str) -> None:
    shape = "1, 8, 8, 3, 4" if "1, 8, 1" in operand else "8, 8, 3, 4"
    graph = graph_of(f"""(%x: float32[8, 8, 3, 4], %k: float32[8]) {{
      const %scale: float32[8] = [1, 2, 3, 4, 5, 6, 7, 8]
      {operand}
      %n: float32[8, 8, 3, 4] = InstanceNormalization(%x, %scale, %scale) @ "norm"
      %y: float32[{shape}] = Mul(%n, %c) @ "norm"
      return y = %y
    }}""")
    result = parse_pipeline("fuse-group-norm")[0].apply(graph, context(graph))
    assert not result.changed
    assert any("the other operand is not a constant of channels" in miss for miss in result.misses)
