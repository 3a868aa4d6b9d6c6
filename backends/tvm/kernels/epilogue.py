"""Epilogues: elementwise operators on a kernel's results while they are still in registers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .vector_math import COARSE, ELEMENTS, Attributes
from .vectors import Scalar, cast, held, vector_type


class Broadcast(Enum):
    """How an operand lies beside a kernel's result."""

    CHANNELS = "channels"
    """It has a number for each channel: a column of a product."""
    ELEMENTS = "elements"
    """It has the result's shape."""
    ROWS = "rows"
    """It has a number for each row of a product."""


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that an epilogue reads: how it lies beside the kernel's result, and what elements it has."""

    reach: Broadcast
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class PostOp:
    """An elementwise operator.

    Attributes:
        operator: its name.
        attributes: by name.
        inputs: each a number, or the place among the kernel's result, the operands and the results of the steps before;
            None where it is left out.
    """

    operator: str
    attributes: Attributes
    inputs: tuple[int | float | None, ...]


@dataclass(frozen=True, slots=True)
class Epilogue:
    """Elementwise operators on a kernel's result; equal ones make equal kernels.

    Attributes:
        operands: the tensors that it reads.
        steps: in order; the last one's result is the kernel's.
        dtype: of the elements that are stored. Within, 8-bit integers are held in int32.
        is_coarse: whether what is stored, or all that is made of it, is rounded to 8 bits or so at once.
    """

    operands: tuple[Operand, ...] = ()
    steps: tuple[PostOp, ...] = ()
    dtype: str = "float32"
    is_coarse: bool = False

    def applied(self, result: tirx.Expr | None, load: Callable[[int], tirx.Expr]) -> tirx.Expr:
        """Return the vector to store for one of the kernel's results; `load` reads an operand in the result's place.

        A kernel without a result of its own, None, has steps that read operands alone.
        """
        beside = [held(load(index)) for index in range(len(self.operands))]
        values: list[tirx.Expr | None] = [result if result is None or not self.steps else held(result), *beside]
        elements = COARSE if self.is_coarse else ELEMENTS
        for step in self.steps:
            inputs = [_input(place, values) for place in step.inputs]
            values.append(held(elements[step.operator](dict(step.attributes).get, *inputs)))
        last = values[-1]
        assert last is not None
        return cast(last, self.dtype) if "int" in self.dtype else last


def operand_buffers(epilogue: Epilogue, shape: Sequence[Scalar], channels: Scalar = 1) -> list[tirx.Buffer]:
    """Declare the arguments that a kernel's epilogue reads, for a result of a shape; some may be rows of channels."""
    shapes = {Broadcast.CHANNELS: (channels,), Broadcast.ELEMENTS: tuple(shape), Broadcast.ROWS: (*shape[:-1], 1)}
    return [
        T.arg(f"operand{index}", T.buffer(shapes[operand.reach], operand.dtype))
        for index, operand in enumerate(epilogue.operands)
    ]


def _input(place: float | None, values: Sequence[tirx.Expr | None]) -> tirx.Expr | None:
    if place is None:
        return None
    if isinstance(place, int):
        return values[place]
    last = values[-1]
    assert last is not None
    return tirx.const(place, vector_type("float32", last))
