"""Forms in which kernels read weights, larger than plain ones: these are stored, and packed when they are loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.polynomial import polynomial

TAPS = 3
POINTS: dict[int, tuple[float, ...]] = {2: (0, 1, -1), 4: (0, 0.625, -0.625, 1.5, -1.5)}
"""The points of interpolation by a tile's side; the last point is infinity. For 4, simple points with the least error
(0, 1, -1, 2, -2 have twice as much)."""
_WIDEST = 64
"""The most lanes of a vector, and filters by which a panel may be wider than what it holds."""
_FOUR = 4
"""The taps that one instruction multiplies."""


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


class _Form(Protocol):
    """A form of weights.

    Attributes:
        dtype: TVM's name of the element type.
    """

    dtype: ClassVar[str]

    def shape(self, plain: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of packed weights.

        Raises:
            ValueError: weights of this shape can't be packed so.
        """
        ...

    def pack(self, plain: np.ndarray, packed: np.ndarray) -> None:
        """Pack plain weights into memory of zeros, which has the shape of packed ones."""
        ...


@dataclass(frozen=True, slots=True)
class WinogradForm:
    """Filters `[filter, channel, 3, 3]` transformed, as `[panel, position, channel, its filter]`.

    They are up to four times as large (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016).

    Attributes:
        side: the pixels on a side of a tile of the result.
        width: the filters of a panel.
    """

    dtype: ClassVar[str] = "float32"
    side: int
    width: int

    def shape(self, plain: Sequence[int]) -> tuple[int, ...]:
        filters, channels, *taps = plain
        if self.side not in POINTS or taps != [TAPS, TAPS] or not 0 < self.width <= filters + _WIDEST:
            raise ValueError(f"filters of shape {tuple(plain)} have no form {self}")
        return -(-filters // self.width), (self.side + TAPS - 1) ** 2, channels, self.width

    def pack(self, plain: np.ndarray, packed: np.ndarray) -> None:
        """Transform filters in float64, panel by panel."""
        _, matrix, _ = matrices(self.side)
        both = np.kron(matrix, matrix)
        positions, channels = packed.shape[1:3]
        for number, panel in enumerate(packed):
            part = plain[number * self.width : (number + 1) * self.width]
            taps = part.reshape(len(part), channels, TAPS**2).transpose(2, 1, 0).astype(np.float64, order="C")
            panel[..., : len(part)] = (both @ taps.reshape(TAPS**2, -1)).reshape(positions, channels, -1)


@dataclass(frozen=True, slots=True)
class FoursForm:
    """Depthwise weights `[channel, row, column]`, as `[block, kind, row, four taps, channel and tap]`.

    Attributes:
        kinds: how far from each four taps the four pixels lie that are read, for each kind of column.
        lanes: the channels of a block.
    """

    dtype: ClassVar[str] = "int8"
    kinds: tuple[tuple[int, ...], ...]
    lanes: int

    def shape(self, plain: Sequence[int]) -> tuple[int, ...]:
        channels, rows, taps = plain
        if not 0 < self.lanes <= _WIDEST or {len(kind) for kind in self.kinds} != {-(-taps // _FOUR)}:
            raise ValueError(f"weights of shape {tuple(plain)} have no form {self}")
        return -(-channels // self.lanes), len(self.kinds), rows, len(self.kinds[0]), self.lanes * _FOUR

    def pack(self, plain: np.ndarray, packed: np.ndarray) -> None:
        channels, rows, taps = plain.shape
        padded = np.zeros((len(packed) * self.lanes, rows, taps), np.int8)
        padded[:channels] = plain
        lanes = padded.reshape(-1, self.lanes, rows, taps).transpose(0, 2, 1, 3)
        fours = packed.reshape(*packed.shape[:4], self.lanes, _FOUR)
        for (kind, shifts), byte in product(enumerate(self.kinds), range(_FOUR)):
            for part, shift in enumerate(shifts):
                tap = part * _FOUR + byte + shift
                if part * _FOUR <= tap < min((part + 1) * _FOUR, taps):
                    fours[:, kind, :, part, :, byte] = lanes[..., tap]


@dataclass(frozen=True, slots=True)
class OffsetsForm:
    """Sums of weights `[filter, row, column]` over the taps that lie on the image, `[kind of row, of column, filter]`.

    They are multiplied with minus the images' zero point, which this undoes.

    Attributes:
        zero_point: the zero point.
        rows: which taps lie on the image, for each kind of row.
        columns: the same for columns.
        lanes: the filters that rows are padded to whole blocks of.
    """

    dtype: ClassVar[str] = "int32"
    zero_point: int
    rows: tuple[tuple[bool, ...], ...]
    columns: tuple[tuple[bool, ...], ...]
    lanes: int

    def shape(self, plain: Sequence[int]) -> tuple[int, ...]:
        filters, *taps = plain
        kinds = self.rows, self.columns
        if not 0 < self.lanes <= _WIDEST or [{len(kind) for kind in axis} for axis in kinds] != [{tap} for tap in taps]:
            raise ValueError(f"weights of shape {tuple(plain)} have no form {self}")
        return len(self.rows), len(self.columns), -(-filters // self.lanes) * self.lanes

    def pack(self, plain: np.ndarray, packed: np.ndarray) -> None:
        inside = [np.array(kinds, np.int32) for kinds in (self.rows, self.columns)]
        sums = np.einsum("ri,cj,fij->rcf", *inside, plain.astype(np.int32))
        packed[..., : len(plain)] = -self.zero_point * sums


Form: TypeAlias = WinogradForm | FoursForm | OffsetsForm
_FORMS: dict[str, type[Form]] = {form.__name__: form for form in (WinogradForm, FoursForm, OffsetsForm)}


def packed(plain: np.ndarray, form: _Form) -> np.ndarray:
    """Return packed weights, in memory of their own."""
    found = np.zeros(form.shape(plain.shape), form.dtype)
    form.pack(plain, found)
    return found


def spelled(form: Form) -> dict[str, Any]:
    """Return a form as plain values, with its name."""
    return {"form": type(form).__name__, **asdict(form)}


def read_form(given: Mapping[str, Any]) -> Form:
    """Return the form that `spelled` has spelled.

    Raises:
        KeyError: there is none of that name.
        TypeError: it has other values.
    """
    values = {name: _frozen(value) for name, value in given.items()}
    return _FORMS[values.pop("form")](**values)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
