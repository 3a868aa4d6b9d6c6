"""Epilogues: elementwise operators on a kernel's results while they are still in registers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Self

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .bfloat16 import stored_as
from .vector_math import COARSE, ELEMENTS, Attributes
from .vectors import Scalar, cast, held, spread, vector_type


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


def viewed(buffer: tirx.Buffer, shape: Sequence[Scalar]) -> tirx.Buffer:
    """View a kernel's argument as its code reads it: in another shape, with bfloat16 held as bits."""
    return T.decl_buffer(shape, stored_as(str(buffer.dtype)), data=buffer.data)


@dataclass(frozen=True, slots=True)
class Result:
    """A kernel's result, with the epilogue on it and the buffers of the operands that this reads.

    Attributes:
        channels: how many numbers operands have that have one for each channel.
    """

    epilogue: Epilogue
    channels: Scalar
    buffers: Sequence[tirx.Buffer]
    y: tirx.Buffer

    @classmethod
    def declare(cls, epilogue: Epilogue, shape: Sequence[Scalar], channels: Scalar = 1) -> Self:
        """Declare a kernel's last arguments: the epilogue's operands, and a result of a shape."""
        beside = operand_buffers(epilogue, shape, channels)
        return cls(epilogue, channels, beside, T.arg("y", T.buffer(shape, epilogue.dtype)))

    def viewed(self, shape: Sequence[Scalar]) -> Self:
        """View the buffers as the kernel's code reads them, for a result of another shape."""
        y, beside = viewed(self.y, shape), list(self.buffers)
        for index, operand in enumerate(self.epilogue.operands):
            if operand.reach is not Broadcast.CHANNELS:
                beside[index] = viewed(beside[index], _shape(operand.reach, shape, self.channels))
        return type(self)(self.epilogue, self.channels, beside, y)

    def put(self, vector: tirx.Expr | None, place: tuple[Scalar, ...], channels: Scalar) -> None:
        """Emit the epilogue of a vector in a place, and in some channels, and store its result."""

        def load(index: int) -> tirx.Expr:
            buffer, reach = self.buffers[index], self.epilogue.operands[index].reach
            if vector is not None and reach is Broadcast.ROWS:
                return spread(buffer[(*place[:-1], 0)], vector.ty.dtype.lanes)
            return buffer[channels if reach is Broadcast.CHANNELS else place]

        T.buffer_store(self.y, self.epilogue.applied(vector, load), list(place))


def operand_buffers(epilogue: Epilogue, shape: Sequence[Scalar], channels: Scalar = 1) -> list[tirx.Buffer]:
    """Declare the arguments that a kernel's epilogue reads, for a result of a shape; some may be rows of channels."""
    return [
        T.arg(f"operand{index}", T.buffer(_shape(operand.reach, shape, channels), operand.dtype))
        for index, operand in enumerate(epilogue.operands)
    ]


def _shape(reach: Broadcast, shape: Sequence[Scalar], channels: Scalar) -> tuple[Scalar, ...]:
    rows = (*shape[:-1], 1)
    return {Broadcast.CHANNELS: (channels,), Broadcast.ELEMENTS: tuple(shape), Broadcast.ROWS: rows}[reach]


def _input(place: float | None, values: Sequence[tirx.Expr | None]) -> tirx.Expr | None:
    if place is None:
        return None
    if isinstance(place, int):
        return values[place]
    last = values[-1]
    assert last is not None
    return tirx.const(place, vector_type("float32", last))
