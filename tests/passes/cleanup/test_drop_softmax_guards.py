"""Guards go where each row is proved to have something, and stay where a mask may close a row."""

import pytest

from planish.passes.pipeline import parse_pipeline, preset_passes

TRIANGLE = "const %triangle: bool[3, 3] = [true, false, false, true, true, false, true, true, true]"
GUARDED = """(%q: float32[2, 3, 4], %k: float32[2, 4, 3]{inputs}) {{
  const %zero: float32[] = 0.0
  const %never: float32[] = {never}
  {mask}
  %scores: float32[2, 3, 3] = MatMul(%q, %k)
  %bias: float32[{bias}] = Where(%mask, %zero, %never)
  %masked: float32[2, 3, 3] = Add(%scores, %bias)
  %p: float32[2, 3, 3] = Softmax(%masked) {{axis = -1}}
  {guard}
  return y = %y
}}"""
GUARD = """%nan: bool[2, 3, 3] = IsNaN(%p)
  %w: float32[2, 3, 3] = Where(%nan, %zero, %p)
  %y: float32[2, 3, 3] = Abs(%w)"""
DROPPED = "%y: float32[2, 3, 3] = Abs(%p)"
MASKED = """(%scores: float32[2, 3, 3]{inputs}) {{
  const %zero: float32[] = 0.0
  const %never: float32[] = {never}
  {mask}
  %masked: float32[2, 3, 3] = Where(%mask, %scores, %never)
  %p: float32[2, 3, 3] = Softmax(%masked) {{axis = {axis}}}
  {guard}
  return y = %y
}}"""
CHOICE = """%w: float32[2, 3, 3] = Where(%mask, %p, %zero)
  %y: float32[2, 3, 3] = Abs(%w)"""
REASON = "guard at an unnamed place: a row may be masked altogether, as far as can be told"


@pytest.mark.parametrize(
    "parts",
    [
        {"mask": TRIANGLE.replace("triangle", "mask"), "never": "-inf", "inputs": "", "bias": "3, 3"},
        {"mask": "", "never": "-3.4028235e38", "inputs": ", %mask: bool[2, 1, 3]", "bias": "2, 1, 3"},
    ],
    ids=["causal", "finite"],
)
def test_a_guard_of_rows_that_are_open_goes(becomes, parts: dict[str, str]) -> None:
    after = GUARDED.format(guard=DROPPED, **parts)
    result = becomes("drop-softmax-guards", GUARDED.format(guard=GUARD, **parts), after)
    assert result.counts == {"guard": 1}


@pytest.mark.parametrize(
    "parts",
    [
        {"mask": "", "never": "-inf", "inputs": ", %mask: bool[2, 1, 3]", "bias": "2, 1, 3"},
        {"mask": TRIANGLE.replace("triangle", "mask").replace("[true, f", "[false, f"), "never": "-inf", "inputs": "",
         "bias": "3, 3"},
        {"mask": f"{TRIANGLE} %mask: bool[2, 3, 3] = And(%triangle, %m)", "never": "-inf",
         "inputs": ", %m: bool[2, 1, 3]", "bias": "2, 3, 3"},
    ],
    ids=["an input", "a triangle without its diagonal", "an input and causal"],
)  # fmt: skip
def test_a_guard_of_rows_that_may_be_closed_stays(stays, parts: dict[str, str]) -> None:
    assert REASON in stays("drop-softmax-guards", GUARDED.format(guard=GUARD, **parts)).misses


def test_a_choice_by_the_mask_goes_as_well(becomes) -> None:
    parts = {"mask": TRIANGLE.replace("triangle", "mask"), "never": "-inf", "inputs": "", "axis": "-1"}
    before = MASKED.format(guard=CHOICE, **parts)
    after = MASKED.format(guard=DROPPED, **parts)
    assert becomes("drop-softmax-guards", before, after).counts == {"guard": 1}


@pytest.mark.parametrize(
    ("parts", "misses"),
    [
        ({"inputs": ", %mask: bool[2, 1, 3]", "mask": ""}, 1),
        ({"axis": "1", "mask": "const %mask: bool[3, 3] = [true, true, false, true, true, false, true, true, false]"},
         1),
        ({"never": "-100.0"}, 0),
        ({"guard": CHOICE.replace("%zero", "%never")}, 0),
    ],
    ids=["an input", "open along another axis", "what is masked isn't zero", "another value for what is masked"],
)  # fmt: skip
def test_a_choice_that_matters_stays(stays, parts: dict[str, str], misses: int) -> None:
    defaults = {
        "mask": TRIANGLE.replace("triangle", "mask"),
        "never": "-inf",
        "inputs": "",
        "axis": "-1",
        "guard": CHOICE,
    }
    assert len(stays("drop-softmax-guards", MASKED.format(**defaults | parts)).misses) == misses


def test_a_test_that_is_read_elsewhere_stays(becomes) -> None:
    parts = {"mask": TRIANGLE.replace("triangle", "mask"), "never": "-inf", "inputs": "", "bias": "3, 3"}
    returned = "return y = %y, z = %nan"
    after = GUARDED.format(guard=f"%nan: bool[2, 3, 3] = IsNaN(%p) {DROPPED}", **parts).replace(
        "return y = %y", returned
    )
    becomes("drop-softmax-guards", GUARDED.format(guard=GUARD, **parts).replace("return y = %y", returned), after)


def test_a_graph_inside_a_node_may_be_handed_infinities(graph_of, context) -> None:
    inner = """graph "body"(%i: int64[], %c: bool[], %scores: float32[2, 3]) {
        const %zero: float32[] = 0.0
        %go: bool[] = Identity(%c)
        %p: float32[2, 3] = Softmax(%scores) {axis = -1}
        %nan: bool[2, 3] = IsNaN(%p)
        %w: float32[2, 3] = Where(%nan, %zero, %p)
        return go = %go, w = %w
      }"""
    graph = graph_of(f"""(%count: int64[], %keep: bool[], %start: float32[2, 3]) {{
      %y: float32[2, 3] = Loop(%count, %keep, %start) {{body = {inner}}}
      return y = %y
    }}""")
    result = parse_pipeline("drop-softmax-guards")[0].apply(graph, context(graph))
    assert not result.changed
    assert result.misses == [REASON]


def test_fusion_drops_guards() -> None:
    assert "drop-softmax-guards" in [step.name for step in preset_passes("fuse")]
