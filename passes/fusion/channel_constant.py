"""Constants of one number for each channel, as scales and biases behind a layer are."""

import numpy as np

from ..rewrite import Match


def per_channel(match: Match, counted: str) -> np.ndarray | None:
    """The constant `c`, which is broadcast along everything but the channels of `x`, as a vector of them.

    Args:
        match: binds `x`, of at least two axes, and `c`.
        counted: the name of a constant whose first axis has the channels.

    Returns:
        None where `c` is no such constant.
    """
    data, channels, rank = match.constant("c"), match.constant(counted), match["x"].type.rank
    if data is None or channels is None or data.ndim > rank:
        return None
    padded = data.reshape((1,) * (rank - data.ndim) + data.shape)
    if any(size != 1 for axis, size in enumerate(padded.shape) if axis != 1):
        return None
    return np.broadcast_to(padded.reshape(-1), len(channels)) if padded.shape[1] in (1, len(channels)) else None
