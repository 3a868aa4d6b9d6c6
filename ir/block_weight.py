"""Weights of few bits, in blocks along K that have a scale and a zero point each: how they are rounded and stored.

The stored form is that of `com.microsoft::MatMulNBits`, ONNX Runtime's operator for weights alone.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from .graph import Node

_SHARES = tuple(np.linspace(1, 0.65, 8))
"""The shares of a block's range that are tried for its codes."""


@dataclass(frozen=True, slots=True)
class BlockScheme:
    """How a weight `[K, N]` is put into blocks and codes.

    Attributes:
        bits: of a code, from 2 to 8.
        block: neighbours along K that share a scale and a zero point; the last block of a column may be shorter.
        symmetric: whether every zero point is the middle code, so that none needs to be stored.
    """

    bits: int
    block: int
    symmetric: bool = False

    @property
    def codes(self) -> int:
        """The number of codes."""
        return 2**self.bits

    @property
    def stored_bits(self) -> int:
        """The bits that a code takes up: bytes hold whole codes, so 3 bits are stored as 4."""
        return next(bits for bits in (2, 4, 8) if bits >= self.bits)


@dataclass(frozen=True, slots=True)
class BlockWeight:
    """A matrix `[K, N]` as `scale * (code - zero point)`, with a scale and a zero point for each block of a column.

    Attributes:
        codes: uint8, `[K, N]`.
        scales: float32, `[blocks, N]`.
        zero_points: uint8 like the codes, or float32, `[blocks, N]`.
        scheme: how they were made.
    """

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray
    scheme: BlockScheme

    @classmethod
    def of(cls, node: Node) -> Self | None:
        """Return what a MatMulNBits multiplies by; None where that isn't constant."""
        data, scales, zero_points = (node.constant(index) for index in (1, 2, 3))
        k, n, block = (int(node.attributes[name]) for name in ("K", "N", "block_size"))
        bits = int(node.attributes.get("bits", 4))
        if (
            data is None
            or scales is None
            or scales.dtype != np.float32
            or (
                node.input(3) is not None
                and (zero_points is None or str(zero_points.dtype) not in ("uint8", "float32"))
            )
        ):
            return None
        blocks = -(-k // block)
        scheme = BlockScheme(bits, block, symmetric=zero_points is None)
        if zero_points is None:
            zeros = np.full((n, blocks), scheme.codes // 2, np.uint8)
        elif zero_points.dtype == np.uint8:
            zeros = _unpacked(zero_points, n, bits)[:, :blocks]
        else:
            zeros = zero_points.reshape(n, blocks)
        return cls(_unpacked(data, n, bits)[:, :k].T, scales.reshape(n, blocks).T, zeros.T, scheme)

    @classmethod
    def nearest(cls, weight: np.ndarray, scheme: BlockScheme) -> Self:
        """Round a matrix `[K, N]` to the nearest codes on grids over each block's whole range, widened to hold 0."""
        return cls._over(weight, scheme, (1.0,))

    @classmethod
    def over(cls, weight: np.ndarray, scheme: BlockScheme) -> Self:
        """Round a matrix `[K, N]` of floats with the least squared error of each block.

        Ranges, widened to hold 0, are narrowed step by step, which clips a few weights and rounds the others less. For
        the codes of each try the best scale is known: that of linear regression.
        """
        return cls._over(weight, scheme, _SHARES)

    @classmethod
    def _over(cls, weight: np.ndarray, scheme: BlockScheme, shares: tuple[float, ...]) -> Self:
        blocks = in_blocks(weight.astype(np.float32), scheme.block)
        step, zero_points = _whole_grid(blocks, scheme)
        least = np.full(step.shape, np.inf, np.float32)
        codes, scales = np.zeros(blocks.shape, np.uint8), step
        for share in shares:
            tried = rounded(blocks, step * np.float32(share), zero_points, scheme)
            steps = tried - zero_points[:, None]
            scale = step if len(shares) == 1 else _fitted(steps, blocks)
            error = np.square(steps * scale[:, None] - blocks).sum(axis=1)
            is_less = error < least
            least, scales = np.where(is_less, error, least), np.where(is_less, scale, scales)
            codes = np.where(is_less[:, None], tried, codes).astype(np.uint8)
        k, n = weight.shape
        return cls(codes.reshape(-1, n)[:k], scales, zero_points.astype(np.uint8), scheme)

    @property
    def floats(self) -> np.ndarray:
        """The matrix."""
        block, k = self.scheme.block, len(self.codes)
        zero_points, scales = (np.repeat(array, block, axis=0)[:k] for array in (self.zero_points, self.scales))
        return (self.codes.astype(np.float32) - zero_points) * scales

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """Codes `[N, blocks, bytes of a block]`, scales and, unless symmetric, zero points, as in MatMulNBits."""
        n, bits = self.codes.shape[1], self.scheme.stored_bits
        padded = np.pad(self.codes, ((0, -len(self.codes) % self.scheme.block), (0, 0)))
        octets = _packed(padded.T, bits).reshape(n, len(self.scales), -1)
        scales = np.ascontiguousarray(self.scales.T)
        if self.scheme.symmetric:
            shift = 2 ** (bits - 1) - self.scheme.codes // 2  # where 3 bits are stored as 4, the middle moves
            return (octets if not shift else _packed(padded.T + np.uint8(shift), bits).reshape(octets.shape)), scales
        if self.zero_points.dtype == np.uint8:
            return octets, scales, _packed(self.zero_points.T, bits)
        return octets, scales, np.ascontiguousarray(self.zero_points.T)


def in_blocks(weight: np.ndarray, block: int) -> np.ndarray:
    """Return a matrix `[K, N]` as `[blocks, block, N]`, with zeros where the last block is shorter."""
    k, n = weight.shape
    return np.pad(weight, ((0, -k % block), (0, 0))).reshape(-1, block, n)


def rounded(blocks: np.ndarray, step: np.ndarray, zero_points: np.ndarray, scheme: BlockScheme) -> np.ndarray:
    """Return the nearest codes, as floats, of `[blocks, block, N]` on grids `[blocks, N]`."""
    return np.clip(np.rint(blocks / step[:, None]) + zero_points[:, None], 0, scheme.codes - 1)


def _whole_grid(blocks: np.ndarray, scheme: BlockScheme) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and zero points, `[blocks, N]` in float32, of the grids that hold all numbers of each block."""
    low, high = np.minimum(blocks.min(axis=1), 0), np.maximum(blocks.max(axis=1), 0)
    if scheme.symmetric:
        half = scheme.codes // 2
        width = np.maximum(-low / half, high / (half - 1))
        return np.where(width > 0, width, 1), np.full(low.shape, half, np.float32)
    step = np.where(high > low, high - low, 1) / np.float32(scheme.codes - 1)
    return step, np.rint(-low / step)


def _fitted(steps: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Return the scales of least squared error for codes less zero points, by linear regression."""
    return (steps * blocks).sum(axis=1) / np.maximum(np.square(steps).sum(axis=1), 1)


def _packed(rows: np.ndarray, bits: int) -> np.ndarray:
    """Put the codes of each row into bytes, the lower bits first; a row that ends within a byte is filled up by 0."""
    count = 8 // bits
    groups = np.pad(rows, ((0, 0), (0, -rows.shape[1] % count))).reshape(len(rows), -1, count)
    octets = np.zeros(groups.shape[:2], np.uint8)
    for place in range(count):
        octets |= groups[..., place] << np.uint8(bits * place)
    return octets


def _unpacked(data: np.ndarray, n: int, bits: int) -> np.ndarray:
    octets, mask = data.reshape(n, -1), np.uint8(2**bits - 1)
    return np.stack([octets >> np.uint8(shift) & mask for shift in range(0, 8, bits)], axis=-1).reshape(n, -1)
