"""Weights in 4 bits, by blocks along the depth: how they are rounded, and how `com.microsoft::MatMulNBits` stores them."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ...ir.graph import Node

CODES = 16
"""That 4 bits can tell apart."""


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

    @property
    def inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes, scales and zero points as MatMulNBits takes them: `[columns, blocks, block / 2]`, and `[columns, blocks]`."""
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
