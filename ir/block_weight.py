"""Weights of few bits, in blocks along K that have a scale and a zero point each: how they are rounded and stored.

The stored form is that of `com.microsoft::MatMulNBits`, ONNX Runtime's operator for weights alone.
"""

from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np

from .graph import Node

_SHARES = tuple(np.linspace(1, 0.65, 8))
"""The shares of a block's range that are tried for its codes."""
_LEAST_COUNT = 0.01
"""What a row's errors count at least, as a share of the mean: what was zero as far as was seen may not stay so."""
_SLAB = 1 << 21
"""The weights that are rounded at once, so that what is computed with stays small beside a model."""
_BLOCKS = (256, 128, 64, 32)
"""The sizes of blocks that ONNX Runtime's kernels on the CPU are fast for (16 too, unless codes have 2 bits)."""


@dataclass(frozen=True, slots=True)
class BlockScheme:
    """How a weight `[K, N]` is put into blocks and codes.

    Attributes:
        bits: the width of a code in bits, from 2 to 8.
        block: neighbours along K that share a scale and a zero point; the last block of a column may be shorter. Where
            it is 0, a whole column shares them.
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
        """The bits that a code takes up: bytes hold whole codes, so 3 bits are stored as 4.

        So are 2 bits in blocks of 16, for which ONNX Runtime multiplies by way of floats, ten times as slow as float32.
        """
        least = 3 if self.block == 16 else self.bits
        return next(bits for bits in (2, 4, 8) if bits >= max(self.bits, least))

    def stored_block(self, k: int) -> int:
        """Return the size of the blocks that a column of K weights is stored in, so that it takes the fewest bytes.

        Runtimes have no fast kernel for large blocks, none for whole columns, and fill up the last block. Smaller ones
        that repeat a scale and a zero point mean the same.
        """
        most = min(self.block or 256, 128 if self.stored_bits == 2 else 256)
        return min((block for block in (*_BLOCKS, 16) if most >= block >= min(most, 32)), key=partial(self._stored, k))

    def _stored(self, k: int, block: int) -> float:
        """The bytes of a column of K weights in blocks of some size."""
        return -(-k // block) * (block * self.stored_bits / 8 + 4 + (0 if self.symmetric else self.stored_bits / 8))


@dataclass(frozen=True, slots=True)
class BlockWeight:
    """A matrix `[K, N]` as `scale * (code - zero point)`, with a scale and a zero point for each block of a column.

    Attributes:
        codes: the codes, uint8, `[K, N]`.
        scales: the scales, float32, `[blocks, N]`.
        zero_points: the zero points, uint8 like the codes, or float32, `[blocks, N]`.
        scheme: how the codes were made.
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
        return cls._over(weight, scheme, (), None)

    @classmethod
    def over(cls, weight: np.ndarray, scheme: BlockScheme, power: np.ndarray | None = None) -> Self:
        """Round a matrix `[K, N]` of floats with the least squared error of each block.

        Ranges, widened to hold 0, are narrowed step by step, which clips a few weights and rounds the others less. For
        the codes of each try the best scale is known: that of linear regression. With 8 bits nothing is gained by
        clipping, and codes are the nearest.

        Args:
            weight: the matrix.
            scheme: the blocks and codes.
            power: the mean squares of what rows are multiplied by, up to a factor, `[K]`: what their squared errors
                count. Rows count alike where it isn't known, is zero, or isn't finite.
        """
        return cls._over(weight, scheme, _SHARES if scheme.bits < 8 else (), power)

    @classmethod
    def _over(
        cls, weight: np.ndarray, scheme: BlockScheme, shares: tuple[float, ...], power: np.ndarray | None
    ) -> Self:
        k, n = weight.shape
        blocks = -(-k // (scheme.block or k))
        codes, zero_points = np.empty((k, n), np.uint8), np.empty((blocks, n), np.uint8)
        scales, columns = np.empty((blocks, n), np.float32), max(1, _SLAB // k)
        counts = _counts(power, k)
        for place in (slice(first, first + columns) for first in range(0, n, columns)):
            codes[:, place], scales[:, place], zero_points[:, place] = _rounded_over(
                weight[:, place], scheme, shares, counts
            )
        return cls(codes, scales, zero_points, scheme)

    @property
    def floats(self) -> np.ndarray:
        """The matrix."""
        k = len(self.codes)
        zero_points, scales = (
            np.repeat(array, self.scheme.block or k, axis=0)[:k] for array in (self.zero_points, self.scales)
        )
        return (self.codes.astype(np.float32) - zero_points) * scales

    @property
    def stored_block(self) -> int:
        """The size of blocks that `inputs` are in."""
        return self.scheme.stored_block(len(self.codes))

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """Codes `[N, blocks, bytes of a block]`, scales and, unless symmetric, zero points, as in MatMulNBits."""
        return self.stored_in(self.scheme.stored_bits, self.stored_block)

    def stored_in(self, bits: int, block: int) -> tuple[np.ndarray, ...]:
        """Return `inputs` for codes that take up some bits, in blocks of a size that the scheme's is a multiple of."""
        k, n = self.codes.shape
        blocks = -(-k // block)
        times = (self.scheme.block or k + -k % block) // block
        scales, zero_points = (
            np.ascontiguousarray(np.repeat(array, times, axis=0)[:blocks].T)
            for array in (self.scales, self.zero_points)
        )
        shift = np.uint8(2 ** (bits - 1) - self.scheme.codes // 2 if self.scheme.symmetric else 0)
        octets = np.empty((n, blocks, block * bits // 8), np.uint8)
        for place in (slice(first, first + _SLAB // k + 1) for first in range(0, n, _SLAB // k + 1)):
            padded = np.pad(self.codes[:, place].T + shift, ((0, 0), (0, -k % block)))
            octets[place] = _packed(padded, bits).reshape(-1, *octets.shape[1:])
        if self.scheme.symmetric:  # the middle of what is stored, to which codes of fewer bits were shifted
            return octets, scales
        return octets, scales, _packed(zero_points, bits) if zero_points.dtype == np.uint8 else zero_points


def in_blocks(weight: np.ndarray, block: int) -> np.ndarray:
    """Return a matrix `[K, N]` as `[blocks, block, N]`, the last block padded with zeros; a block of 0 is all of K."""
    k, n = weight.shape
    block = block or k
    return np.pad(weight, ((0, -k % block), (0, 0))).reshape(-1, block, n)


def rounded(blocks: np.ndarray, step: np.ndarray, zero_points: np.ndarray, scheme: BlockScheme) -> np.ndarray:
    """Return the nearest codes, as floats, of `[blocks, block, N]` on grids `[blocks, N]`."""
    return np.clip(np.rint(blocks / step[:, None]) + zero_points[:, None], 0, scheme.codes - 1)


def _counts(power: np.ndarray | None, k: int) -> np.ndarray:
    """Return what each row's squared errors count, float32 `[K]`."""
    if power is None or not np.isfinite(mean := power.mean(dtype=np.float64)) or not mean:
        return np.ones(k, np.float32)
    return np.maximum(power / mean, _LEAST_COUNT).astype(np.float32)


@np.errstate(over="ignore", invalid="ignore")  # squares of huge numbers are no less than others
def _rounded_over(
    weight: np.ndarray, scheme: BlockScheme, shares: tuple[float, ...], counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes, scales and zero points of some columns, with the least error of some shares of the range."""
    blocks = in_blocks(weight.astype(np.float32, copy=False), scheme.block)
    counts = in_blocks(counts[:, None], scheme.block)
    scales, zero_points = step, _ = _whole_grid(blocks, scheme)
    codes = rounded(blocks, step, zero_points, scheme)
    least = (np.square((codes - zero_points[:, None]) * step[:, None] - blocks) * counts).sum(axis=1)
    for share in shares:
        tried = rounded(blocks, step * np.float32(share), zero_points, scheme)
        steps = tried - zero_points[:, None]
        scale = _fitted(steps, blocks, counts)
        error = (np.square(steps * scale[:, None] - blocks) * counts).sum(axis=1)
        is_less = error < least
        least, scales = np.where(is_less, error, least), np.where(is_less, scale, scales)
        codes = np.where(is_less[:, None], tried, codes)
    return codes.reshape(-1, weight.shape[1])[: len(weight)], scales, zero_points


def _whole_grid(blocks: np.ndarray, scheme: BlockScheme) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and zero points, `[blocks, N]` in float32, of the grids that hold all numbers of each block."""
    low, high = np.minimum(blocks.min(axis=1), 0), np.maximum(blocks.max(axis=1), 0)
    if scheme.symmetric:
        half = scheme.codes // 2
        width = np.maximum(-low / half, high / (half - 1))
        return np.where(width > 0, width, 1), np.full(low.shape, half, np.float32)
    step = np.where(high > low, high - low, 1) / np.float32(scheme.codes - 1)
    return step, np.rint(-low / step)


def _fitted(steps: np.ndarray, blocks: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the scales of least squared error for codes less zero points, by linear regression."""
    weighted = steps * counts
    squares = (weighted * steps).sum(axis=1)
    return (weighted * blocks).sum(axis=1) / np.where(squares > 0, squares, 1)


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
