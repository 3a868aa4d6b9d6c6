"""A walk sees each layer's inputs once, behind what became of the layers before, and holds little of them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.text import print_graph
from planish.passes.base import PassContext
from planish.passes.quantization.layers import Layer, select_layers
from planish.passes.quantization.sweep import Moments, sweep
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
TARGET = load_target("x86-64-avx512-vnni")
LAYERS = """(%x: float32[rows, 40]) {
  const %w: float32[40, 48]
  const %t: float32[48, 40]
  const %u: float32[40, 48]
  const %v: float32[24, 48]
  const %b: float32[24]
  %a: float32[rows, 48] = MatMul(%x, %w) @ "first"
  %c: float32[rows, 48] = Relu(%a)
  %d: float32[rows, 48] = MatMul(%x, %u) @ "beside"
  %e: float32[rows, 48] = Add(%c, %d)
  %f: float32[rows, 24] = Gemm(%e, %v, %b) {transB = 1} @ "second"
  %y: float32[rows, 40] = MatMul(%e, %t) @ "tied"
  return y = %y, f = %f
}"""


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


@pytest.fixture
def graph(graph_of) -> Graph:
    sizes = {"w": (40, 48), "t": (48, 40), "u": (40, 48), "v": (24, 48), "b": (24,)}
    return graph_of(LAYERS, {name: normal(*size) for name, size in sizes.items()})


def batches(count: int) -> list[Mapping[str, np.ndarray]]:
    return [{"x": normal(int(rows), 40)} for rows in RNG.integers(5, 30, count)]


def walked(
    graph: Graph,
    data: Sequence[Mapping[str, np.ndarray]],
    becomes: Mapping[str, np.ndarray],
    asymmetry: float = 0.0,
) -> list[tuple[list[str], Moments]]:
    """What is visited, by the names of weights, where some weights become others."""
    found: list[tuple[list[str], Moments]] = []

    def visit(layers: Sequence[Layer], moments: Moments) -> Mapping[Layer, np.ndarray]:
        found.append(([layer.weight.name for layer in layers], moments))
        return {layer: becomes[layer.weight.name] for layer in layers if layer.weight.name in becomes}

    context, before = PassContext(TARGET, graph), print_graph(graph)
    layers = select_layers(graph, frozenset({"MatMul", "Gemm"}), context).layers
    sweep(graph, layers, data, context, visit, asymmetry=asymmetry)
    assert print_graph(graph) == before
    return found


def rows_of(graph: Graph, name: str, data: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    rows: list[np.ndarray] = []
    for feeds in data:
        Interpreter(graph).run(feeds, lambda value, x: rows.append(x.numpy()) if value.name == name else None)
    return np.concatenate(rows)


def moments_of(graph: Graph, name: str, data: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    x = rows_of(graph, name, data)
    return x.T @ x / len(x)


def test_layers_that_read_one_value_are_visited_together_with_its_moments(graph: Graph) -> None:
    data = batches(9)
    found = walked(graph, data, {})
    assert [names for names, _ in found] == [["w", "u"], ["v", "t"]]
    held_out = [data[3], data[7]]
    fit = [batch for number, batch in enumerate(data) if number not in (3, 7)]
    for name, (_, moments) in zip(("x", "e"), found, strict=True):
        np.testing.assert_allclose(moments.fit, moments_of(graph, name, fit), rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(moments.held_out, moments_of(graph, name, held_out), rtol=1e-4, atol=1e-3)
    weight, change = normal(48, 3), normal(48, 3)
    wanted = np.trace(change.T @ found[1][1].held_out @ change)
    assert found[1][1].error(weight + change, weight) == pytest.approx(wanted, rel=1e-4)


def test_later_layers_see_what_weights_have_become(graph: Graph) -> None:
    data, other = batches(4), graph.clone()
    becomes = {name: np.rint(graph.constants[name].data) for name in ("w", "u")}
    for name, weight in becomes.items():
        other.constants[name].data = weight
    found = walked(graph, data, becomes)
    np.testing.assert_allclose(found[1][1].fit, moments_of(other, "e", data[:3]), rtol=1e-4, atol=1e-3)


def test_a_share_of_what_later_layers_lack_is_made_up_for(graph: Graph) -> None:
    data, other = batches(4), graph.clone()
    becomes = {name: np.rint(graph.constants[name].data) for name in ("w", "u")}
    for name, weight in becomes.items():
        other.constants[name].data = weight
    (_, first), (_, second) = walked(graph, data, becomes, 0.5)
    assert first.lacks is not None and not any(lack.any() for lack in first.lacks)
    assert second.lacks is not None
    for lacks, batch in zip(second.lacks, (data[:3], data[3:]), strict=True):
        x, y = rows_of(other, "e", batch), rows_of(graph, "e", batch)
        np.testing.assert_allclose(lacks, x.T @ (y - x) / len(x) / 2, rtol=1e-3, atol=1e-3)

    weight = normal(48, 3)
    target = second.target(weight)
    np.testing.assert_allclose(second.shrunk @ (target - weight), second.lacks[0] @ weight, rtol=1e-2, atol=1e-2)
    np.testing.assert_array_equal(second.target(0 * weight), 0 * weight)
    x, y = rows_of(other, "e", data[3:]), rows_of(graph, "e", data[3:])
    wanted = np.square(x @ target - (x + y) / 2 @ weight) - np.square((x - y) / 2 @ weight)
    assert second.error(target, weight) == pytest.approx(wanted.sum() / len(x), rel=1e-2)


def test_the_fewer_batches_there_are_the_less_counts_what_channels_have_in_common(graph: Graph) -> None:
    mixed = RNG.standard_normal((8, 40)).astype("float32")
    truth, scale = mixed.T @ mixed / 8 + np.eye(40, dtype="float32"), np.geomspace(1e-3, 1e3, 40, dtype="float32")

    def rows(count: int) -> np.ndarray:
        return (normal(count, 8) @ mixed / 8**0.5 + normal(count, 40)) * scale

    def far(found: np.ndarray) -> float:
        return float(np.linalg.norm(found / np.outer(scale, scale) - truth))

    errors: list[float] = []
    for count in (8, 64, 1024):
        # all rows of a batch are alike, so that there are as many as batches
        (_, moments), _ = walked(graph, [{"x": rows(1).repeat(5, axis=0)} for _ in range(count)], {})
        fit, whole = (moments.estimate(of_all=of_all) for of_all in (False, True))
        np.testing.assert_array_equal(np.diagonal(fit), np.diagonal(moments.fit))
        errors.append(far(fit) / far(moments.fit))
        assert far(whole) < far(fit)
    assert errors[0] < 0.8 and errors == sorted(errors)
    assert errors[-1] == pytest.approx(1, abs=0.05)


def test_roundings_rely_on_what_channels_have_in_common_no_more_than_rows_allow(graph: Graph) -> None:
    rows = normal(1, 40).repeat(200, axis=0)
    for count in (10, 200):
        (_, moments), _ = walked(graph, [{"x": rows[:count]}], {})
        np.testing.assert_allclose(moments.estimate(of_all=False), moments.fit, rtol=1e-4)
        wanted = moments.fit * moments.rows / (moments.rows + 40)
        wanted[np.diag_indices_from(wanted)] = np.diagonal(moments.fit)
        np.testing.assert_allclose(moments.shrunk, wanted, rtol=1e-4)


def test_what_channels_have_in_common_is_nothing_where_no_row_tells() -> None:
    moments = Moments(np.ones((3, 3), "float32"), np.ones((3, 3), "float32"), rows=1)
    for found in (moments.shrunk, moments.estimate(of_all=False), moments.estimate(of_all=True)):
        np.testing.assert_array_equal(found, np.eye(3))
    for size in (1, 3):
        none = np.zeros((size, size), "float32")
        np.testing.assert_array_equal(Moments(none, none, 0.25, 10).shrunk, none)


def test_channels_that_are_dead_or_huge_don_t_spoil_moments() -> None:
    x = normal(40, 6)
    x[:, 2], x[30:, 3] = 0, 0
    fit, held_out = x[:30].T @ x[:30] / 30, x[30:].T @ x[30:] / 10
    moments = Moments(fit, held_out, 0.25, 30)
    assert np.isfinite(moments.shrunk).all()
    for size in (np.float32(1e-30), np.float32(1e30)):
        others = Moments(fit * size, held_out * size, 0.25, 30)
        np.testing.assert_allclose(others.shrunk, moments.shrunk * size, rtol=1e-5)
    endless = Moments(np.full((2, 2), np.inf, "float32"), np.full((2, 2), np.inf, "float32"), 0.25, 30)
    np.testing.assert_array_equal(endless.shrunk, np.diag([np.inf, np.inf]).astype("float32"))


def test_one_row_fits_and_judges(graph: Graph) -> None:
    for _, moments in walked(graph, [{"x": normal(1, 40)}], {}):
        np.testing.assert_array_equal(moments.fit, moments.held_out)


def test_of_few_batches_every_fourth_row_judges(graph: Graph) -> None:
    data = [{"x": normal(22, 40)}, {"x": normal(9, 40)}]
    _, moments = walked(graph, data, {})[0]
    held_out = [{"x": batch["x"][3::4]} for batch in data]
    fit = [{"x": np.delete(batch["x"], slice(3, None, 4), axis=0)} for batch in data]
    np.testing.assert_allclose(moments.fit, moments_of(graph, "x", fit), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(moments.held_out, moments_of(graph, "x", held_out), rtol=1e-4, atol=1e-3)


def test_what_is_kept_in_files_is_the_same(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    data = batches(6)
    first = walked(graph, data, {})
    for most in (0, 5000):
        monkeypatch.setattr("planish.passes.storage._MOST_BYTES", most)
        for (_, one), (_, same) in zip(first, walked(graph, data, {}), strict=True):
            np.testing.assert_array_equal(one.fit, same.fit)


def test_moments_of_what_is_divided(graph: Graph):
    data, scale = batches(8), np.geomspace(0.1, 10, 40).astype(np.float32)
    divided = [{"x": batch["x"] / scale} for batch in data]
    (_, plain), (_, expected) = (walked(graph, given, {})[0] for given in (data, divided))
    found = plain.divided(scale)
    np.testing.assert_allclose(found.fit, expected.fit, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.held_out, expected.held_out, rtol=1e-4, atol=1e-4)
    assert found.share == expected.share
