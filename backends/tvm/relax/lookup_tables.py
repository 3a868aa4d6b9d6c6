"""Steps of an epilogue from byte to byte, looked up in tables that are computed with the graph."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ....ir.infer import find_operator
from ....ir.ops.dtypes import to_numpy, to_torch
from ....ir.types import DType
from ..kernels.epilogue import Epilogue, PostOp

_LIMITS = {str(dtype): dtype.limits for dtype in (DType.uint8, DType.int8)}


def tabulated(epilogue: Epilogue) -> Epilogue:
    """Return an epilogue with as few steps as possible, where looking bytes up in a table of all 256 is one step.

    Tables hold what the interpreter computes.
    """
    tables = _Tables(epilogue)
    return replace(epilogue, steps=tables.steps())


class _Tables:
    """The values of an epilogue's steps that depend on one byte alone.

    Attributes:
        roots: the place of the byte that a step's value depends on, by the step's place.
        values: the values at a place, for each byte from the least.
    """

    def __init__(self, epilogue: Epilogue) -> None:
        self._epilogue = epilogue
        self._first = 1 + len(epilogue.operands)
        self._limits = {
            1 + index: _LIMITS[operand.dtype]
            for index, operand in enumerate(epilogue.operands)
            if operand.dtype in _LIMITS
        }
        self.roots: dict[int, int] = {}
        self.values: dict[int, np.ndarray] = {}
        for index, step in enumerate(epilogue.steps):
            self._follow(self._first + index, step)

    def steps(self) -> tuple[PostOp, ...]:
        """Return the steps that the last one needs, in order, with tables in place of runs from byte to byte."""
        steps, first = self._epilogue.steps, self._first
        kept: dict[int, PostOp] = {}
        wanted = {first + len(steps) - 1} if steps else set[int]()
        for place in range(first + len(steps) - 1, first - 1, -1):
            if place not in wanted:
                continue
            kept[place] = step = self._table(place) or steps[place - first]
            wanted.update(given for given in step.inputs if isinstance(given, int))
        order = sorted(kept)
        moved = {place: first + index for index, place in enumerate(order)}
        return tuple(
            replace(kept[place], inputs=tuple(_moved(given, moved) for given in kept[place].inputs)) for place in order
        )

    def _follow(self, place: int, step: PostOp) -> None:
        if step.operator == "QuantizeLinear":
            self._limits[place] = dict(step.attributes)["limits"]
        given = {self._root(value) for value in step.inputs if isinstance(value, int)}
        root = given.pop() if len(given) == 1 else None
        if root is None or step.operator == "Cast":  # to elements that numpy hasn't
            return
        low, high = self._limits[root]
        self.values.setdefault(root, np.arange(low, high + 1))
        self.roots[place] = root
        self.values[place] = _computed(step, [self._value(value) for value in step.inputs])

    def _root(self, place: int) -> int | None:
        """Return the place of the byte that decides a value."""
        return self.roots.get(place, place if place in self._limits else None)

    def _value(self, given: float | None) -> np.ndarray | None:
        if given is None:
            return None
        return self.values[given] if isinstance(given, int) else np.asarray(given, np.float32)

    def _table(self, place: int) -> PostOp | None:
        if place not in self._limits or place not in self.roots:
            return None
        root = self.roots[place]
        by_code = np.empty(256, np.uint8)
        by_code[self.values[root].astype(np.uint8)] = self.values[place].astype(np.uint8)
        is_signed = self._limits[place][0] < 0
        return PostOp("Table", (("codes", by_code.tobytes()), ("is_signed", is_signed)), (root,))


def _moved(given: float | None, moved: dict[int, int]) -> float | None:
    return moved.get(given, given) if isinstance(given, int) else given


def _computed(step: PostOp, inputs: Sequence[np.ndarray | None]) -> np.ndarray:
    """Compute a step on rows of numbers."""
    attributes = dict(step.attributes)
    if step.operator == "DequantizeLinear":
        (integers,) = inputs
        assert integers is not None
        return (integers - attributes["zero_point"]).astype(np.float32) * np.float32(attributes["scale"])
    if step.operator == "QuantizeLinear":
        (floats,) = inputs
        assert floats is not None
        rounded = np.rint(floats / np.float32(attributes["scale"])) + attributes["zero_point"]
        return np.clip(rounded, *attributes["limits"]).astype(np.int64)
    given = [None if value is None else to_torch(np.atleast_1d(value)) for value in inputs]
    return to_numpy(find_operator(step.operator).function(*given, **attributes))
