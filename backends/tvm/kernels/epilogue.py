"""Epilogues, elementwise operators on a kernel's results while these are in registers, and kernels of them alone."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import TypeAlias

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .machine import Machine
from .prim_func import argument, kernel, maybe_parallel, symbols
from .vector_math import COARSE, ELEMENTS, Attributes
from .vectors import Scalar, cast, each_vector, held, lanes_at, ramp, size_of, spread, vector_type

Shape: TypeAlias = tuple[int | None, ...]
"""The sizes of a tensor: None for those that aren't known; scalars have no sizes."""
Place: TypeAlias = tuple[Scalar, ...]
"""The indices of a vector of the result: a row and columns, or an image, a block, a row, a column and lanes."""
_BLOCKED = 5
"""The axes of images in blocks."""


class Broadcast(Enum):
    """How an operand is broadcast to a result: it has a number for each channel (or column), element, or row."""

    CHANNELS = "channels"
    ELEMENTS = "elements"
    ROWS = "rows"


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that an epilogue reads: how it lies beside the kernel's result, and what elements it has."""

    reach: Broadcast
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class PostOp:
    """An elementwise operator.

    An input is a number, None, or a place among the kernel's result, the operands and the results of steps before.
    """

    operator: str
    attributes: Attributes
    inputs: tuple[int | float | None, ...]


@dataclass(frozen=True, slots=True)
class Epilogue:
    """Elementwise operators on a kernel's result; equal ones make equal kernels.

    Attributes:
        dtype: the element type of the last step's result, which is stored. Between steps, 8-bit integers are int32.
        is_coarse: whether the result, or all that is computed from it, is rounded to 8 bits or so at once.
    """

    operands: tuple[Operand, ...] = ()
    steps: tuple[PostOp, ...] = ()
    dtype: str = "float32"
    is_coarse: bool = False

    def applied(self, result: tirx.Expr | None, load: Callable[[int], tirx.Expr]) -> tirx.Expr:
        """Return the vector to store for a result, None if only operands are read; `load` reads one beside it."""
        beside = [held(load(index)) for index in range(len(self.operands))]
        values = [result if result is None or not self.steps else held(result), *beside]
        elements = COARSE if self.is_coarse else ELEMENTS

        def operand(place: float | None) -> tirx.Expr | None:
            if not isinstance(place, float):
                return None if place is None else values[place]
            assert values[-1] is not None
            return tirx.const(place, vector_type("float32", values[-1]))

        for step in self.steps:
            get = dict(step.attributes).get
            values.append(held(elements[step.operator](get, *map(operand, step.inputs))))
        assert values[-1] is not None
        return cast(values[-1], self.dtype) if "int" in self.dtype else values[-1]


@dataclass(frozen=True, slots=True)
class Result:
    """A kernel's result, with the epilogue on it and the buffers of the operands that this reads."""

    epilogue: Epilogue
    operands: Sequence[tirx.Buffer]
    y: tirx.Buffer

    @staticmethod
    def declare(epilogue: Epilogue, shape: Sequence[Scalar], view: Sequence[Scalar] | None = None) -> "Result":
        """Declare the last arguments, the epilogue's operands and the result; code sees them in the shape of a view."""
        channels = (shape[1] * shape[-1] if len(shape) == _BLOCKED else shape[-1] if shape else 1,)
        view = shape if view is None else view
        forms = {
            Broadcast.CHANNELS: (channels, channels),
            Broadcast.ELEMENTS: (shape, view),
            Broadcast.ROWS: ((*shape[:-1], 1), (*view[:-1], 1)),
        }
        found = enumerate((forms[operand.reach], operand.dtype) for operand in epilogue.operands)
        operands = [argument(f"operand{index}", given, dtype, seen) for index, ((given, seen), dtype) in found]
        return Result(epilogue, operands, argument("y", shape, epilogue.dtype, view))

    def store(self, vector: tirx.Expr | None, place: Place) -> None:
        """Emit the epilogue of a vector in a place, and store its result."""
        result = self.epilogue.applied(vector, lambda index: loaded_beside(self.operands[index], place))
        T.buffer_store(self.y, result, list(place))


def loaded_beside(operand: tirx.Buffer, place: Place) -> tirx.Expr:
    """Return an operand's vector in a place of the result: what has one axis has a number for each channel."""
    last, lanes = place[-1], lanes_at(place[-1])
    if not operand.shape:
        return spread(operand[()], lanes)
    if len(operand.shape) < len(place):
        return operand[ramp(place[1] * lanes, lanes) if len(place) == _BLOCKED else last]
    sizes = [size_of(size) for size in operand.shape]
    *axes, last = (0 if size == 1 else at for size, at in zip(sizes, place, strict=True))
    return spread(operand[(*axes, 0)], lanes) if sizes[-1] == 1 else operand[(*axes, last)]


@contextmanager
def each_pixel(shape: Sequence[Scalar], machine: Machine) -> Generator[Place]:
    """Return a context for the code of each pixel of images in blocks, given its place."""
    images, blocks, rows, columns, _ = shape
    tasks = images * blocks * rows
    loop = maybe_parallel(tasks * columns, machine.costs.vector_work)
    with loop(0, tasks) as task, T.serial(0, columns) as column:
        yield task // rows // blocks, task // rows % blocks, task % rows, column, ramp(0, machine.lanes)


@kernel
def elementwise_kernel(shape: Shape, epilogue: Epilogue, machine: Machine) -> None:
    """Emit a kernel of an epilogue's operands, all of one shape, to its result: element after element in memory."""
    sizes, chunk = symbols(shape), machine.costs.chunk
    count: Scalar = prod(sizes)
    result = Result.declare(epilogue, sizes, (count,))
    if isinstance(count, int) and count <= chunk:
        for at in each_vector(0, count, machine.lanes):
            result.store(None, (at,))
        return
    with T.parallel(0, (count + chunk - 1) // chunk) as task:
        for at in each_vector(task * chunk, tirx.min(count - task * chunk, chunk), machine.lanes):
            result.store(None, (at,))


@kernel
def pixels_kernel(shape: Shape, operands: tuple[Shape, ...], epilogue: Epilogue, machine: Machine) -> None:
    """Emit a kernel of images in blocks, which may be broadcast, rows of channels and numbers to images in blocks."""
    unknown = symbols((None,) * _BLOCKED)  # equal ones along an axis
    pairs = (zip(sizes, unknown, strict=False) for sizes in (*operands, shape))
    *beside, y = ([name if size is None else size for size, name in axes] for axes in pairs)
    pairs = enumerate(zip(beside, epilogue.operands, strict=True))
    buffers = [argument(f"operand{index}", sizes, operand.dtype) for index, (sizes, operand) in pairs]
    result = Result(epilogue, buffers, argument("y", y, epilogue.dtype))
    with each_pixel(y, machine) as place:
        result.store(None, place)
