"""Directions in which errors of what layers yield matter, as gradients show them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from planish.ir.graph import Graph
from planish.passes.base import PassContext
from planish.passes.quantization.directions import Directions, directions
from planish.passes.quantization.layers import select_layers
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
TARGET = load_target("x86-64-avx512-vnni")
TWO_OF_EIGHT = """(%x: float32[n, 16]) {
  const %w: float32[16, 8]
  const %u: float32[8, 12]
  %a: float32[n, 8] = MatMul(%x, %w)
  %b: float32[n, 12] = MatMul(%a, %u)
  %y: float32[n, 12] = Neg(%b)
  return y = %y
}"""


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


@pytest.fixture
def graph(graph_of) -> Graph:
    """The output tells two directions of the first layer's eight channels."""
    return graph_of(TWO_OF_EIGHT, {"w": normal(16, 8), "u": normal(8, 2) @ normal(2, 12)})


def found(graph: Graph, data: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Directions | None]:
    """The directions of layers, by the names of their weights."""
    context = PassContext(TARGET, graph, seed=3)
    layers = select_layers(graph, frozenset({"MatMul"}), context).layers
    with directions(graph, layers, data, context) as directions_of:
        return {layer.weight.name: directions_of(layer) for layer in layers}


def batches(*sizes: int) -> list[Mapping[str, np.ndarray]]:
    return [{"x": normal(size, 16)} for size in sizes]


def test_they_lie_where_the_outputs_change(graph: Graph) -> None:
    seen = found(graph, batches(200, 200))["w"]
    assert seen is not None
    for rows in (seen.fit, seen.held_out):
        outside = np.linalg.svd(graph.constants["u"].data)[0][:, 2:]
        assert np.abs(rows @ outside).max() < 0.02 * np.abs(rows).max()
        assert np.linalg.matrix_rank(rows, tol=0.05 * np.linalg.norm(rows, 2)) == 2


def test_every_fourth_batch_or_row_is_held_out(graph: Graph) -> None:
    for sizes, counts in (((1, 2, 3, 4, 5), (11, 4)), ((2, 5), (6, 1))):
        seen = found(graph, batches(*sizes))["u"]
        assert seen is not None
        assert (len(seen.fit), len(seen.held_out)) == counts


def test_enough_rows_and_a_few_samples_of_a_batch_are_enough(graph_of) -> None:
    """The first eight samples of five batches have more than 8192 rows, so that the other four aren't looked at."""
    graph = graph_of(TWO_OF_EIGHT.replace("[n,", "[n, 250,"), {"w": normal(16, 8), "u": normal(8, 12)})
    seen = found(graph, [{"x": normal(20, 250, 16)} for _ in range(9)])["u"]
    assert seen is not None
    assert len(seen.fit) == 4 * 8 * 250
    assert len(seen.held_out) == 8 * 250 // 2


def test_the_fewer_rows_the_less_counts_what_channels_have_in_common() -> None:
    shares = []
    for rows in (1, 100, 10_000):
        held = np.ones((rows, 4), np.float32)
        moments = Directions(held, held).moments
        shares.append(moments[0, 1] / moments[0, 0])
    np.testing.assert_allclose(shares, [1 / 17, 1 / 1.16, 1 / 1.0016], rtol=1e-5)


@pytest.mark.parametrize("size", [1e-15, 1, 1e15])
def test_no_direction_is_much_longer_than_the_mean(graph: Graph, size: float) -> None:
    """Large inputs have small gradients, and the other way around, as the outputs' sizes count relatively."""
    data = [{"x": normal(100, 16) * np.float32(size)}]
    for seen in found(graph, data).values():
        assert seen is not None
        assert np.isfinite(seen.fit).all()
        assert 0 < np.square(seen.fit).sum(axis=1).max() <= 5.001


def test_layers_without_gradients_have_none(graph: Graph) -> None:
    assert found(graph, []) == {"w": None, "u": None}
    graph.constants["u"].data = np.zeros((8, 12), np.float32)
    assert found(graph, batches(4))["w"] is None
    graph.constants["u"].data = np.full((8, 12), np.nan, np.float32)
    assert found(graph, batches(4)) == {"w": None, "u": None}


@pytest.mark.parametrize(("dims", "shape", "rows"), [("", (), 1), ("2, n, ", (2, 3), 6)])
def test_rows_lie_along_all_axes_but_the_last(graph_of, dims: str, shape: tuple[int, ...], rows: int) -> None:
    graph = graph_of(TWO_OF_EIGHT.replace("[n, ", f"[{dims}"), {"w": normal(16, 8), "u": normal(8, 12)})
    for seen in found(graph, [{"x": normal(*shape, 16)} for _ in range(4)]).values():
        assert seen is not None
        assert (seen.fit.shape[0], seen.held_out.shape[0]) == (3 * rows, rows)


def test_wide_layers_have_none(graph_of) -> None:
    graph = graph_of(TWO_OF_EIGHT.replace("12", "4100"), {"w": normal(16, 8), "u": normal(8, 4100)})
    seen = found(graph, batches(20))
    assert seen["u"] is None
    assert seen["w"] is not None
