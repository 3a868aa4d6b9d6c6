"""Attention is recognised with its scales and masks, wherever exporters put them; what only looks like it stays."""

import numpy as np
import pytest

HEADS = "float32[2, 3, 4, 8]"
SCORES = "float32[2, 3, 4, 5]"
CONSTANTS = {
    "root": "float32[] = 0.5946035575013605",
    "scale": "float32[] = 0.35355339059327373",
    "other": "float32[] = 0.25",
    "divisor": "float32[] = 2.8284271247461903",
    "zero": "float32[] = 0.0",
    "never": "float32[] = -inf",
    "lowest": "float32[] = -3.4028234663852886e38",
    "low": "float32[] = -10000.0",
    "ahead": (
        "bool[4, 5] = [true, false, true, true, true, true, true, true, true, true, "
        "false, false, false, false, true, true, true, true, true, true]"
    ),
    "none": (
        "bool[4, 5] = [true, false, true, true, true, false, false, false, false, false, true, true, true, true, "
        "true, true, true, true, true, true]"
    ),
}


def graph(lines: str, *, keys: str = "%k", more: str = "") -> str:
    """Products with lines between them that make `%w` of `%s`; a bias and masks are inputs, `CONSTANTS` constants."""
    body = f"""%t: float32[2, 3, 8, 5] = Transpose({keys}) {{perm = [0, 1, 3, 2]}}
      {lines}
      %y: {HEADS} = MatMul(%w, %v)"""
    named = "".join(f"const %{name}: {text}\n" for name, text in CONSTANTS.items() if f"%{name}" in body)
    masks = {"b": "float32[3, 4, 5]", "m": "float32[2, 1, 1, 5]", "seen": "bool[2, 1, 4, 5]"}
    given = "".join(f", %{name}: {type}" for name, type in masks.items() if f"%{name})" in body or f"%{name}," in body)
    return (
        f"(%q: {HEADS}, %k: float32[2, 3, 5, 8], %v: float32[2, 3, 5, 8]{given}{more}) {{\n{named}{body}\n"
        f"return y = %y\n}}"
    )


def fused(graph_of, context, feeds_of, text: str) -> dict[str, object] | None:
    """The operators of what becomes of a graph, with Attention's attributes, if it computes the same."""
    from planish.ir.interpreter import Interpreter
    from planish.ir.verify import verify
    from planish.passes.fusion.fuse_attention import AttentionFusion

    read = graph_of(text)
    source = read.clone()
    result = AttentionFusion().apply(read, context(source))
    verify(read)
    if not result.changed:
        return None
    assert not AttentionFusion().apply(read, context(source)).changed
    feeds = feeds_of(source)
    wanted, got = Interpreter(source).run(feeds), Interpreter(read).run(feeds)
    np.testing.assert_allclose(got["y"], wanted["y"], rtol=1e-4, atol=1e-5)
    (node,) = [node for node in read.nodes if node.operator == "Attention"]
    return {"inputs": len(node.inputs), **node.attributes}


PLAIN = f"%s: {SCORES} = MatMul(%q, %t)"
SOFTMAX = f"%w: {SCORES} = Softmax(%n) {{axis = -1}}"


def scaled(name: str = "scale") -> str:
    return f"{PLAIN}\n%a: {SCORES} = Mul(%s, %{name})\n"


@pytest.mark.parametrize(
    ("lines", "attributes"),
    [
        (f"{scaled()} %w: {SCORES} = Softmax(%a) {{axis = 3}}", {}),
        (f"{scaled('other')} %w: {SCORES} = Softmax(%a) {{axis = -1}}", {"scale": 0.25}),
        (f"{PLAIN}\n%a: {SCORES} = Div(%s, %divisor)\n%w: {SCORES} = Softmax(%a) {{axis = -1}}", {}),
        (f"{PLAIN}\n%w: {SCORES} = Softmax(%s) {{axis = -1}}", {"scale": 1.0}),
        (
            f"""%i: {HEADS} = Mul(%q, %root)
            %j: float32[2, 3, 8, 5] = Mul(%root, %t)
            %s: {SCORES} = MatMul(%i, %j)
            %w: {SCORES} = Softmax(%s) {{axis = -1}}""",
            {},
        ),
    ],
    ids=["scores", "another", "divisor", "unscaled", "both sides"],
)
def test_a_scale_stands_anywhere(graph_of, context, feeds_of, lines: str, attributes: dict[str, object]) -> None:
    assert fused(graph_of, context, feeds_of, graph(lines)) == {"inputs": 3, **attributes}


@pytest.mark.parametrize(
    ("masked", "guard"),
    [
        (f"%n: {SCORES} = Add(%a, %m)", ""),
        (f"%n: {SCORES} = Add(%m, %a)", "nan"),
        (f"%c: {SCORES} = Add(%a, %b)\n%n: {SCORES} = Add(%c, %m)", ""),
        (f"%n: {SCORES} = Where(%seen, %a, %lowest)", ""),
        (f"%n: {SCORES} = Where(%seen, %lowest, %a)", ""),
        (f"%n: {SCORES} = Where(%seen, %a, %never)", "nan"),
        (f"%n: {SCORES} = Where(%seen, %a, %never)", "seen"),
        (f"%n: {SCORES} = Where(%seen, %never, %a)", "closed"),
        (f"%n: {SCORES} = Where(%ahead, %a, %never)", ""),
        (f"%c: {SCORES} = Add(%a, %b)\n%n: {SCORES} = Where(%seen, %c, %lowest)", ""),
        (f"%c: {SCORES} = Where(%seen, %a, %never)\n%n: {SCORES} = Add(%c, %m)", "nan"),
    ],
)
def test_masks_are_added_or_choose(graph_of, context, feeds_of, masked: str, guard: str) -> None:
    guards = {
        "": f"%w: {SCORES} = Softmax(%n) {{axis = -1}}",
        "nan": (
            f"%p: {SCORES} = Softmax(%n) {{axis = -1}}\n%e: bool[2, 3, 4, 5] = IsNaN(%p)\n"
            f"%w: {SCORES} = Where(%e, %zero, %p)"
        ),
        "seen": f"%p: {SCORES} = Softmax(%n) {{axis = -1}}\n%w: {SCORES} = Where(%seen, %p, %zero)",
        "closed": f"%p: {SCORES} = Softmax(%n) {{axis = -1}}\n%w: {SCORES} = Where(%seen, %zero, %p)",
    }
    text = graph(f"{scaled()}{masked}\n{guards[guard]}")
    assert fused(graph_of, context, feeds_of, text) == {"inputs": 4}


def test_a_softmax_of_higher_precision(graph_of, context, feeds_of) -> None:
    lines = f"""%s: {SCORES} = MatMul(%q, %t)
      %wide: float64[2, 3, 4, 5] = Cast(%s) {{to = 11}}
      %p: float64[2, 3, 4, 5] = Softmax(%wide) {{axis = -1}}
      %w: {SCORES} = Cast(%p) {{to = 1}}"""
    assert fused(graph_of, context, feeds_of, graph(lines)) == {"inputs": 3, "scale": 1.0, "softmax_precision": 11}


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (f"{PLAIN}\n%w: {SCORES} = Softmax(%s) {{axis = -2}}", "isn't along the keys"),
        (f"{scaled()}%n: {SCORES} = Where(%seen, %a, %never)\n{SOFTMAX}", "a row may be masked altogether"),
        (f"{scaled()}%n: {SCORES} = Where(%none, %a, %never)\n{SOFTMAX}", "a row may be masked altogether"),
        (f"{scaled()}%n: {SCORES} = Where(%seen, %a, %low)\n{SOFTMAX}", "aren't the lowest number"),
        (
            f"{PLAIN}\n%n: {SCORES} = Softmax(%s) {{axis = -1}}\n%w: {SCORES} = Where(%seen, %n, %zero)",
            "applied to the weights after the softmax",
        ),
        (f"{PLAIN}\n%n: {SCORES} = Add(%s, %row)\n{SOFTMAX}", "fewer than two axes"),
        (f"{PLAIN}\n%n: {SCORES} = Mul(%s, %m)\n{SOFTMAX}", ""),
    ],
)
def test_what_only_looks_like_attention_stays(stays, lines: str, reason: str) -> None:
    text = graph(lines, more=", %row: float32[5]" if "%row" in lines else "")
    misses = stays("fuse-attention", text).misses
    assert any(reason in miss for miss in misses) if reason else not misses


CAUSAL = "[true, false, false, true, true, false, true, true, true]"


@pytest.mark.parametrize(
    ("mask", "after"),
    [
        ("bool[3, 3] = [true, true, true, true, true, true, true, true, true]", "Attention(%q, %k, %v)"),
        ("float32[1, 3] = [0.0, 0.0, 0.0]", "Attention(%q, %k, %v)"),
        ("bfloat16[1, 3] = [0.0, 0.0, 0.0]", "Attention(%q, %k, %v)"),
        (f"bool[3, 3] = {CAUSAL}", "Attention(%q, %k, %v) {is_causal = 1}"),
        (f"bool[1, 1, 3, 3] = {CAUSAL}", "Attention(%q, %k, %v) {is_causal = 1}"),
        (
            "float32[3, 3] = [0.0, -inf, -3.4028234663852886e38, 0.0, 0.0, -inf, 0.0, 0.0, 0.0]",
            "Attention(%q, %k, %v) {is_causal = 1}",
        ),
    ],
)
def test_constant_masks_that_attention_knows_by_name(becomes, mask: str, after: str) -> None:
    head = "float32[1, 2, 3, 4]"
    text = f"(%q: {head}, %k: {head}, %v: {head}) {{{{\n{{}}: {head} = {{}}\nreturn y = {{}}\n}}}}"
    before = text.format(f"const %mask: {mask}\n%y", "Attention(%q, %k, %v, %mask)", "%y")
    becomes("fuse-attention", before, text.format("%attention", after, "%attention"))


@pytest.mark.parametrize(
    "mask",
    [
        "bool[3, 3] = [true, true, false, true, true, false, true, true, true]",
        "float32[3, 3] = [0.0, -inf, -inf, 0.0, 0.0, -inf, 0.5, 0.0, 0.0]",
        "float32[3, 3] = [0.0, -inf, -10.0, 0.0, 0.0, -inf, 0.0, 0.0, 0.0]",
    ],
)
def test_other_constant_masks_stay(stays, mask: str) -> None:
    head = "float32[1, 2, 3, 4]"
    body = f"const %mask: {mask}\n%y: {head} = Attention(%q, %k, %v, %mask)\nreturn y = %y"
    stays("fuse-attention", f"(%q: {head}, %k: {head}, %v: {head}) {{\n{body}\n}}")


SHARED = """(%q: float32[2, 6, 4, 8], %k: float32[2, 2, 5, 8], %v: float32[2, 2, 5, 8]) {{
  const %one: int64[1] = [2]
  const %sizes: int64[5] = [1, 1, 3, 1, 1]
  const %all: int64[4] = [2, 6, 5, 8]
  const %heads: int64[6] = {indices}
  %ku: float32[2, 2, 1, 5, 8] = Unsqueeze(%k, %one)
  %ke: float32[2, 2, 3, 5, 8] = Expand(%ku, %sizes)
  %kr: float32[2, 6, 5, 8] = Reshape(%ke, %all)
  %vr: float32[2, 6, 5, 8] = Gather(%v, %heads) {{axis = -3}}
  %y: float32[2, 6, 4, 8] = Attention(%q, %kr, %vr)
  return y = %y
}}"""


def test_heads_that_queries_share_are_not_repeated(becomes) -> None:
    after = """(%q: float32[2, 6, 4, 8], %k: float32[2, 2, 5, 8], %v: float32[2, 2, 5, 8]) {
      %attention: float32[2, 6, 4, 8] = Attention(%q, %k, %v)
      return y = %attention
    }"""
    assert becomes("fuse-attention", SHARED.format(indices="[0, 0, 0, 1, 1, 1]"), after).counts == {"grouped-heads": 1}


def test_heads_in_another_order_stay(stays) -> None:
    stays("fuse-attention", SHARED.format(indices="[0, 1, 0, 1, 0, 1]"))


@pytest.mark.parametrize(("count", "missing"), [("6", 0), ("batch", 1)])
def test_without_an_axis_of_the_batch_or_of_heads(becomes, count: str, missing: int) -> None:
    """Torch's MultiheadAttention has the heads of a whole batch side by side; one head may have no axis at all."""
    parts, sums = (f"float32[{count}, {sizes}]" for sizes in ("5, 8", "5, 5"))
    inputs = f"(%q: {parts}, %k: {parts}, %v: {parts}, %m: {sums})"
    before = f"""{inputs} {{
      const %scale: float32[] = 0.25
      %t: float32[{count}, 8, 5] = Transpose(%k) {{perm = [0, 2, 1]}}
      %s: {sums} = MatMul(%q, %t)
      %c: {sums} = Mul(%s, %scale)
      %b: {sums} = Add(%c, %m)
      %w: {sums} = Softmax(%b) {{axis = -1}}
      %y: {parts} = MatMul(%w, %v)
      return y = %y
    }}"""
    full = f"1, {count}" if missing == 0 else f"{count}, 1"
    names = ("unsqueeze", "unsqueeze_1", "unsqueeze_2", "unsqueeze_3")
    constants = ("constant", "constant_1", "constant_2", "constant_3", "constant_4")
    lifted = "".join(
        f"%{name}: float32[{full}, 5, {5 if given == 'm' else 8}] = Unsqueeze(%{given}, %{constant})\n"
        for name, given, constant in zip(names, "qkvm", constants, strict=False)
    )
    after = f"""{inputs} {{
      {"".join(f"const %{constant}: int64[1] = [{missing}]{chr(10)}" for constant in constants)}
      {lifted}
      %attention: float32[{full}, 5, 8] = Attention({", ".join(f"%{name}" for name in names)}) {{scale = 0.25}}
      %squeeze: {parts} = Squeeze(%attention, %constant_4)
      return y = %squeeze
    }}"""
    assert becomes("fuse-attention", before, after).counts["attention"] == 1
