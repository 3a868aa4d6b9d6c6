"""Weights that lie on a grid already, as in a model that was dequantized: they are found, and not rounded again.

Llama.cpp's Q4_1, for one, has `d * q + m` in blocks of 32, and such a model is often all that there is.
"""

import numpy as np

from ...ir.block_weight import BlockScheme, BlockWeight, in_blocks

_TOLERANCE = 4 * np.finfo(np.float32).eps
"""The share of the largest number in a block that two roundings of floats explain."""
_FIRST = 64
"""Columns that are looked at first, since most weights lie on no grid."""


def given_grid(weight: np.ndarray, scheme: BlockScheme) -> BlockWeight | None:
    """Return the codes of a matrix whose blocks all have their numbers in equal steps; None where some block hasn't.

    Zero points are whole numbers where all of them can be, and floats otherwise.

    Args:
        weight: float32, `[K, N]`.
        scheme: how the matrix is put into blocks and codes.
    """
    block = scheme.block or len(weight)
    padded = np.pad(weight, ((0, -len(weight) % block), (0, 0)), mode="edge")
    if scheme.symmetric or _grid(in_blocks(padded[:, :_FIRST], block), scheme.codes) is None:
        return None
    blocks = in_blocks(padded, block)
    found = _grid(blocks, scheme.codes)
    if found is None:
        return None
    low, step = found
    codes, zero_points = np.rint((blocks - low[:, None]) / step[:, None]), -low / step
    whole = np.maximum(np.rint(zero_points), 0)
    moved = codes + (whole - np.rint(zero_points))[:, None]
    off = np.abs(zero_points - np.rint(zero_points)) * step
    if whole.max() < scheme.codes > moved.max() and np.all(off <= _tolerance(blocks)):
        codes, zero_points = moved, whole.astype(np.uint8)
    codes = codes.astype(np.uint8).reshape(padded.shape)[: len(weight)]
    return BlockWeight(codes, step, zero_points, scheme)


def _grid(blocks: np.ndarray, codes: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the least number and the step of each block in `[blocks, block, N]`; None if some has too many steps.

    The least gap between two numbers of a block is one step or a few, so few counts of steps have to be tried.
    """
    low, high = blocks.min(axis=1), blocks.max(axis=1)
    step = np.where((low == high) & (low != 0), np.abs(low), 1).astype(np.float32)
    places = np.nonzero(low < high)
    above = (blocks - low[:, None]).swapaxes(1, 2)[places]
    width, tolerance = (high - low)[places], _tolerance(blocks)[places]
    gaps = np.diff(np.sort(above, axis=1), axis=1)
    gap = np.where(gaps > 2 * tolerance[:, None], gaps, np.inf).min(axis=1, initial=np.inf)
    gap, found, left = np.minimum(gap, width), np.ones_like(width), np.arange(len(width))
    for steps in range(1, codes):
        counts = np.rint(width[left] * steps / gap[left])
        if counts.max(initial=0) >= codes:
            return None
        tried = found[left] = width[left] / counts
        part = above[left] if steps > 1 else above
        error = np.abs(np.rint(part / tried[:, None]) * tried[:, None] - part).max(axis=1, initial=0)
        left = left[~(error <= tolerance[left])]  # so that infinity lies on no grid
        if not left.size:
            break
    step[places] = found
    return None if left.size else (low, step)


def _tolerance(blocks: np.ndarray) -> np.ndarray:
    return _TOLERANCE * np.abs(blocks).max(axis=1)
