"""Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, in three parts that share no image."""

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_digits

TRAINING, CALIBRATION = 700, 400  # the other 697 images are the test


def split() -> list[tuple[np.ndarray, np.ndarray]]:
    """Images, float32[n, 1, 8, 8] from 0 to 1, and labels, int64[n], for training, calibration and test."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = (digits.images[order, None] / 16).astype(np.float32)
    labels = digits.target[order].astype(np.int64)
    bounds = [TRAINING, TRAINING + CALIBRATION]
    return list(zip(np.split(images, bounds), np.split(labels, bounds), strict=True))


def calibration(batch: int = 40) -> Iterator[dict[str, np.ndarray]]:
    """Images without labels: what passes observe and learn from."""
    images, _ = split()[1]
    for start in range(0, len(images), batch):
        yield {"images": images[start : start + batch]}


def test(batch: int = 100) -> Iterator[dict[str, np.ndarray]]:
    """The images that the metric is computed on, and which digits they show."""
    images, labels = split()[2]
    for start in range(0, len(images), batch):
        yield {"images": images[start : start + batch], "labels": labels[start : start + batch]}
