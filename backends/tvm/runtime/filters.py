"""Filters of Winograd's convolutions, which are stored plain and transformed when they are loaded.

Transformed they are up to four times as large (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
2016).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial import polynomial

TAPS = 3
POINTS: dict[int, tuple[float, ...]] = {2: (0, 1, -1), 4: (0, 0.625, -0.625, 1.5, -1.5)}
"""The points of interpolation by a tile's side; the last point is infinity. For 4, simple points with the least error
(0, 1, -1, 2, -2 have twice as much)."""
_WIDEST = 64
"""The most filters by which a panel may be wider than what it holds: a vector's lanes at the least."""


@cache
def matrices(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the transforms of the image, of the weights, and back, for a tile's columns and rows (Cook-Toom)."""
    points = np.array(POINTS[side])
    size = side + TAPS - 1
    image, weights, back = np.zeros((size, size)), np.zeros((size, TAPS)), np.zeros((side, size))
    for index, point in enumerate(points):
        others = np.delete(points, index)
        image[index, :-1] = polynomial.polyfromroots(others)
        weights[index] = point ** np.arange(TAPS) / np.prod(point - others)
        back[:, index] = point ** np.arange(side)
    image[-1] = polynomial.polyfromroots(points)
    weights[-1, -1] = back[-1, -1] = 1
    return image, weights, back


@dataclass(frozen=True, slots=True)
class Packing:
    """The form in which a kernel reads filters `[filter, channel, 3, 3]`: `[panel, position, channel, its filter]`.

    Attributes:
        side: the pixels on a side of a tile of the result.
        width: the filters of a panel.
    """

    side: int
    width: int

    def shape(self, plain: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of packed filters.

        Raises:
            ValueError: filters of this shape can't be packed so.
        """
        if self.side not in POINTS or len(plain) != 4 or tuple(plain[2:]) != (TAPS, TAPS):
            raise ValueError(f"filters of shape {tuple(plain)} have no tiles of side {self.side}")
        filters, channels, *_ = plain
        if not 0 < self.width <= filters + _WIDEST:
            raise ValueError(f"{filters} filters have no panels of {self.width}")
        return -(-filters // self.width), (self.side + TAPS - 1) ** 2, channels, self.width

    def pack(self, plain: np.ndarray, packed: np.ndarray) -> None:
        """Transform float32 filters in float64, panel by panel, into memory of the shape that they have packed."""
        _, matrix, _ = matrices(self.side)
        both = np.kron(matrix, matrix)
        positions, channels = packed.shape[1:3]
        for number, panel in enumerate(packed):
            part = plain[number * self.width : (number + 1) * self.width]
            taps = part.reshape(len(part), channels, TAPS**2).transpose(2, 1, 0).astype(np.float64, order="C")
            panel[..., : len(part)] = (both @ taps.reshape(TAPS**2, -1)).reshape(positions, channels, -1)
            panel[..., len(part) :] = 0

    def packed(self, plain: np.ndarray) -> np.ndarray:
        """Return packed filters, in memory of their own."""
        packed = np.empty(self.shape(plain.shape), np.float32)
        self.pack(plain, packed)
        return packed
