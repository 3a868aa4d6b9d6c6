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
    """Return the least number and the step of each block in `[blocks, block, N]`; None if some has too many steps."""
    low, high = blocks.min(axis=1), blocks.max(axis=1)
    is_found = low == high
    step = np.where(is_found & (low != 0), np.abs(low), 1).astype(np.float32)
    above = blocks - low[:, None]
    for count in range(1, codes):
        tried = np.where(is_found, step, (high - low) / np.float32(count))
        error = np.abs(np.rint(above / tried[:, None]) * tried[:, None] - above).max(axis=1)
        fits = ~is_found & (error <= _tolerance(blocks))
        step, is_found = np.where(fits, tried, step), is_found | fits
        if is_found.all():
            return low, step
    return (low, step) if is_found.all() else None


def _tolerance(blocks: np.ndarray) -> np.ndarray:
    return _TOLERANCE * np.abs(blocks).max(axis=1)
