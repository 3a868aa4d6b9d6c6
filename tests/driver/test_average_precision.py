"""Mean average precision, held to what is worked out by hand and to what must hold of any boxes."""

from collections.abc import Sequence

import numpy as np
import pytest

from planish.driver import evaluation
from planish.driver.average_precision import MOST
from planish.driver.data import Batch
from planish.driver.evaluation import Metric, drop_interval, evaluate
from planish.driver.metrics import BUILT_IN
from planish.ir.errors import ModelError

MAP = BUILT_IN["map"]
A, B, FAR = [0, 0, 10, 10], [20, 20, 40, 30], [60, 60, 70, 70]
NEAR_A = [0, 0, 10, 6.2]
"""A box whose intersection with A is 0.62 of their union: right at 0.5, 0.55 and 0.6, three of the ten."""


def found(*rows: Sequence[float]) -> list[np.ndarray]:
    """Outputs of torchvision's detectors, from rows of a box, its class and its score."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return [table[:, :4], table[:, 4].astype(np.int64), table[:, 5]]


def wanted(*rows: Sequence[float]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, 5)


@pytest.mark.parametrize(
    ("rows", "labels", "value"),
    [
        # right, wrong, right: precision 1 at the recalls to 0.5, 51 of 101, and 2/3 at the others
        ([(*A, 1, 0.9), (*FAR, 1, 0.8), (*B, 1, 0.7)], [(*A, 1), (*B, 1)], (51 + 50 * 2 / 3) / 101),
        # one of two is never found: precision 0 at the recalls beyond 0.5
        ([(*A, 1, 0.9)], [(*A, 1), (*B, 1)], 51 / 101),
        ([(*NEAR_A, 1, 0.9)], [(*A, 1)], 0.3),
        # the higher score comes first at 0.5 to 0.6, where it is right; beyond, it is wrong before the other is right
        ([(*NEAR_A, 1, 0.9), (*A, 1, 0.8)], [(*A, 1)], 0.3 * 1 + 0.7 * 0.5),
        # the same box twice is wrong once, and that at the end, where it costs nothing; at the front it would
        ([(*A, 1, 0.9), (*A, 1, 0.8), (*B, 1, 0.7)], [(*A, 1), (*B, 1)], (51 + 50 * 2 / 3) / 101),
        ([(*A, 1, 0.9), (*A, 1, 0.8)], [(*A, 1)], 1),
        # classes count alike, and those that no label has don't
        ([(*A, 1, 0.9), (*B, 3, 0.9)], [(*A, 1), (*B, 2)], 0.5),
        ([(*A, 2, 0.9)], [(*A, 1)], 0),
        ([], [(*A, 1)], 0),
    ],
)
def test_what_is_worked_out_by_hand(rows: list, labels: list, value: float) -> None:
    assert MAP([found(*rows)], [wanted(*labels)]) == pytest.approx(value)


def test_boxes_of_other_images_are_not_the_same_boxes() -> None:
    outputs = [found((*A, 1, 0.9), (*B, 1, 0.8)), found((*B, 1, 0.7))]
    assert MAP(outputs, [wanted((*A, 1)), wanted((*B, 1))]) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_the_hundred_best_boxes_of_a_class_in_an_image_count() -> None:
    wrong = [(*FAR, 1, 0.5 + number / 1000) for number in range(MOST - 1)]
    last, other = (*A, 1, 0.1), (*B, 2, 0.1)
    labels = [wanted((*A, 1), (*B, 2))]
    assert MAP([found(*wrong, last, other)], labels) == pytest.approx((1 / MOST + 1) / 2)
    assert MAP([found((*FAR, 1, 0.9), *wrong, last, other)], labels) == pytest.approx(1 / 2)


def test_outputs_are_known_by_types_and_shapes() -> None:
    boxes, classes, scores = found((*A, 1, 0.9), (*FAR, 1, 0.8), (*B, 2, 0.7))
    labels = wanted((*A, 1), (*B, 2))
    masks, keypoints = np.zeros((3, 1, 8, 8), np.float32), np.zeros((3, 17), np.float32)
    plain = MAP([[boxes, classes, scores]], [labels])
    assert plain == 1
    assert MAP([[scores, masks, boxes, keypoints, classes.astype(np.int32)]], [labels]) == plain
    assert MAP([[boxes[None], classes[None], scores[None]]], [labels[None]]) == plain
    one_class = (51 + 50 * 2 / 3) / 101
    assert MAP([[boxes, scores]], [labels]) == pytest.approx(one_class)
    assert MAP([[boxes, classes, scores]], [labels[:, :4]]) == pytest.approx(one_class)


def test_a_batch_may_hold_several_images() -> None:
    first, second = found((*A, 1, 0.9), (*FAR, 1, 0.8)), found((*B, 1, 0.7))
    labels = [wanted((*A, 1), (*FAR, 1)), wanted((*A, 1))]
    apart = MAP([first, second], labels)
    assert 0 < apart < 1
    filled = np.stack([labels[0], [*labels[1], (*FAR, -1)]])
    for given in (labels, filled):
        assert MAP([[*first, *second]], [given]) == apart
    second_filled = found((*B, 1, 0.7), (0, 0, 0, 0, 1, 0))
    assert MAP([[np.stack(pair) for pair in zip(first, second_filled, strict=True)]], [filled]) == apart


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        ([np.zeros((2, 4))], wanted((*A, 1)), r"needs outputs of boxes \[n, 4\], .* got float64\[2, 4\]$"),
        ([np.zeros((2, 5)), np.zeros(2)], wanted((*A, 1)), r"needs outputs .* got float64\[2, 5\], float64\[2\]$"),
        ([*found((*A, 1, 1)), np.zeros(1)], wanted((*A, 1)), "needs outputs of boxes"),
        ([*found((*A, 1, 1)), *found()], [wanted((*A, 1))], "needs a label for each of 2 images, got 1"),
        (found((*A, 1, 1)), np.zeros((1, 6)), r"needs labels \[m, 5\] or \[m, 4\] of each image, got \[1, 6\]"),
        (found((*A, 1, 1)), wanted((*A, -1)), "needs labels with at least one box"),
    ],
)
def test_what_does_not_fit_is_refused(outputs: list, labels: object, message: str) -> None:
    with pytest.raises(ModelError, match=f"^map {message}"):
        MAP([outputs], [labels])


def scene(seed: int, images: int = 12) -> tuple[list[list[np.ndarray]], list[np.ndarray]]:
    """Random boxes of three classes, some of which are nearly those of the labels."""
    random, outputs, labels = np.random.default_rng(seed), [], []
    for _ in range(images):
        corners = random.uniform(0, 80, (6, 2))
        boxes = np.concatenate([corners, corners + random.uniform(5, 20, (6, 2))], 1)
        classes = random.integers(0, 3, 6)
        near = boxes + random.normal(0, 1, boxes.shape)
        guessed = np.where(random.random(6) < 0.8, classes, (classes + 1) % 3)
        outputs.append([near, guessed, random.permutation(6) / 6 + random.uniform(0, 0.1, 6)])
        labels.append(np.column_stack([boxes, classes]))
    return outputs, labels


@pytest.mark.parametrize("seed", range(3))
def test_what_holds_of_any_boxes(seed: int) -> None:
    outputs, labels = scene(seed)
    value = MAP(outputs, labels)
    assert 0 < value < 1
    order = np.random.default_rng(seed).permutation(len(labels))
    assert MAP([outputs[place] for place in order], [labels[place] for place in order]) == pytest.approx(value)
    lower = [[boxes, classes, np.exp(3 * scores) / 1000] for boxes, classes, scores in outputs]
    assert MAP(lower, labels) == value
    moved = [it * [3, 3, 3, 3, 1] + [7, 7, 7, 7, 0] for it in labels]
    assert MAP([[boxes * 3 + 7, *rest] for boxes, *rest in outputs], moved) == pytest.approx(value)
    perfect = [[it[:, :4], it[:, 4].astype(np.int64), outputs[at][2]] for at, it in enumerate(labels)]
    assert MAP(perfect, labels) == 1
    assert MAP([found() for _ in labels], labels) == 0


def test_a_drop_has_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """From groups of batches, as of other slow metrics; a batch without boxes is no obstacle."""
    monkeypatch.setattr(evaluation, "_SECONDS", 0.0)
    outputs, labels = scene(0, images=30)
    labels[3] = labels[3][:0]
    batches = [Batch({"at": np.array(at)}, label) for at, label in enumerate(labels)]
    worse = [[boxes + 1.5, *rest] for boxes, *rest in outputs]
    before, after = (
        evaluate(Metric("map", MAP), lambda feeds, kind=kind: kind[int(feeds["at"])], batches, resamples=True)
        for kind in (outputs, worse)
    )
    assert (len(before.groups), before.resamples) == (15, [])
    low, high = drop_interval(Metric("map", MAP), before, after)
    assert 0 < low < before.value - after.value < high
