"""Rotary embeddings are recognised where both halves turn by the same angles; heads are taken apart after them."""

import numpy as np
import pytest

X = "float32[2, 3, 5, 4]"
SLICED = f"""const %zero: int64[1] = [0]
  const %half: int64[1] = [2]
  const %end: int64[1] = [9223372036854775807]
  const %axes: int64[1] = [3]
  %l: float32[2, 3, 5, 2] = Slice(%x, %zero, %half, %axes)
  %r: float32[2, 3, 5, 2] = Slice(%x, %half, %end, %axes)
  %n: float32[2, 3, 5, 2] = Neg(%r)
  %h: {X} = Concat(%n, %l) {{axis = -1}}"""
SPLIT = f"""const %sizes: int64[2] = [2, 2]
  %l: float32[2, 3, 5, 2], %r: float32[2, 3, 5, 2] = Split(%x, %sizes) {{axis = 3}}
  %n: float32[2, 3, 5, 2] = Neg(%r)
  %h: {X} = Concat(%n, %l) {{axis = 3}}"""
ANGLES = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
TURNED = f"""%a: {X} = Mul(%x, %cos)
  %b: {X} = Mul(%h, %sin)
  %y: {X} = Add(%a, %b)"""


def both(angles: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([angles, angles], -1).reshape(shape)


def constants(shape: tuple[int, ...]) -> tuple[str, dict[str, np.ndarray]]:
    dims = f"float32[{', '.join(map(str, shape))}]"
    weights = {"cos": both(np.cos(ANGLES), shape), "sin": both(np.sin(ANGLES), shape)}
    return f"const %cos: {dims}\nconst %sin: {dims}", weights


def turned(graph_of, context, feeds_of, text: str, weights: dict[str, np.ndarray] | None = None) -> list[str]:
    """The operators of what becomes of a graph, if it computes the same."""
    from planish.ir.interpreter import Interpreter
    from planish.ir.verify import verify
    from planish.passes.fusion.fuse_rotary import RotaryFusion

    graph = graph_of(text, weights)
    source = graph.clone()
    RotaryFusion().apply(graph, context(source))
    verify(graph)
    assert not RotaryFusion().apply(graph, context(source)).changed
    feeds = feeds_of(source)
    wanted, got = Interpreter(source).run(feeds), Interpreter(graph).run(feeds)
    np.testing.assert_allclose(got["y"], wanted["y"], rtol=1e-5, atol=1e-6)
    return [node.operator for node in graph.nodes]


@pytest.mark.parametrize("halves", [SLICED, SPLIT], ids=["sliced", "split"])
@pytest.mark.parametrize("shape", [(1, 1, 5, 4), (5, 4), (1, 5, 4)], ids=str)
def test_constant_angles(graph_of, context, feeds_of, halves: str, shape: tuple[int, ...]) -> None:
    held, weights = constants(shape)
    operators = turned(
        graph_of, context, feeds_of, f"(%x: {X}) {{\n{held}\n{halves}\n{TURNED}\nreturn y = %y\n}}", weights
    )
    assert operators[-1] == "RotaryEmbedding"
    assert "Concat" not in operators


def test_angles_of_positions(graph_of, context, feeds_of) -> None:
    text = f"""(%x: {X}, %f: float32[2, 5, 2]) {{
      const %one: int64[1] = [1]
      const %factor: float32[] = 1.5
      %angles: float32[2, 5, 4] = Concat(%f, %f) {{axis = -1}}
      %c: float32[2, 5, 4] = Cos(%angles)
      %m: float32[2, 5, 4] = Mul(%c, %factor)
      %cos: float32[2, 1, 5, 4] = Unsqueeze(%m, %one)
      %s: float32[2, 5, 4] = Sin(%angles)
      %sin: float32[2, 1, 5, 4] = Unsqueeze(%s, %one)
      {SLICED}
      {TURNED}
      return y = %y
    }}"""
    assert turned(graph_of, context, feeds_of, text).count("RotaryEmbedding") == 1


def test_a_batch_of_any_size(graph_of, context, feeds_of) -> None:
    held, weights = constants((1, 1, 5, 4))
    text = f"(%x: {X}) {{\n{held}\n{SLICED}\n{TURNED}\nreturn y = %y\n}}".replace("[2, 3, 5", "[batch, 3, 5")
    assert "RotaryEmbedding" in turned(graph_of, context, feeds_of, text, weights)


INTERLEAVED = f"""const %zero: int64[1] = [0]
  const %one: int64[1] = [1]
  const %end: int64[1] = [4]
  const %axes: int64[1] = [3]
  const %steps: int64[1] = [2]
  %l: float32[2, 3, 5, 2] = Slice(%x, %zero, %end, %axes, %steps)
  %r: float32[2, 3, 5, 2] = Slice(%x, %one, %end, %axes, %steps)
  %n: float32[2, 3, 5, 2] = Neg(%r)
  %h: {X} = Concat(%n, %l) {{axis = -1}}"""


def looks_like_it(held: str, halves: str) -> str:
    return f"(%x: {X}) {{\n{held}\n{halves}\n{TURNED}\nreturn y = %y\n}}"


def test_other_halves_stay(stays) -> None:
    held, weights = constants((1, 1, 5, 4))
    assert not stays(
        "fuse-rotary", looks_like_it(held, SLICED.replace("Concat(%n, %l)", "Concat(%l, %n)")), weights
    ).misses
    (miss,) = stays("fuse-rotary", looks_like_it(held, INTERLEAVED), weights).misses
    assert "aren't the halves" in miss


@pytest.mark.parametrize(
    ("shape", "shift", "reason"),
    [((1, 3, 5, 4), 0.0, "alike for all heads"), ((1, 1, 5, 4), 1.0, "both halves aren't known to be the same")],
)
def test_other_angles_stay(stays, shape: tuple[int, ...], shift: float, reason: str) -> None:
    held, weights = constants((1, 1, 5, 4))
    held = held.replace("float32[1, 1, 5, 4]", f"float32[{', '.join(map(str, shape))}]", 1)
    cosines = np.broadcast_to(weights["cos"], shape) + np.arange(4, dtype=np.float32) * np.float32(shift)
    (miss,) = stays("fuse-rotary", looks_like_it(held, SLICED), {**weights, "cos": cosines}).misses
    assert reason in miss


def test_heads_are_taken_apart_after_it(becomes) -> None:
    before = """(%x: float32[2, 5, 8], %c: float32[2, 5, 2], %s: float32[2, 5, 2]) {
      const %heads: int64[4] = [2, 5, 2, 4]
      %r: float32[2, 5, 2, 4] = Reshape(%x, %heads)
      %t: float32[2, 2, 5, 4] = Transpose(%r) {perm = [0, 2, 1, 3]}
      %y: float32[2, 2, 5, 4] = RotaryEmbedding(%t, %c, %s)
      return y = %y
    }"""
    after = """(%x: float32[2, 5, 8], %c: float32[2, 5, 2], %s: float32[2, 5, 2]) {
      const %heads: int64[4] = [2, 5, 2, 4]
      %rotaryembedding: float32[2, 5, 8] = RotaryEmbedding(%x, %c, %s) {num_heads = 2}
      %reshape: float32[2, 5, 2, 4] = Reshape(%rotaryembedding, %heads)
      %transpose: float32[2, 2, 5, 4] = Transpose(%reshape) {perm = [0, 2, 1, 3]}
      return y = %transpose
    }"""
    assert becomes("fuse-rotary", before, after).counts == {"rotary-heads": 1}
