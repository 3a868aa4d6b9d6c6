"""What judging says is lost, and which calibration data judge what was fitted to others."""

from collections.abc import Callable

import numpy as np
import pytest

import planish
from planish.ir.builder import Builder
from planish.ir.errors import UsageError
from planish.ir.graph import Graph, Value
from planish.ir.types import DType, TensorType
from planish.passes.judge import Judge, split


def drop(build: Callable[[Builder, Value, float], Value], x: np.ndarray, halves: int = 2) -> float:
    """What is lost, in percent, by what is built with 1 in place of 0."""

    def graph(change: float) -> Graph:
        made = Graph()
        shape = ("batch", *x.shape[1:])
        made.outputs["y"] = build(Builder(made), made.add_input("x", TensorType(DType.float32, shape)), change)
        return made

    batches = [{"x": part} for part in np.array_split(x.astype(np.float32), halves)]
    return Judge(graph(0.0), batches).judge(graph(1.0)).drop


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_constant_in_place_of_an_answer_loses_all_of_it(outputs: int) -> None:
    """However near it is to all answers: most of these is their mean."""
    x = np.random.default_rng(0).standard_normal((64, outputs))

    def regression(op: Builder, x: Value, change: float) -> Value:
        return op.Add(op.Mul(x, np.float32(1 - change)), np.float32(100))

    assert drop(regression, x - x.mean(0)) > 50
    assert drop(lambda op, x, change: op.Add(x, np.float32(change)), x + 100) > 20


def test_numbers_of_which_one_is_always_the_largest_are_no_classes() -> None:
    x = np.random.default_rng(0).standard_normal((64, 2))
    offset = np.array([3, 9], np.float32)

    def scores(op: Builder, x: Value, change: float) -> Value:
        return op.Gemm(op.Mul(x, np.float32(1 - change)), np.eye(2, dtype=np.float32), offset)

    assert drop(scores, x - x.mean(0)) > 50
    assert drop(lambda op, x, change: op.MatMul(x, np.eye(2, dtype=np.float32) * (1 + change)), x) < 0.1


@pytest.mark.parametrize("samples", [8, 1])
def test_what_does_not_vary_is_compared_as_a_whole(samples: int) -> None:
    x = np.full((samples, 4), 100.0) + np.random.default_rng(0).standard_normal((samples, 4)) * 1e-3
    assert drop(lambda op, x, change: op.Add(x, np.float32(0.01 * change)), x, halves=1) < 1e-3


def test_a_sigmoid_that_says_yes_elsewhere_loses_that() -> None:
    """Two numbers are beyond a half, and one of them no longer is."""
    x = np.full((16, 4), -3.0)
    x[0, 0], x[5, 1] = 0.01, 1.0

    def decided(op: Builder, x: Value, change: float) -> Value:
        return op.Transpose(op.Sigmoid(op.Sub(x, np.float32(0.02 * change))), perm=(1, 0))

    assert drop(decided, x) == pytest.approx(100 * (1 - 2 / 3))


@pytest.mark.parametrize("axis", [1, 2])
def test_scores_beside_boxes_are_judged_by_themselves(axis: int) -> None:
    """A detector's boxes are hundreds of pixels wide, so that nothing is seen of its classes in a cosine of both."""
    x = np.random.default_rng(0).standard_normal((16, 4, 4)) - 1

    def detected(op: Builder, x: Value, change: float) -> Value:
        likely = op.Sigmoid(op.Mul(x, np.float32(1 - change)))
        both = op.Concat(op.Mul(x, np.float32(300)), op.Mul(likely, op.Transpose(likely, perm=(0, 1, 2))), axis=axis)
        return op.Transpose(both, perm=(0, 2, 1))

    assert drop(detected, x) > 50
    assert drop(lambda op, x, change: detected(op, x, change * 1e-3), x) < 0.1


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_classes_of_pixels_lie_along_the_axis_of_the_softmax(operator: str) -> None:
    """One of two classes wins at every pixel but by little, and then the other does."""
    x = np.random.default_rng(0).standard_normal((8, 2, 3, 5))
    x[:, :, 1] += 9 * np.array([1, -1])[:, None]

    def segmented(op: Builder, x: Value, change: float) -> Value:
        sign = np.array([1, -1], np.float32).reshape(2, 1, 1)
        return getattr(op, operator)(op.Add(x, change * np.float32(1e-3) + change * np.float32(60) * sign), axis=1)

    assert drop(lambda op, x, change: op.Identity(getattr(op, operator)(x, axis=1)), x) < 1e-6
    assert drop(segmented, x) > 20
    assert drop(lambda op, x, change: getattr(op, operator)(op.Add(x, np.float32(change)), axis=1), x) < 1e-3


def test_rows_of_the_commonest_class_count_little_where_samples_have_several() -> None:
    """Seven of a text's eight places are blank, and the letter in the eighth changes in every other text."""
    x = np.zeros((64, 8, 3)) + np.array([9.0, 0, 0])
    x[:, 3] = np.array([0.0, 5, 4.9])
    x[::2, 3] = np.array([0.0, 5, 9])

    def read(op: Builder, x: Value, change: float) -> Value:
        return op.Softmax(op.Add(x, np.array([0, change * -1, 0], np.float32)), axis=-1)

    assert drop(read, x) == pytest.approx(50, abs=1)
    assert drop(read, x[:, 3]) == pytest.approx(50, abs=1)


def test_an_output_whose_samples_hold_scores_in_other_places_is_judged_as_a_whole() -> None:
    x = np.random.default_rng(0).standard_normal((8, 4))

    def stacked(op: Builder, x: Value, change: float) -> Value:
        return op.Concat(op.Mul(x, np.float32(300)), op.Sigmoid(op.Add(x, np.float32(9 * change))), axis=0)

    assert drop(stacked, x) < 0.1


@pytest.mark.parametrize(("test", "least", "most"), [("Greater", 20, 100), ("Less", 0, 0.1)])
def test_boxes_that_are_chosen_by_scores_are_judged_apart_if_marks_choose_any(
    test: str, least: float, most: float
) -> None:
    x = np.random.default_rng(0).standard_normal((8, 4))

    def chosen(op: Builder, x: Value, change: float) -> Value:
        boxes, scores = op.Mul(x, np.float32(300)), op.Sigmoid(op.Mul(x, np.float32(1 - change)))
        is_good = getattr(op, test)(op.ReduceMax(scores, np.array([1])), np.float32(0 if test == "Greater" else 2))
        places = op.Squeeze(op.Slice(op.NonZero(is_good), [0], [1], [0]), np.array([0]))
        return op.Gather(op.Concat(boxes, scores, axis=1), places, axis=0)

    assert least <= drop(chosen, x) <= most


@pytest.mark.parametrize("name", ["prune-channels", "factorize", "sparsify", "prune-blocks"])
def test_a_bound_is_not_kept_on_what_was_fitted_to(name: str) -> None:
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, (8, 16)))
    graph.outputs["y"] = op.MatMul(op.Relu(op.MatMul(x, np.eye(16, dtype=np.float32))), np.eye(16, dtype=np.float32))
    batch = {"x": np.ones((8, 16), np.float32)}
    with pytest.raises(UsageError, match=f"{name} judges by held-out batches how much may go, and there is a single"):
        planish.optimize(graph, name, data=[batch])


def test_batches_that_judge_are_not_fitted_to() -> None:
    assert split(8, 4) == ([0, 1, 2, 3], [4, 5, 6, 7])
    assert split(8, 8) == ([0, 1, 2, 4, 5, 6], [3, 7])
    assert split(2, 2) == ([0], [1])
    assert split(1, 1) == ([0], [0])
    assert split(0, 0) == ([], [])


@pytest.mark.parametrize("few", [False, True])
def test_boxes_of_which_one_model_keeps_more_than_another_are_compared(few: bool) -> None:
    x = np.random.default_rng(0).standard_normal((64, 6))
    x = x[np.argsort(-x[:, 0])]  # the surest first

    def boxes(op: Builder, x: Value, change: float) -> Value:
        score = op.Squeeze(op.Slice(x, np.array([0]), np.array([1]), np.array([1])), np.array([1]))
        bound = np.float32(change * (0.1 if few else -0.1))
        return op.Compress(x, op.Greater(score, bound), axis=0)

    assert (0 < drop(boxes, x, 1) < 10) if few else drop(boxes, x, 1) < 1e-6
    assert drop(lambda op, x, change: op.Mul(boxes(op, x, change), np.float32(1 - change)), x, 1) > 50
