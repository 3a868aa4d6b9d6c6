"""Weights that are set to zero in patterns: by size, by what they are multiplied by, and with the others making up."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import planish
from planish.ir.errors import UsageError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift
from planish.ir.verify import verify
from planish.passes.base import PassContext, PassResult
from planish.passes.pipeline import parse_pipeline
from planish.passes.sparsity.patterns import Pattern
from planish.passes.sparsity.sparsegpt import sparsegpt
from planish.passes.sparsity.sparsify import Sparsification
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
TARGET = load_target("x86-64-avx512-vnni")
LAYERS = """(%x: float32[rows, 40]) {
  const %w: float32[40, 48]
  const %v: float32[32, 48]
  const %b: float32[32]
  %a: float32[rows, 48] = MatMul(%x, %w) @ "first"
  %c: float32[rows, 48] = Relu(%a) @ "first"
  %y: float32[rows, 32] = Gemm(%c, %v, %b) {transB = 1} @ "second"
  return y = %y
}"""
IMAGES = """(%x: float32[batch, 16, 6, 5]) {
  const %w: float32[32, 16, 3, 3]
  const %d: float32[32, 1, 3, 3]
  const %v: float32[16, 32, 1, 1]
  %a: float32[batch, 32, 3, 3] = Conv(%x, %w) {kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]} @ "wide"
  %c: float32[batch, 32, 3, 3] = Conv(%a, %d) {group = 32, kernel_shape = [3, 3], pads = [1, 1, 1, 1]} @ "depthwise"
  %r: float32[batch, 32, 3, 3] = Relu(%c)
  %y: float32[batch, 16, 3, 3] = Conv(%r, %v) {kernel_shape = [1, 1]} @ "point"
  return y = %y
}"""
MIXING = RNG.standard_normal((6, 96)).astype(np.float32)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def correlated(rows: int, k: int) -> np.ndarray:
    """Inputs of a few directions and some noise, as activations of networks are, with channels of unequal size."""
    return (normal(rows, 6) @ MIXING[:, :k] + 0.3 * normal(rows, k)) * np.geomspace(0.1, 3, k, dtype=np.float32)


@pytest.fixture
def layers(graph_of) -> Graph:
    return graph_of(LAYERS, {"w": normal(40, 48), "v": normal(32, 48), "b": normal(32)})


@pytest.fixture
def images(graph_of) -> Graph:
    return graph_of(IMAGES, {"w": normal(32, 16, 3, 3) / 9, "d": normal(32, 1, 3, 3), "v": normal(16, 32, 1, 1)})


def batches(count: int = 8) -> list[Mapping[str, np.ndarray]]:
    return [{"x": correlated(64, 40)} for _ in range(count)]


def applied(pipeline: str, graph: Graph, calibration: list[Mapping[str, np.ndarray]]) -> list[PassResult]:
    context = PassContext(TARGET, graph.clone(), calibration=calibration)
    results = [step.apply(graph, context) for step in parse_pipeline(pipeline)]
    verify(graph)
    return results


def weights_of(graph: Graph) -> dict[str, np.ndarray]:
    """The matrices `[K, N]` of MatMul, Gemm and Conv, by layer."""
    found = {}
    for node in graph.nodes:
        if node.operator in ("MatMul", "Gemm", "Conv"):
            data = node.constant(1)
            assert data is not None
            found[str(node.location)] = data if node.operator == "MatMul" else data.reshape(len(data), -1).T
    return found


def zeros(weight: np.ndarray, rows: int = 1, columns: int = 1) -> float:
    """The share of whole blocks that are zero."""
    k, n = weight.shape
    blocks = np.pad(weight, ((0, -k % rows), (0, -n % columns)))
    return float((blocks.reshape(-(-k // rows), rows, -1, columns) == 0).all((1, 3)).mean())


def moments_of(x: np.ndarray) -> np.ndarray:
    return x.T @ x / len(x)


PATTERNS = st.sampled_from(["unstructured", "4x16", "1x4", "4x1", "16x1", "2:4", "1:3"])


@settings(deadline=None, max_examples=40)
@given(k=st.integers(1, 200), n=st.integers(1, 40), sparsity=st.floats(0, 0.99), text=PATTERNS, rows=st.integers(0, 40))
def test_the_pattern_holds_whatever_the_sizes(k: int, n: int, sparsity: float, text: str, rows: int) -> None:
    """Fewer rows than channels, or none, make moments that have no inverse; blocks at the edges are smaller."""
    pattern, weight = Pattern.of(text), normal(k, n)
    moments = moments_of(correlated(rows, 96)[:, np.arange(k) % 96]) if rows else np.zeros((k, k), np.float32)
    made = sparsegpt(weight, pattern, sparsity, moments.astype(np.float32), 0.01)
    assert np.isfinite(made).all()
    for found in (made, np.where(pattern.keeps(np.square(weight), sparsity), weight, 0)):
        if pattern.group:
            groups = np.pad(found, ((0, -k % pattern.group), (0, 0))).reshape(-1, pattern.group, n)
            assert ((groups != 0).sum(1) <= pattern.kept).all()
        else:
            count = -(-k // pattern.rows) * -(-n // pattern.columns)
            slabs = -(-k // (128 // pattern.rows * pattern.rows))
            assert zeros(found, pattern.rows, pattern.columns) >= sparsity - (0.5 * slabs + 1e-6) / count


@pytest.mark.parametrize(("text", "sparsity"), [("unstructured", 0.5), ("2:4", 0.5), ("4x16", 0.5), ("4x1", 0.6)])
def test_outputs_are_closer_than_the_smallest_weights_leave_them(text: str, sparsity: float) -> None:
    pattern, weight, fit, other = Pattern.of(text), normal(96, 32), correlated(500, 96), correlated(200, 96)
    smallest = np.where(pattern.keeps(np.square(weight), sparsity), weight, 0)
    moved = [sparsegpt(weight, pattern, sparsity, moments_of(fit), 0.01) - weight, smallest - weight]
    errors = [np.square(other @ difference).sum() for difference in moved]
    assert errors[0] < 0.5 * errors[1]


def test_a_text_is_a_pattern_or_refused() -> None:
    assert Pattern.of("4x16") == Pattern(4, 16)
    assert Pattern.of("2:4").sparsity == 0.5
    for text in ("", "4", "0x4", "4:4", "4x", "x", "blocks"):
        with pytest.raises(UsageError, match="pattern of pass sparsify"):
            Pattern.of(text)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize(("pattern", "block"), [("4x16", (4, 16)), ("unstructured", (1, 1))])
def test_layers_lose_what_was_asked_for(layers: Graph, method: str, pattern: str, block: tuple[int, int]) -> None:
    text = f"sparsify{{sparsity=0.75,pattern={pattern},method={method}}}"
    source, (result,) = layers.clone(), applied(text, layers, batches())
    assert result.counts == {"sparsify": 2}
    for weight in weights_of(layers).values():
        assert zeros(weight, *block) == pytest.approx(0.75, abs=0.03)
    held_out = {"x": correlated(200, 40)}
    assert 0 < drift([Interpreter(source).run(held_out)], [Interpreter(layers).run(held_out)]) < 1


def test_methods_are_kept_where_they_do_better(layers: Graph) -> None:
    """On inputs of a few directions, that is everywhere; on ones that say nothing, nowhere."""
    text = "sparsify{sparsity=0.5,method=sparsegpt}"
    assert not applied(text, layers.clone(), batches())[0].misses
    source, (result,) = layers.clone(), applied(text, layers, [{"x": np.zeros((8, 40), np.float32)}] * 4)
    assert "magnitude does better" in result.misses[0]
    first, before = weights_of(layers)["first"], weights_of(source)["first"]
    np.testing.assert_array_equal(first[first != 0], before[first != 0])


def test_without_options_the_outputs_stay_within_bounds(layers: Graph) -> None:
    """Weights of which most do nothing go; random ones stay, which is told."""
    (result,) = applied("sparsify", random := layers.clone(), batches())
    assert not result.changed
    assert "don't keep the outputs within 1 %" in result.misses[0]
    assert zeros(weights_of(random)["first"]) == 0
    for constant in layers.constants.values():
        if constant.data.ndim == 2:
            constant.data[:, : 36 if constant.name == "w" else 40] *= 1e-3
    for weight in weights_of(layers).values():
        assert zeros(weight) == 0
    (result,) = applied("sparsify{pattern=16x1}", layers, batches())
    assert result.counts == {"sparsify": 2}
    assert min(zeros(weight) for weight in weights_of(layers).values()) >= 0.5


def test_what_no_share_of_zeros_keeps_is_told_before_what_stays_dense(images: Graph) -> None:
    (result,) = applied("sparsify", images, [{"x": normal(16, 16, 6, 5)} for _ in range(4)])
    assert not result.changed
    assert "don't keep the outputs within 1 %" in result.misses[0]
    assert any("several taps" in miss for miss in result.misses[1:])


def test_convolutions_are_seen_as_products_of_windows(images: Graph) -> None:
    directions = normal(3, 16)
    data = [
        {"x": np.einsum("bdhw,dc->bchw", normal(16, 3, 6, 5), directions) + normal(16, 16, 6, 5) / 9} for _ in range(4)
    ]
    source, blocks = images.clone(), images.clone()
    (result,) = applied("sparsify{sparsity=0.5,pattern=unstructured}", images, data)
    assert result.counts == {"sparsify": 2}
    assert any("depthwise" in miss and "few channels" in miss for miss in result.misses)
    assert zeros(weights_of(images)["wide"]) == pytest.approx(0.5, abs=0.01)
    (result,) = applied("sparsify{sparsity=0.5}", blocks, data)
    assert result.counts == {"sparsify": 1}
    assert any("several taps" in miss for miss in result.misses)
    x = data[0]["x"]
    rows = functional.unfold(torch.from_numpy(x), 3, padding=1, stride=2).movedim(1, 2).reshape(-1, 144).numpy()
    before, after = (rows @ weights_of(graph)["wide"] for graph in (source, images))
    smallest = np.where(np.abs(w := weights_of(source)["wide"]) > np.median(np.abs(w)), w, 0)
    assert np.square(after - before).sum() < np.square(rows @ smallest - before).sum()


@pytest.mark.parametrize(
    "step", ["quantize", "quantize{weight_bits=4}", "gptq{block=16}", "quantize{scheme=int8-dynamic}"]
)
def test_what_is_zero_stays_zero_when_it_is_rounded(layers: Graph, step: str) -> None:
    applied("sparsify{sparsity=0.75}", layers, batches())
    before = {name: weight == 0 for name, weight in weights_of(layers).items()}
    applied(step, layers, batches())
    held = [constant.data for constant in layers.constants.values() if constant.data.ndim == 2]
    held += [planish.ir.block_weight.BlockWeight.of(node).floats for node in layers.nodes if "NBits" in node.operator]
    for is_zero in before.values():
        alike = [it for it in held if it.shape in (is_zero.shape, is_zero.T.shape)]
        assert any((it[is_zero if it.shape == is_zero.shape else is_zero.T] == 0).all() for it in alike)


def test_what_is_missing_is_told(layers: Graph) -> None:
    for pipeline in ("sparsify", "sparsify{sparsity=0.5,method=wanda}"):
        with pytest.raises(UsageError, match="calibration"):
            applied(pipeline, layers, [])
    with pytest.raises(UsageError, match="fixes the sparsity"):
        applied("sparsify{sparsity=0.5,pattern=2:4}", layers, batches())
    (result,) = applied("sparsify{pattern=2:4}", layers, [])
    assert result.counts == {"sparsify": 2}
    assert Sparsification().required
