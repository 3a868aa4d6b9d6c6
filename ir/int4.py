"""Weights in 4 bits by blocks along the depth: how they are rounded, and how `com.microsoft::MatMulNBits` has them."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from .graph import Node

CODES = 16
"""The number of codes that 4 bits can tell apart."""
_SHARES = np.linspace(1, 0.65, 8)
"""The shares of a block's range that are tried for its codes."""


@dataclass(frozen=True, slots=True)
class BlockWeight:
    """A matrix `[depth, columns]` as `scale * (code - zero point)`, these of each block of a column.

    Attributes:
        codes: from 0 to 15, uint8, `[depth, columns]`.
        scales: float32, `[blocks, columns]`.
        zero_points: like the codes, `[blocks, columns]`.
    """

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray

    @classmethod
    def of(cls, node: Node) -> Self | None:
        """What a MatMulNBits multiplies by; None where that isn't constant, or not of whole blocks of 4 bits."""
        data, scales, zero_points = (node.constant(index) for index in (1, 2, 3))
        depth, columns, block = (int(node.attributes[name]) for name in ("K", "N", "block_size"))
        blocks = depth // block
        if (
            data is None
            or scales is None
            or scales.dtype != np.float32
            or (node.input(3) is not None and (zero_points is None or zero_points.dtype != np.uint8))
            or node.attributes.get("bits", 4) != 4
            or depth % block
        ):
            return None
        rows = (
            np.full((columns, blocks), CODES // 2, np.uint8) if zero_points is None else _unpacked(zero_points, columns)
        )
        return cls(_unpacked(data, columns).T, scales.reshape(columns, blocks).T, rows[:, :blocks].T)

    @classmethod
    def over(cls, weight: np.ndarray, block: int) -> Self:
        """A matrix `[depth, columns]` of floats, rounded with the least squared error of each block.

        Ranges, widened to hold 0, are narrowed step by step, which clips a few weights and rounds the others less. For
        the codes of each try the best scale is known: that of linear regression.
        """
        depth, columns = weight.shape
        blocks = weight.reshape(-1, block, columns).astype(np.float32)
        low, high = np.minimum(blocks.min(axis=1), 0), np.maximum(blocks.max(axis=1), 0)
        step = np.where(high > low, high - low, 1) / np.float32(CODES - 1)
        zero_points = np.rint(-low / step)
        least = np.full(low.shape, np.inf, np.float32)
        codes, scales = np.zeros(blocks.shape, np.uint8), np.zeros(low.shape, np.float32)
        for share in _SHARES.astype(np.float32):
            tried = np.clip(np.rint(blocks / (step * share)[:, None]) + zero_points[:, None], 0, CODES - 1)
            steps = tried - zero_points[:, None]
            scale = (steps * blocks).sum(axis=1) / np.maximum(np.square(steps).sum(axis=1), 1)
            error = np.square(steps * scale[:, None] - blocks).sum(axis=1)
            is_less = error < least
            least, scales = np.where(is_less, error, least), np.where(is_less, scale, scales)
            codes = np.where(is_less[:, None], tried, codes).astype(np.uint8)
        return cls(codes.reshape(depth, columns), scales, zero_points.astype(np.uint8))

    @property
    def floats(self) -> np.ndarray:
        """The matrix."""
        block = len(self.codes) // len(self.scales)
        zero_points, scales = (np.repeat(array, block, axis=0) for array in (self.zero_points, self.scales))
        return (self.codes.astype(np.float32) - zero_points) * scales

    @property
    def inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes `[columns, blocks, block / 2]`, scales and zero points `[columns, blocks]`, as in MatMulNBits."""
        blocks, columns = self.scales.shape
        return (
            _packed(self.codes.T).reshape(columns, blocks, -1),
            np.ascontiguousarray(self.scales.T),
            _packed(self.zero_points.T),
        )


def _packed(rows: np.ndarray) -> np.ndarray:
    """Two codes of a row in a byte, the lower bits first; an odd row ends with a code of 0."""
    even = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
    return even[:, ::2] | even[:, 1::2] << 4


def _unpacked(data: np.ndarray, columns: int) -> np.ndarray:
    octets = data.reshape(columns, -1)
    return np.stack([octets & (CODES - 1), octets >> 4], axis=-1).reshape(columns, -1)
