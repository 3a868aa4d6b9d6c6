"""Measures: which comparison an output gets, and what the comparisons measure."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from planish.ir.builder import Builder
from planish.ir.graph import Graph, Value
from planish.ir.types import DType, TensorType
from planish.passes.measures import LossKind, choose_measures, measure

WEIGHT = np.ones((8, 4), np.float32)
BIAS = np.ones(4, np.float32)


def measure_of(build: Callable[[Builder, Value], Value], loss: str = "auto") -> LossKind | None:
    graph = Graph()
    op = Builder(graph)
    graph.outputs["y"] = build(op, graph.add_input("x", TensorType(DType.float32, ("batch", 8))))
    return choose_measures(graph, loss).get("y")


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda op, x: op.Gemm(x, WEIGHT, BIAS), LossKind.LOGITS),
        (lambda op, x: op.MatMul(x, WEIGHT), LossKind.LOGITS),
        (lambda op, x: op.MatMul(x, WEIGHT[:, :1]), LossKind.NUMBERS),  # a single number is no choice
        (lambda op, x: op.Add(op.MatMul(x, WEIGHT), BIAS), LossKind.LOGITS),
        (lambda op, x: op.Softmax(op.MatMul(x, WEIGHT), axis=-1), LossKind.PROBABILITIES),
        (lambda op, x: op.LogSoftmax(op.MatMul(x, WEIGHT), axis=-1), LossKind.LOGITS),
        (lambda op, x: op.Reshape(op.Gemm(x, WEIGHT, BIAS), np.array([-1, 2, 4])), LossKind.LOGITS),
        (lambda op, x: op.Reshape(op.Gemm(x, WEIGHT, BIAS), np.array([-1, 2, 2])), LossKind.NUMBERS),
        (lambda op, x: op.Tanh(op.MatMul(x, WEIGHT)), LossKind.NUMBERS),
        (lambda op, x: op.Add(x, op.MatMul(x, np.ones((8, 8), np.float32))), LossKind.NUMBERS),
        (lambda op, x: op.MatMul(op.Unsqueeze(x, [1]), WEIGHT), LossKind.NUMBERS),
        (lambda op, x: op.ArgMax(x, axis=1), None),
    ],
)
def test_auto_looks_at_what_gives_the_output(
    build: Callable[[Builder, Value], Value], expected: LossKind | None
) -> None:
    assert measure_of(build) is expected


@pytest.mark.parametrize(("rows", "expected"), [(11, LossKind.LOGITS), (12, LossKind.NUMBERS)])
def test_as_many_numbers_as_an_embedding_has_rows_are_logits(rows: int, expected: LossKind) -> None:
    graph = Graph()
    op = Builder(graph)
    ids = graph.add_input("ids", TensorType(DType.int64, ("batch", "tokens")))
    graph.outputs["y"] = op.MatMul(op.Gather(np.ones((rows, 8), np.float32), ids), np.ones((8, 11), np.float32))
    assert choose_measures(graph, "auto") == {"y": expected}


def test_a_named_loss_is_taken() -> None:
    assert measure_of(lambda op, x: op.MatMul(x, WEIGHT), "mse") is LossKind.NUMBERS
    assert measure_of(lambda op, x: op.Tanh(x), "kl") is LossKind.LOGITS
    assert measure_of(lambda op, x: op.Softmax(x, axis=-1), "kl") is LossKind.PROBABILITIES


def of(kind: LossKind, got: Any, wanted: Any, temperature: float = 1.0) -> float:
    tensors = [{"y": torch.as_tensor(values, dtype=torch.float32)} for values in (got, wanted)]
    return float(measure({"y": kind}, *tensors, temperature))


def test_mse_is_relative_to_the_size_of_the_outputs() -> None:
    assert of(LossKind.NUMBERS, [[3.0, 5.0]], [[3.0, 4.0]]) == pytest.approx(1 / 25)
    assert of(LossKind.NUMBERS, [[300.0, 500.0]], [[300.0, 400.0]]) == pytest.approx(1 / 25)


def test_kl_is_that_of_the_softened_probabilities_averaged_over_the_batch() -> None:
    ours, theirs = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])

    def softened(logits: np.ndarray) -> np.ndarray:
        return np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)

    q, p = softened(ours), softened(theirs)
    expected = 4 * (p * np.log(p / q)).sum(axis=1).mean()
    assert of(LossKind.LOGITS, ours, theirs, temperature=2.0) == pytest.approx(expected, rel=1e-4)


def test_probabilities_are_softened_as_their_logits_would_be() -> None:
    ours, theirs = np.array([[1.0, 2.0, 0.0]]), np.array([[2.0, 1.0, 0.0]])
    as_logits = of(LossKind.LOGITS, ours, theirs, temperature=3.0)

    probabilities = [np.exp(logits) / np.exp(logits).sum() for logits in (ours, theirs)]

    assert of(LossKind.PROBABILITIES, *probabilities, temperature=3.0) == pytest.approx(as_logits, rel=1e-4)


@pytest.mark.parametrize(("shape", "expected"), [((5, 3), 2.0), ((5, 1, 3), 0.0)])
def test_what_is_added_to_all_logits_counts_where_it_is_asked_for(shape: Sequence[int], expected: float) -> None:
    wanted = {"y": torch.from_numpy(np.random.default_rng(0).standard_normal(shape))}
    got = {"y": wanted["y"] + 2}
    for offsets in (False, True):
        found = float(measure({"y": LossKind.LOGITS}, got, wanted, 4.0, offsets=offsets))
        assert found == pytest.approx(expected * offsets, abs=1e-5)


def test_divergence_and_offsets_are_half_the_mean_square_at_high_temperatures() -> None:
    random = np.random.default_rng(0)
    got, wanted = ({"y": torch.from_numpy(random.standard_normal((50, 3)))} for _ in range(2))
    found = float(measure({"y": LossKind.LOGITS}, got, wanted, 100.0, offsets=True))
    assert found == pytest.approx(float((got["y"] - wanted["y"]).square().mean()) / 2, rel=0.02)


def test_probabilities_of_zero_give_a_finite_loss() -> None:
    assert np.isfinite(of(LossKind.PROBABILITIES, [[0.0, 1.0]], [[1.0, 0.0]]))


def test_several_outputs_add_up() -> None:
    got = {name: torch.ones(1, 2) for name in "ab"}
    wanted = {"a": torch.full((1, 2), 2.0), "b": torch.full((1, 2), 4.0)}

    total = measure(dict.fromkeys("ab", LossKind.NUMBERS), got, wanted, 1.0)

    assert float(total) == pytest.approx(1 / 4 + 9 / 16)
