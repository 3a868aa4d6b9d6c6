"""The metric `map`: mean average precision, by which detectors are judged.

Source: T.-Y. Lin et al., Microsoft COCO: Common Objects in Context (ECCV 2014), and its evaluation in pycocotools.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..ir.errors import ModelError

MOST = 100
"""The most boxes of a class in an image that count, those with the highest scores."""
_OVERLAPS = np.linspace(0.5, 0.95, 10)
"""The intersections over unions from which on a box counts as right."""
_RECALLS = np.linspace(0, 1, 101)
"""The recalls at which precision is read off."""


def mean_average_precision(predictions: Sequence[Sequence[np.ndarray]], labels: Sequence[Any]) -> float:
    """The mean average precision of boxes, by COCO's definition.

    It is the area under the interpolated curve of precision over recall, as a mean over the classes that occur in the
    labels and over ten intersections over unions from which on a box counts as right: 0.5, 0.55, ... 0.95.

    Outputs are known by their types and shapes: for each image of a batch float boxes `[n, 4]` of x1, y1, x2, y2, float
    scores `[n]` and integer classes `[n]`, or all images with an axis of their own in front. The label of an image is
    an array `[m, 5]` of boxes with their classes; rows of a class below zero are left out. A batch of several images
    has a sequence of such arrays. Where the model returns no classes, or labels `[m, 4]` have none, all boxes are of
    one class. In each image, the 100 boxes of a class with the highest scores count.
    """
    images = [image for batch in zip(predictions, labels, strict=True) for image in _images(*batch)]
    classes, counts = np.unique(np.concatenate([image.wanted[:, 4] for image in images]), return_counts=True)
    if not classes.size:
        raise ModelError("map needs labels with at least one box")
    found, scores, right = (np.concatenate(parts) for parts in zip(*map(_judged, images), strict=True))
    areas: list[float] = []
    for each, count in zip(classes, counts, strict=True):
        own = np.flatnonzero(found == each)
        areas.append(_area(right[own[np.argsort(-scores[own], kind="stable")]], count))
    return float(np.mean(areas))


class _Image(NamedTuple):
    """The boxes that were found in an image, and those in its label.

    Attributes:
        boxes: the boxes that were found, `[n, 4]`.
        classes: their classes, `[n]`.
        scores: their scores, `[n]`.
        wanted: the boxes in the label with their classes, `[m, 5]`.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    wanted: np.ndarray


def _images(outputs: Sequence[np.ndarray], labels: Any) -> Iterator[_Image]:
    """The images of a batch.

    Raises:
        ModelError: the outputs are no boxes with scores, or the labels aren't those of so many images.
    """
    boxes = [it for it in outputs if it.dtype.kind == "f" and it.ndim in (2, 3) and it.shape[-1] == 4]
    shapes = [it.shape[:-1] for it in boxes]
    scores = [it for it in outputs if it.dtype.kind == "f" and it.shape in shapes]
    classes = [it for it in outputs if it.dtype.kind in "iu" and it.shape in shapes]
    if not boxes or not shapes == [it.shape for it in scores] == [it.shape for it in classes or scores]:
        got = ", ".join(f"{it.dtype}{list(it.shape)}" for it in outputs)
        raise ModelError(f"map needs outputs of boxes [n, 4], scores [n] and maybe integer classes [n], got {got}")
    found = [image for part in zip(boxes, classes or scores, scores, strict=True) for image in _split(*part)]
    given = [labels] if len(found) == 1 else list(labels)
    if len(given) != len(found):
        raise ModelError(f"map needs a label for each of {len(found)} images, got {len(given)}")
    for (places, kinds, marks), wanted in zip(found, map(_wanted, given), strict=True):
        if not classes or wanted.shape[1] == 4:
            kinds, wanted = np.zeros(len(marks)), np.pad(wanted[:, :4], ((0, 0), (0, 1)))
        yield _Image(places, kinds, marks, wanted)


def _split(boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Boxes, classes and scores, image by image."""
    rows = np.atleast_2d(scores)
    return zip(boxes.reshape(*rows.shape, 4), np.atleast_2d(classes), rows, strict=True)


def _wanted(label: Any) -> np.ndarray:
    """The boxes in the label of an image, without the rows that only fill up: `[m, 5]`, or `[m, 4]` without classes."""
    rows = np.asarray(label, np.float64)
    if rows.ndim not in (2, 3) or rows.shape[-1] not in (4, 5):
        raise ModelError(f"map needs labels [m, 5] or [m, 4] of each image, got {list(rows.shape)}")
    rows = rows.reshape(-1, rows.shape[-1])
    return rows if rows.shape[1] == 4 else rows[rows[:, 4] >= 0]


def _judged(image: _Image) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The classes and scores of the boxes that count, and whether each box is right, by overlap.

    The box with the highest score comes first, and takes the box of the label that it overlaps most among those that
    are left. The bits of `free` and `right` stand for the overlaps that are asked for, which are decided in one go.
    """
    order = np.lexsort((-image.scores, image.classes))
    sorted_classes = image.classes[order]
    order = order[np.arange(order.size) - np.searchsorted(sorted_classes, sorted_classes) < MOST]
    classes = image.classes[order]
    shares = _overlaps(image.boxes[order], image.wanted[:, :4])
    rows, columns = np.nonzero((shares >= _OVERLAPS[0]) & (classes[:, None] == image.wanted[:, 4]))
    best = np.lexsort((-shares[rows, columns], rows))
    rows, columns = rows[best], columns[best]
    reached = (1 << np.searchsorted(_OVERLAPS, shares[rows, columns], "right")) - 1
    right, free = [0] * len(order), [-1] * len(image.wanted)
    for row, column, bits in zip(rows.tolist(), columns.tolist(), reached.tolist(), strict=True):
        taken = bits & free[column] & ~right[row]
        right[row] |= taken
        free[column] &= ~taken
    each = np.array(right, np.int64)[:, None] >> np.arange(_OVERLAPS.size) & 1
    return classes, image.scores[order], each.astype(bool)


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The intersection over union of each box with each other: `[n, m]`."""
    a, b = a.astype(np.float64)[:, None], b[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(sides, 0, None).prod(-1)
    areas = [np.clip(it[..., 2:] - it[..., :2], 0, None).prod(-1) for it in (a, b)]
    return shared / np.maximum(areas[0] + areas[1] - shared, np.finfo(np.float64).tiny)


def _area(right: np.ndarray, count: int) -> float:
    """The area under the curve of precision over recall, as a mean over overlaps.

    Args:
        right: whether each box is right at each overlap, the highest score first: bool `[n, overlaps]`.
        count: the number of boxes in the labels.
    """
    found = np.cumsum(right, 0)
    precision = found / np.arange(1, len(right) + 1)[:, None]
    highest = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a greater one
    highest = np.pad(highest, ((0, 1), (0, 0)))  # none, where so many boxes are never found
    places = [np.searchsorted(recall, _RECALLS) for recall in (found / count).T]
    return float(np.mean([column[place] for column, place in zip(highest.T, places, strict=True)]))
