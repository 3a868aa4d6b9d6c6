"""Numbers from a seed, which stand for your data."""

from collections.abc import Iterator

import numpy as np


def batches() -> Iterator[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    for _ in range(8):
        yield {"input": random.standard_normal((32, 512), dtype=np.float32)}
