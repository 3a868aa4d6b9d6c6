"""Means and second moments of what values are, over batches."""

import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.passes.base import PassContext
from planish.passes.moments import observe
from planish.targets.load import load_target


def observed(batches: list[np.ndarray], **options: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the covariance of a graph's input."""
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, ("rows", batches[0].shape[1])))
    graph.outputs["y"] = x
    context = PassContext(load_target("x86-64"), graph)
    (found,) = observe(graph, [(x, 1)], [{"x": batch} for batch in batches], context, **options).values()
    return found.mean, found.covariance


def test_what_varies_little_around_a_large_mean_is_seen() -> None:
    random = np.random.default_rng(0)
    batches = [(1000 + 0.1 * random.standard_normal((64, 5))).astype(np.float32) for _ in range(8)]
    rows = np.concatenate(batches).astype(np.float64)

    mean, covariance = observed(batches)

    assert mean == pytest.approx(rows.mean(0), rel=1e-9)
    assert covariance == pytest.approx(np.cov(rows.T, bias=True), abs=1e-4 * 0.1**2)


def test_a_diagonal_is_held_of_what_is_wide() -> None:
    rows = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)
    _, covariance = observed([rows], widest=4)
    assert covariance == pytest.approx(rows.var(0), rel=1e-4)


@pytest.mark.parametrize(("rows", "runs"), [(8, 5), (20, 2), (40, 2)])
def test_batches_are_run_until_there_are_enough_rows(rows: int, runs: int) -> None:
    """Forty rows are enough for five channels, and two batches are run in any case."""
    batches = [np.full((rows, 5), number, np.float32) for number in range(9)]
    mean, _ = observed(batches, enough=2)
    assert mean == pytest.approx(np.full(5, (runs - 1) / 2))


def test_a_batch_without_rows_says_nothing() -> None:
    mean, _ = observed([np.empty((0, 5), np.float32), np.ones((4, 5), np.float32)])
    assert mean == pytest.approx(np.ones(5))


@pytest.mark.parametrize("size", [12, 120])
def test_windows_of_a_convolution_are_seen_with_the_zeros_around_an_image(size: int) -> None:
    """Large images are seen at places that are drawn."""
    random = np.random.default_rng(0)
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, (4, 2, size, size)))
    y = Builder(graph).Conv(x, np.zeros((3, 2, 3, 1), np.float32), pads=(1, 0, 1, 0))
    graph.outputs["y"] = y
    batch = (2 + random.standard_normal((4, 2, size, size))).astype(np.float32)
    context = PassContext(load_target("x86-64"), graph)
    assert y.producer is not None

    (found,) = observe(graph, [(x, y.producer)], [{"x": batch}], context).values()

    padded = np.pad(batch, ((0, 0), (0, 0), (1, 1), (0, 0)))
    every = np.stack([padded[:, :, start : start + size] for start in range(3)], axis=2)
    rows = np.moveaxis(every, (1, 2), (-2, -1)).reshape(-1, 6).astype(np.float64)
    assert found.mean == pytest.approx(rows.mean(0), rel=1e-6 if size == 12 else 0.05)
    assert found.moment == pytest.approx(rows.T @ rows / len(rows), rel=1e-4 if size == 12 else 0.05)
