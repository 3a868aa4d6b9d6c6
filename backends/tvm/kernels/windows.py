"""How windows of known sizes lie on an image."""

from dataclasses import dataclass
from typing import TypeVar

from tvm import tirx

from .vectors import Scalar

Pair = tuple[int, int]
"""A number for the rows and one for the columns; an image with one axis has one row."""
_Place = TypeVar("_Place", int, Scalar)


@dataclass(frozen=True, slots=True)
class Window:
    """Windows on an image of two axes, by the sizes of image and result; begins and ends are padding."""

    image: Pair
    result: Pair
    kernel: Pair
    strides: Pair
    dilations: Pair
    begins: Pair
    ends: Pair

    @property
    def is_point(self) -> bool:
        """Whether each window is the one pixel in its place."""
        return self.kernel == (1, 1) and self.image == self.result and self.strides == (1, 1) and self.begins == (0, 0)

    @classmethod
    def points(cls, image: Pair) -> "Window":
        """Return windows of one pixel each."""
        return cls(image, image, (1, 1), (1, 1), (1, 1), (0, 0), (0, 0))

    def at(self, axis: int, place: _Place, tap: _Place) -> _Place:
        """Return where along an axis of the image a tap of a window lies."""
        return place * self.strides[axis] + tap * self.dilations[axis] - self.begins[axis]

    def inside(self, axis: int, place: int, *, padded: bool = False) -> list[bool]:
        """Return which taps of a window along an axis lie on the image, or on its padding."""
        low, high = self._bounds(axis, padded=padded)
        return [low <= self.at(axis, place, tap) < high for tap in range(self.kernel[axis])]

    def rows(self, row: Scalar, *, padded: bool = False) -> tuple[Scalar, Scalar]:
        """Return the first tap of a window on a row of the image, or of its padding, and the one behind the last."""
        low, high = self._bounds(0, padded=padded)
        first, last = self.at(0, 0, 0), self.at(0, self.result[0] - 1, self.kernel[0] - 1)
        start, gap = self.at(0, row, 0), self.dilations[0]
        begin = 0 if first >= low else tirx.max(tirx.floordiv(low - start + (gap - 1), gap), 0)
        end = self.kernel[0] if last < high else tirx.min(tirx.floordiv(high - start + (gap - 1), gap), self.kernel[0])
        return begin, end

    def taps(self, axis: int) -> list[list[bool]]:
        """Return which taps lie on the image, for each kind of place along an axis of the result."""
        places = [self.inside(axis, place) for place in range(self.result[axis])]
        first, last = self._whole(axis)
        return places if first is None else [*places[: first + 1], *places[last + 1 :]]

    def kind(self, axis: int, place: Scalar | None) -> Scalar:
        """Return the kind of a place: each that reaches into the padding is its own, None is any other."""
        first, last = self._whole(axis)
        if first is None or place is None:
            found = place if first is None else first
            assert found is not None
            return found
        least, most = (min, max) if isinstance(place, int) else (tirx.min, tirx.max)
        return least(place, first) + most(place - last, 0)

    def tiles(self, columns: int) -> tuple[list[int], list[int]]:
        """Return the first columns of tiles of a row, which may overlap: those without padding, and the others."""
        inner, edges = list[int](), list[int]()
        for start in range(0, self.result[1], columns):
            first = min(start, self.result[1] - columns)
            end = self.at(1, first + columns - 1, self.kernel[1] - 1)
            is_inner = self.at(1, first, 0) >= 0 and end < self.image[1]
            (inner if is_inner else edges).append(first)
        return inner, edges

    def _whole(self, axis: int) -> tuple[int | None, int]:
        """Return the first and last place along an axis that need no padding."""
        whole = [place for place in range(self.result[axis]) if all(self.inside(axis, place))]
        return (whole[0], whole[-1]) if whole else (None, 0)

    def _bounds(self, axis: int, *, padded: bool) -> Pair:
        return (-self.begins[axis], self.image[axis] + self.ends[axis]) if padded else (0, self.image[axis])
