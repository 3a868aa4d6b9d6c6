"""A graph that is compiled for many CPUs, and the numbers that it is fed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location, Value
from planish.ir.types import DType, TensorType

Build: TypeAlias = Callable[..., Sequence[Value]]
Dims: TypeAlias = Sequence[Sequence[int | str]]

EIGHTH = np.float32(0.125)


@dataclass(frozen=True, slots=True)
class Case:
    """A graph and what it is fed.

    Attributes:
        build: a function from a builder and the inputs to the outputs.
        arrays: the inputs.
        dims: the dimensions of the inputs, where some are symbolic.
        tolerance: how far floats may be off, and ten times that relative to large ones.
        steps: the number of steps by which integers may differ.
    """

    build: Build
    arrays: tuple[np.ndarray, ...]
    dims: Dims | None = None
    tolerance: float = 1e-4
    steps: int = 0

    def graph(self) -> Graph:
        graph = Graph("test")
        shapes = self.dims or [array.shape for array in self.arrays]
        types = [
            TensorType(DType.of(array.dtype), tuple(shape)) for array, shape in zip(self.arrays, shapes, strict=True)
        ]
        inputs = [graph.add_input(f"x{index}", type) for index, type in enumerate(types)]
        made = self.build(Builder(graph, location=Location("layer")), *inputs)
        graph.outputs = {f"y{index}": value for index, value in enumerate(made)}
        return graph

    def differences(self, expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> list[str]:
        """What is wrong with results, in words."""
        return [fault for name, wanted in expected.items() if (fault := self._difference(wanted, found[name], name))]

    def _difference(self, expected: np.ndarray, found: np.ndarray, name: str) -> str:
        if (found.dtype, found.shape) != (expected.dtype, expected.shape):
            return f"{name}: {found.dtype}{found.shape} instead of {expected.dtype}{expected.shape}"
        is_float = expected.dtype.kind == "f"
        relative, absolute = (10 * self.tolerance, self.tolerance) if is_float else (0.0, float(self.steps))
        wide, wanted = found.astype(np.float64), expected.astype(np.float64)
        wrong = ~np.isclose(wide, wanted, relative, absolute, equal_nan=True)
        if not wrong.any():
            return ""
        return (
            f"{name}: {wrong.sum()} of {wrong.size} numbers are off, the worst by "
            f"{np.abs(wide - wanted)[wrong].max():.3g}"
        )

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        return {f"x{index}": array for index, array in enumerate(self.arrays)}


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def halves(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Multiples of half a scale, of which those beyond the grid's ends saturate."""
    return (rng.integers(-400, 400, shape) / 16).astype(np.float32)


def octets(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape).astype(np.uint8)


def fake(op: Builder, x: Any, zero_point: Any = np.uint8(100), scale: Any = EIGHTH) -> Value:
    return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point), scale, zero_point)


def rounded(op: Builder, value: Any) -> Value:
    """The value in bfloat16 and back, as `reduce-precision` says it."""
    if isinstance(value, np.ndarray):
        return op.Cast(op.constant(value.astype(DType.bfloat16.numpy)), to=DType.float32)
    return op.Cast(op.Cast(value, to=DType.bfloat16), to=DType.float32)


def plain(op: Builder, value: Any) -> Any:
    return value
