"""Epilogues: elementwise operators on a kernel's results while they are still in registers.

Results are matrices, or images in blocks of channels.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Self, TypeAlias

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .bfloat16 import imported, stored_as
from .machine import Machine
from .prim_func import maybe_parallel
from .vector_math import COARSE, ELEMENTS, Attributes
from .vectors import Scalar, cast, held, known, ramp, spread, vector_type

Place: TypeAlias = tuple[Scalar, Scalar, Scalar, Scalar]
"""An image, a block, a row and a column."""
_LONG = frozenset({"Elu", "Erf", "Exp", "Gelu", "Sigmoid", "Tanh"})
_STACK = 1024 // 4
"""Float32 numbers that a TVM function may put on the stack at once; more would be taken from the workspace."""


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


class BlockedEpilogue(Result):
    """A kernel's images in blocks, with the epilogue on them."""

    __slots__ = ()

    @classmethod
    def of(cls, epilogue: Epilogue, shape: Sequence[Scalar]) -> "BlockedEpilogue":
        """Declare a kernel's last arguments: images of a shape that the epilogue reads, and the result."""
        return cls.declare(epilogue, shape, shape[1] * shape[-1])

    @property
    def lanes(self) -> int:
        """The channels of a block."""
        return known(self.y.shape[-1])

    @property
    def is_long(self) -> bool:
        """Whether the epilogue's code is so long that a kernel should hold it once, not for each vector."""
        return any(step.operator in _LONG for step in self.epilogue.steps)

    def store_one(self, vector: tirx.Expr | None, place: Place) -> None:
        """Emit and store the epilogue's result for a vector."""
        lanes = self.lanes
        self.put(vector, (*place, ramp(0, lanes)), ramp(place[1] * lanes, lanes))

    def store(self, vectors: Sequence[Sequence[tirx.Expr]], place: Place) -> None:
        """Emit and store the epilogue of a tile's vectors, given by column and block: in loops if its code is long."""
        image, first, row, start = place
        if not self.is_long:
            for column, line in enumerate(vectors):
                for number, vector in enumerate(line):
                    self.store_one(vector, (image, first + number, row, start + column))
            return
        blocks, lanes = len(vectors[0]), self.lanes
        count = max(_STACK // (blocks * lanes), 1)
        for begin in range(0, len(vectors), count):
            part = vectors[begin : begin + count]
            stack = T.alloc_buffer((len(part), blocks, lanes), "float32")
            for column, line in enumerate(part):
                for number, vector in enumerate(line):
                    T.buffer_store(stack, vector, [column, number, ramp(0, lanes)])
            with T.serial(0, len(part)) as column, T.serial(0, blocks) as number:
                at = (image, first + number, row, start + begin + column)
                self.store_one(stack[column, number, ramp(0, lanes)], at)


@contextmanager
def each_pixel(shape: Sequence[Scalar], machine: Machine, *, imports: bool) -> Generator[Place]:
    """Return a context for the code of each pixel of images in blocks, given its place."""
    images, blocks, rows, columns, _ = shape
    tasks = images * blocks * rows
    loop = maybe_parallel(tasks * columns, machine.costs.vector_work)
    with T.sblock("root"), imported(machine, imports), loop(0, tasks) as task, T.serial(0, columns) as column:
        yield task // rows // blocks, task // rows % blocks, task % rows, column


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
    if not isinstance(place, float):
        return None if place is None else values[place]
    last = values[-1]
    assert last is not None
    return tirx.const(place, vector_type("float32", last))
