"""The bytes of an array, a block at a time: what hashes and writes a weight never needs a copy of the whole."""

from collections.abc import Iterator

import numpy as np

_BLOCK = 1 << 24


def blocks(array: np.ndarray) -> Iterator[memoryview]:
    """The elements' bytes in row-major order; of an array that lies otherwise in memory a part is copied at a time."""
    if array.flags.c_contiguous or array.nbytes <= _BLOCK:
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        return
    rows = max(1, _BLOCK * len(array) // array.nbytes)
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        yield from blocks(part if len(part) > 1 else part[0])
