"""Grids of blocks, chosen by how much each row counts, as activation-aware clipping (AWQ) does; GPTQ rounds to them."""

import numpy as np

from ...ir.block_weight import BlockScheme, BlockWeight, in_blocks, rounded

_SHARES = tuple(np.linspace(1, 0.6, 9))
"""The shares of a block's range, which is widened to hold 0, that are tried for its grid."""


def search_grid(weight: np.ndarray, scheme: BlockScheme, importance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and zero points, float32 `[blocks, N]`, on which a matrix is rounded with the least weighted error.

    Args:
        weight: float32, `[K, N]`.
        scheme: how the matrix is put into blocks and codes.
        importance: how much the squared errors of each row count, `[K]`: the second moment of the row's input channel.
    """
    block = scheme.block or len(weight)
    blocks = in_blocks(weight, block)
    counts = in_blocks(importance.astype(np.float32)[:, None], block)
    whole = BlockWeight.nearest(weight, scheme)
    zero_points, steps = whole.zero_points.astype(np.float32), whole.scales
    least = np.full(steps.shape, np.inf, np.float32)
    for share in _SHARES:
        step = whole.scales * np.float32(share)
        codes = rounded(blocks, step, zero_points, scheme)
        error = (np.square((codes - zero_points[:, None]) * step[:, None] - blocks) * counts).sum(axis=1)
        least, steps = np.minimum(error, least), np.where(error < least, step, steps)
    return steps, zero_points
