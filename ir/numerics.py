"""How far results are from others, and how far they may be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .types import DType

Outputs = Mapping[str, np.ndarray]
"""What a model returns, by name."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far floats may be from those that they should equal, because sums round differently in another order.

    Attributes:
        rtol: the tolerance relative to each number.
        atol: the tolerance relative to the largest number of the array, or to 1 if that is less.
    """

    rtol: float = 1e-3
    atol: float = 1e-4

    def __str__(self) -> str:
        return f"rtol {self.rtol:g} and atol {self.atol:g}"


FLOATS = Tolerance()

FLUSHED = (np.dtype(np.float32), np.dtype(np.float64))
"""The types whose subnormal numbers are far below what sums round off."""


def flattened(outputs: Mapping[str, Any]) -> Outputs:
    """Outputs as arrays alone: one for each element of a sequence or key of a map, none for an empty optional."""
    flat: dict[str, np.ndarray] = {}
    for name, held in outputs.items():
        if isinstance(held, list) and held and isinstance(held[0], dict):
            flat.update((f"{name}[{key!r}]", np.array([row[key] for row in held], np.float32)) for key in held[0])
        elif isinstance(held, list):
            flat.update((f"{name}[{index}]", array) for index, array in enumerate(held))
        elif held is not None:
            flat[name] = held
    return flat


def is_float(array: np.ndarray) -> bool:
    """Whether the elements are floats of any width."""
    return DType.of(array.dtype).is_float


def drift(reference: Sequence[Outputs], actual: Sequence[Outputs]) -> float:
    """The largest relative error of any output, as the ratio of L2 norms over all probes: 0 for equal, 1 for unrelated.

    For what isn't float, such as classes, it is the share that differs. Places where the reference itself is not finite
    (masks) don't count. Outputs that are missing or of other shapes are infinitely far away.
    """
    return max((relative_error(name, reference, actual) for name in reference[0]), default=0.0) if reference else 0.0


def relative_error(name: str, reference: Sequence[Outputs], actual: Sequence[Outputs]) -> float:
    """The error of one output, measured as by `drift`."""
    rows = [row for row in zip(reference, actual, strict=True) if name in row[0]]
    if any(name not in got or expected[name].shape != got[name].shape for expected, got in rows):
        return float("inf")
    pairs = [(expected[name], got[name]) for expected, got in rows]
    if pairs and not is_float(pairs[0][0]):
        differing = np.concatenate([(expected != got).reshape(-1) for expected, got in pairs])
        return float(np.mean(differing)) if differing.size else 0.0
    error = norm = 0.0
    for expected, got in pairs:
        wanted = expected.astype(np.float64)
        with np.errstate(invalid="ignore"):
            missed = got.astype(np.float64) - wanted
        if not (finite := np.isfinite(wanted)).all():
            wanted, missed = wanted[finite], missed[finite]
        error += float(np.vdot(missed, missed))
        norm += float(np.vdot(wanted, wanted))
    if error == 0.0:
        return 0.0
    return float(np.sqrt(error / norm)) if norm and np.isfinite(error) else float("inf")


def is_close(
    expected: np.ndarray, got: np.ndarray, rounding: float = 0.0, *, tolerance: Tolerance = FLOATS, slack: float = 0.0
) -> bool:
    """Whether two results of one shape agree: floats within a tolerance, all else to the element.

    Args:
        expected: the right result.
        got: the result that is held to the right one.
        rounding: a relative error that is allowed instead, if it isn't 0.
        tolerance: how far floats may be off.
        slack: how far every float may be off beyond that.
    """
    if rounding:
        return drift([{"": expected}], [{"": got}]) <= rounding
    if not is_float(expected):
        return bool(np.array_equal(expected, got))
    atol = tolerance.atol * min(1.0, scale_of(expected)) + slack
    return bool(np.allclose(got, expected, rtol=tolerance.rtol, atol=atol, equal_nan=True))


def scale_of(array: np.ndarray) -> float:
    """The size of the largest finite number."""
    sizes = np.abs(array.astype(np.float64))
    return float(np.max(sizes, initial=0.0, where=np.isfinite(sizes)))


def largest_difference(expected: np.ndarray, got: np.ndarray) -> float:
    """The largest difference between two numbers at the same place."""
    return float(np.nanmax(np.abs(expected.astype(np.float64) - got.astype(np.float64)), initial=0.0))


def flushed(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array in a type, with zeros in the place of numbers that are subnormal there if it is one of `FLUSHED`."""
    with np.errstate(under="ignore"):
        cast = array.astype(dtype)
    return np.where(is_subnormal(cast), dtype.type(0), cast) if dtype in FLUSHED else cast


def is_subnormal(array: np.ndarray) -> np.ndarray:
    """Which numbers of a float32 or float64 array are subnormal: nearer to 0 than arithmetic is fast and precise."""
    return (array != 0) & (np.abs(array) < np.finfo(array.dtype).smallest_normal)
