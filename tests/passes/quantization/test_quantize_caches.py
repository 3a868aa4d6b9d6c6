"""Caches of keys and values on grids, and in integers at the model's inputs and outputs."""

from collections.abc import Mapping

import numpy as np
import pytest

import planish
from planish.ir.errors import ModelError, UsageError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift
from planish.ir.text import parse_graph, print_graph
from planish.ir.verify import verify
from planish.passes.base import PassContext, PassResult
from planish.passes.quantization.quantize_caches import CacheQuantization
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
TARGET = load_target("x86-64-avx512-vnni")
DECODER = """(%x: float32[1, new, 16], %past_k: float32[1, 2, past, 8], %past_v: float32[1, 2, past, 8]) {
  const %q: float32[16, 16]
  const %k: float32[16, 16]
  const %v: float32[16, 16]
  const %heads: int64[4] = [0, 0, 2, 8]
  const %flat: int64[3] = [0, 0, 16]
  %a: float32[1, new, 16] = MatMul(%x, %q) @ "attention.q"
  %b: float32[1, new, 16] = MatMul(%x, %k) @ "attention.k"
  %c: float32[1, new, 16] = MatMul(%x, %v) @ "attention.v"
  %d: float32[1, new, 2, 8] = Reshape(%a, %heads) @ "attention"
  %e: float32[1, new, 2, 8] = Reshape(%b, %heads) @ "attention"
  %f: float32[1, new, 2, 8] = Reshape(%c, %heads) @ "attention"
  %qs: float32[1, 2, new, 8] = Transpose(%d) {perm = [0, 2, 1, 3]} @ "attention"
  %ks: float32[1, 2, new, 8] = Transpose(%e) {perm = [0, 2, 1, 3]} @ "attention"
  %vs: float32[1, 2, new, 8] = Transpose(%f) {perm = [0, 2, 1, 3]} @ "attention"
  %keys: float32[1, 2, new + past, 8] = Concat(%past_k, %ks) {axis = -2} @ "attention"
  %values: float32[1, 2, new + past, 8] = Concat(%past_v, %vs) {axis = 2} @ "attention"
  %t: float32[1, 2, 8, new + past] = Transpose(%keys) {perm = [0, 1, 3, 2]} @ "attention"
  %s: float32[1, 2, new, new + past] = MatMul(%qs, %t) @ "attention"
  %w: float32[1, 2, new, new + past] = Softmax(%s) {axis = -1} @ "attention"
  %o: float32[1, 2, new, 8] = MatMul(%w, %values) @ "attention"
  %u: float32[1, new, 2, 8] = Transpose(%o) {perm = [0, 2, 1, 3]} @ "attention"
  %y: float32[1, new, 16] = Reshape(%u, %flat) @ "attention"
  return y = %y, k = %keys, v = %values
}"""
JOIN = """(%past: float32[1, 2, past], %new: float32[1, 2, new]) {
  const %axes: int64[1] = [2]
  %both: float32[1, 2, new + past] = Concat(%past, %new) {axis = 2} @ "cache"
  %y: float32[1, 2, new + past] = Neg(%both)
  return y = %y, cache = %both
}"""
JOINED = "float32[1, 2, new + past, 8]"
ATTENTION = f"""(%x: float32[1, 2, new, 8], %k: float32[1, 2, past, 8], %v: float32[1, 2, past, 8]) {{
  %y: float32[1, 2, new, 8], %a: {JOINED}, %b: {JOINED} = Attention(%x, %x, %x, none, %k, %v) @ "layer"
  return y = %y, a = %a, b = %b
}}"""
EMPTY = {"past_k": np.zeros((1, 2, 0, 8), np.float32), "past_v": np.zeros((1, 2, 0, 8), np.float32)}


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def decoder(keys: np.ndarray = np.ones((2, 8))) -> Graph:
    """A decoder whose keys, `[2, 8]`, are as large as given."""
    weights = {name: normal(16, 16) / 4 for name in "qkv"}
    weights["k"] *= keys.reshape(-1).astype(np.float32)
    return parse_graph(f'graph "main"{DECODER}', weights)


def texts(count: int = 4, tokens: int = 20) -> list[Mapping[str, np.ndarray]]:
    return [{"x": normal(1, tokens, 16), **EMPTY} for _ in range(count)]


def applied(graph: Graph, batches: list[Mapping[str, np.ndarray]], **options) -> PassResult:
    result = CacheQuantization(**options).apply(graph, PassContext(TARGET, graph.clone(), calibration=batches))
    verify(graph)
    return result


def test_what_is_joined_is_rounded_and_then_comes_in_as_integers(graph_of) -> None:
    """The grids hold all that was seen: -0.1 to 0.1 in one head, 0 to 4 in the other."""
    graph = graph_of(JOIN)
    seen = np.array([[[-0.1, 0.05, 0.1], [0, 1, 4]]], np.float32)
    batch = {"past": seen[..., :1], "new": seen[..., 1:]}
    assert applied(graph, [batch]).counts == {"caches": 1}
    step = np.float32(0.2 / 255), np.float32(4 / 255)
    grid = f"""const %scale: float32[2] = [{step[0]}, {step[1]}]
      const %zero_point: int8[2] = [0, -128]"""
    assert print_graph(graph) == print_graph(
        parse_graph(f"""graph "main"(%past: float32[1, 2, past], %new: float32[1, 2, new]) {{
      const %axes: int64[1] = [2]
      {grid}
      %concat: float32[1, 2, new + past] = Concat(%past, %new) {{axis = 2}} @ "cache"
      %codes: int8[1, 2, new + past] = QuantizeLinear(%concat, %scale, %zero_point) {{axis = 1}} @ "cache"
      %both: float32[1, 2, new + past] = DequantizeLinear(%codes, %scale, %zero_point) {{axis = 1}} @ "cache"
      %y: float32[1, 2, new + past] = Neg(%both)
      return y = %y, cache = %both
    }}""")
    )
    assert print_graph(planish.integer_caches(graph)) == print_graph(
        parse_graph(f"""graph "main"(%past: int8[1, 2, past], %new: float32[1, 2, new]) {{
      const %axes: int64[1] = [2]
      {grid}
      %quantizelinear: int8[1, 2, new] = QuantizeLinear(%new, %scale, %zero_point) {{axis = 1}} @ "cache"
      %codes: int8[1, 2, new + past] = Concat(%past, %quantizelinear) {{axis = 2}} @ "cache"
      %both: float32[1, 2, new + past] = DequantizeLinear(%codes, %scale, %zero_point) {{axis = 1}} @ "cache"
      %y: float32[1, 2, new + past] = Neg(%both)
      return y = %y, cache = %codes
    }}""")
    )


def test_grids_follow_heads_that_reach_far() -> None:
    graph = decoder(np.repeat([[0.1], [30]], 8, axis=1))
    assert applied(graph, texts()).counts == {"caches": 2}
    returned = graph.outputs["k"].producer
    assert returned is not None
    assert returned.operator == "DequantizeLinear"
    assert returned.attributes.get("axis") == 1


def test_one_grid_is_kept_where_others_lose_more(graph_of) -> None:
    """A head that reaches further in held-out data than before would be clipped by a grid of its own."""
    graph = graph_of(JOIN)
    sizes = [(0.1, 4), (0.1, 4), (0.1, 4), (4, 0.1)]
    batches = [
        {"past": np.zeros((1, 2, 0), np.float32), "new": normal(1, 2, 20) * np.float32([[s] for s in size])}
        for size in sizes
    ]
    assert applied(graph, batches).changed
    assert [constant.shape for name, constant in graph.constants.items() if name != "axes"] == [(), ()]


def test_a_text_that_is_told_word_by_word_is_the_same_in_integers() -> None:
    source = decoder(np.tile(np.geomspace(0.1, 30, 8), (2, 1)))
    graph = source.clone()
    applied(graph, texts())
    integers = planish.integer_caches(graph)
    verify(integers)
    words = normal(1, 12, 16)
    whole, rounded, stored = (Interpreter(it) for it in (source, graph, integers))
    caches = dict(EMPTY)
    codes = {name: array.astype(np.int8) for name, array in EMPTY.items()}
    for first, last in ((0, 5), (5, 6), (6, 12)):
        x = words[:, first:last]
        floats, ints = rounded.run({"x": x, **caches}), stored.run({"x": x, **codes})
        np.testing.assert_array_equal(floats["y"], ints["y"])
        caches = {f"past_{name}": np.asarray(floats[name]) for name in "kv"}
        codes = {f"past_{name}": np.asarray(ints[name]) for name in "kv"}
        assert all(array.dtype == np.int8 and array.shape == (1, 2, last, 8) for array in codes.values())
    first = whole.run({"x": words[:, :6], **EMPTY})
    wanted = whole.run({"x": words[:, 6:], "past_k": first["k"], "past_v": first["v"]})
    assert 0 < drift([{"y": wanted["y"]}], [{"y": floats["y"]}]) < 0.03


@pytest.mark.parametrize("backend", ["onnxruntime", "tvm"])
def test_both_backends_keep_the_integers(backend: str) -> None:
    graph = planish.optimize(decoder(), "quantize-caches", data=texts()).graph
    integers = planish.integer_caches(graph)
    executable, interpreter = planish.compile(integers, backend), Interpreter(integers)
    codes = {name: array.astype(np.int8) for name, array in EMPTY.items()}
    for tokens in (5, 1):
        feeds = {"x": normal(1, tokens, 16), **codes}
        y, k, v = executable(feeds)
        wanted = interpreter.run(feeds)
        assert drift([{"y": np.asarray(wanted["y"])}], [{"y": y}]) < 0.01
        codes = {"past_k": k, "past_v": v}
        for name, found in (("k", k), ("v", v)):
            assert found.dtype == np.int8
            assert np.abs(found.astype(int) - np.asarray(wanted[name]).astype(int)).max() <= 1


def test_what_is_read_elsewhere_stays_in_float(graph_of) -> None:
    mean = "%z: float32[1, 2, 1] = ReduceMean(%past, %axes) {keepdims = 1}"
    text = JOIN.replace("%y:", f"{mean}\n  %y:").replace("Neg(%both)", "Add(%both, %z)")
    graph = graph_of(text)
    before = print_graph(graph)
    result = applied(graph, [{"past": normal(1, 2, 3), "new": normal(1, 2, 2)}])
    assert not result.changed
    assert result.misses == ["the cache past stays in float: ReduceMean at an unnamed place reads it by itself"]
    assert print_graph(graph) == before
    with pytest.raises(UsageError, match="no caches in integers: round them with `quantize-caches`"):
        planish.integer_caches(graph)


def test_sizes_may_be_read_of_a_cache(graph_of) -> None:
    text = JOIN.replace("return", "%size: int64[3] = Shape(%past)\n  return size = %size,")
    graph = graph_of(text)
    assert applied(graph, [{"past": normal(1, 2, 3), "new": normal(1, 2, 2)}]).counts == {"caches": 1}
    integers = planish.integer_caches(graph)
    found = Interpreter(integers).run({"past": np.zeros((1, 2, 3), np.int8), "new": normal(1, 2, 2)})
    np.testing.assert_array_equal(found["size"], [1, 2, 3])


@pytest.mark.parametrize(
    "batch",
    [
        {"past": np.zeros((1, 2, 0), np.float32), "new": np.zeros((1, 2, 0), np.float32)},
        {"past": np.zeros((1, 2, 0), np.float32), "new": np.full((1, 2, 2), np.nan, np.float32)},
        {"past": np.zeros((1, 2, 0), np.float32), "new": np.full((1, 2, 2), np.inf, np.float32)},
    ],
)
def test_data_that_say_nothing_leave_a_cache_in_float(graph_of, batch: dict[str, np.ndarray]) -> None:
    graph = graph_of(JOIN)
    result = applied(graph, [batch, batch])
    assert not result.changed
    assert result.misses == [
        "the cache past stays in float: calibration data hold no tokens of it, or numbers that aren't finite"
    ]


@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e38])
def test_odd_numbers_are_held(graph_of, scale: float) -> None:
    graph = graph_of(JOIN)
    source = graph.clone()
    batch = {"past": (normal(1, 2, 3) * scale).astype(np.float32), "new": (normal(1, 2, 2) * scale).astype(np.float32)}
    assert applied(graph, [batch]).changed
    wanted, found = (np.asarray(Interpreter(it).run(batch)["y"]) for it in (source, graph))
    assert np.abs(found - wanted).max() <= np.abs(wanted).max() / 100 + 1e-38


def test_a_model_without_caches_is_an_error() -> None:
    source = parse_graph('graph "main"(%x: float32[n, 2]) {\n  %y: float32[n, 2] = Neg(%x)\n  return y = %y\n}')
    with pytest.raises(UsageError, match="no input is joined to what the model computes, and returned with it"):
        planish.optimize(source, "quantize-caches", data=[{"x": normal(2, 2)}])
    with pytest.raises(UsageError, match="quantize-caches needs to know what layers read and got no inputs"):
        planish.optimize(decoder(), "quantize-caches")


def test_caches_inside_attention_stay_in_float(graph_of) -> None:
    graph = graph_of(ATTENTION)
    batch = {"x": normal(1, 2, 3, 8), "k": normal(1, 2, 4, 8), "v": normal(1, 2, 4, 8)}
    result = applied(graph, [batch])
    assert not result.changed
    assert result.misses == ["layer: Attention joins its caches by itself, where they can't be rounded"]


def test_data_without_any_token_are_refused() -> None:
    with pytest.raises(ModelError, match="has no elements"):
        planish.optimize(decoder(), "quantize-caches", data=texts(tokens=0))
