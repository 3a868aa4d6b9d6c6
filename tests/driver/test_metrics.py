from pathlib import Path

import numpy as np
import pytest

from planish.driver.data import Batch
from planish.driver.evaluation import Metric, evaluate, find_metric, labelled_by
from planish.driver.metrics import BUILT_IN, accuracy, cer, f1, miou, pearson, perplexity, spearman, top5, wer
from planish.ir.errors import ModelError

EYE = np.eye(4, dtype=np.float32)
RANKED = np.arange(7, 0, -1, dtype=np.float32)[None]


def test_accuracy_counts_samples_not_batches() -> None:
    predictions = [[EYE[[0, 1, 2]]], [EYE[[3]]]]
    assert accuracy(predictions, [np.array([0, 1, 0]), np.array([0])]) == 0.5


def test_accuracy_of_labels_that_the_model_gives_itself() -> None:
    names = [np.array(["a", "b"], dtype=object), EYE[[0, 0]]]
    assert accuracy([names, names], [np.array(["a", "c"]), np.array(["a", "b"])]) == 0.75
    assert accuracy([[np.array([3, 5, 8]), EYE[[0, 0, 0]]]], [[3, 5, 5]]) == pytest.approx(2 / 3)


def test_accuracy_per_token() -> None:
    assert accuracy([[EYE[[[0, 1], [2, 3]]]]], [[[0, 1], [2, 0]]]) == 0.75


def test_the_five_largest_scores_count() -> None:
    assert top5([[RANKED], [RANKED]], [[4], [5]]) == 0.5
    assert evaluate(Metric("top5", top5), lambda feeds: [RANKED], [Batch({}, [4])]).hits.tolist() == [True]


def test_f1_is_of_classes_alike_however_frequent() -> None:
    assert f1([[EYE[[0, 0]]], [EYE[[0, 1]]]], [[0, 0], [1, 1]]) == pytest.approx((0.8 + 2 / 3) / 2)


@pytest.mark.parametrize("gives_scores", [True, False])
def test_intersection_over_union_is_of_pixels_that_count(gives_scores: bool) -> None:
    classes = np.array([[[0, 0, 1], [1, 1, 1]]])
    output = np.moveaxis(EYE[classes], -1, 1) if gives_scores else classes
    assert miou([[output]], [np.array([[[0, 1, 1], [1, 255, -1]]])]) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_correlations_are_over_all_batches() -> None:
    predictions = [[np.array([[1.0], [2.0]])], [np.array([[30.0]])]]
    assert spearman(predictions, [[0.1, 0.2], [0.3]]) == pytest.approx(1)
    assert spearman(predictions, [[0.3, 0.2], [0.1]]) == pytest.approx(-1)
    assert pearson(predictions, [[1, 2], [30]]) == pytest.approx(1)
    assert pearson(predictions, [[0.1, 0.2], [0.3]]) < 0.9


def test_perplexity_is_of_the_tokens_that_count() -> None:
    halves = np.log(np.array([[[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.1, 0.1, 0.8]]], np.float32))
    assert perplexity([[halves]], [[[0, 1, -1]]]) == pytest.approx(2)
    assert perplexity([[halves], [halves]], [[[0, 1, -1]], [[1, 0, -1]]]) == pytest.approx(8**0.5)
    assert Metric("perplexity", perplexity).drop(before=2, after=3) == 1


def test_error_rates_of_texts() -> None:
    read = [[np.array(["the cat", "sat"], dtype=object)]]
    assert cer(read, [["the hat", "sat on"]]) == 4 / 13
    assert wer(read, [["the hat", "sat on"]]) == 2 / 4
    assert Metric("wer", wer).lower_is_better


def test_scores_are_decoded_as_those_of_ctc() -> None:
    steps = EYE[[[1, 1, 0, 1, 2, 0], [0, 0, 3, 3, 3, 0]]]  # 1 1 2, and 3
    assert cer([[steps]], [np.array([[1, 1, 2], [2, 3, -1]])]) == 1 / 5


@pytest.mark.parametrize(
    ("metric", "output", "labels", "message"),
    [
        ("accuracy", EYE[[0, 1]], [[0], [1]], r"accuracy needs labels of shape \[2\], got \[2, 1\]"),
        ("f1", EYE[[0, 1]], [0], r"f1 needs labels of shape \[2\], got \[1\]"),
        ("top5", RANKED, [[0]], r"top5 needs labels of shape \[1\], got \[1, 1\]"),
        ("miou", np.zeros((1, 3, 2, 2)), np.zeros((1, 2, 3)), r"miou needs labels of shape \[1, 2, 2\]"),
        ("pearson", RANKED, [1], "pearson needs one score a label, got 7 scores and 1 labels"),
        ("perplexity", RANKED[None], [1], r"perplexity needs labels of shape \[1, 1\], got \[1\]"),
        ("cer", EYE[[0]], ["text"], r"cer needs texts, or scores \[N, steps, symbols\], got float32\[1, 4\]"),
        ("cer", EYE[None], ["text"], "cer needs texts for labels that are texts"),
        ("cer", EYE[None], [], "cer needs a label for each of 1 rows, got 0"),
        ("wer", EYE[None], [[1]], "wer needs texts for labels that are texts"),
    ],
)
def test_labels_that_do_not_fit_are_refused(metric: str, output: np.ndarray, labels: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        BUILT_IN[metric]([[output]], [labels])


def test_the_untouched_model_gives_the_labels_of_agreement() -> None:
    (batch,) = labelled_by(lambda feeds: [feeds["x"]], [Batch({"x": EYE[[2, 1]]}, labels=[0, 0])])
    assert batch.labels.tolist() == [2, 1]
    score = evaluate(find_metric("agreement", Path()), lambda feeds: [EYE[[2, 2]]], [batch])
    assert (score.value, score.hits.tolist()) == (0.5, [True, False])
    with pytest.raises(ModelError, match=r"agreement needs classes, or a score for each, .* it is \[2, 1\]"):
        labelled_by(lambda feeds: [EYE[:2, :1]], [batch])
