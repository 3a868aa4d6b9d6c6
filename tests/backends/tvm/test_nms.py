import numpy as np
import pytest

RNG = np.random.default_rng(0)
FIRST = RNG.random((2, 12, 2))
CORNERS = np.concatenate([FIRST, FIRST + RNG.random((2, 12, 2)) - 0.2], -1).astype(np.float32)  # some are turned around
SCORES = RNG.integers(0, 5, (2, 3, 12)).astype(np.float32) / 4


@pytest.mark.parametrize("center", [0, 1])
def test_boxes_that_overlap_are_suppressed(agree, center: int) -> None:
    """The first of equal scores comes first; boxes of no area, no limit, and limits and thresholds from data."""

    def build(op, boxes, scores, limit, overlap, threshold):
        given = [(limit, overlap, threshold), (limit, overlap), (np.array([2]), np.float32([0.9]), np.float32([0.5]))]
        return [op.NonMaxSuppression(boxes, scores, *rest, center_point_box=center) for rest in given] + [
            op.NonMaxSuppression(boxes, scores, center_point_box=center)
        ]

    boxes = CORNERS.copy()
    boxes[:, 3] = boxes[:, 4] = 0
    rest = [np.array([4]), np.array([0.3], np.float32), np.array([0.2], np.float32)]
    dims = [("n", "boxes", 4), ("n", "classes", "boxes"), (1,), (1,), (1,)]
    few = [boxes[:1, :5], SCORES[:1, :2, :5], np.array([0]), *rest[1:]]
    none = [boxes[:1, :0], SCORES[:1, :2, :0], *rest]
    agree(build, boxes, SCORES, *rest, dims=dims, again=[few, none])
