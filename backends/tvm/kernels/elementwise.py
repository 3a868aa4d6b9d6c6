"""Elementwise operators that stand alone: on tensors of one shape, and on images in blocks."""

from collections.abc import Sequence
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .bfloat16 import BFLOAT16, imported
from .epilogue import Epilogue, Place, Result, each_pixel, viewed
from .machine import Machine
from .prim_func import kernel, symbols
from .vectors import Scalar, each_vector, ramp, spread

Shape = tuple[int | None, ...]
"""The sizes of a tensor: None for those that aren't known; scalars have no sizes."""


@kernel
def elementwise_kernel(shape: Shape, epilogue: Epilogue, machine: Machine) -> None:
    """Emit a kernel of an epilogue's operands, all of one shape, to its result: element after element in memory."""
    sizes, chunk = symbols(shape), machine.costs.chunk
    count: Scalar = prod(sizes)
    result = Result.declare(epilogue, sizes).viewed((count,))
    with T.sblock("root"), imported(machine, _rounds(epilogue)):
        if isinstance(count, int) and count <= chunk:
            each_vector(0, count, machine.lanes, lambda at: result.put(None, (at,), at))
            return
        with T.parallel(0, (count + chunk - 1) // chunk) as task:
            length = tirx.min(count - task * chunk, chunk)
            each_vector(task * chunk, length, machine.lanes, lambda at: result.put(None, (at,), at))


@kernel
def pixels_kernel(shape: Shape, operands: tuple[Shape, ...], epilogue: Epilogue, machine: Machine) -> None:
    """Emit a kernel of an epilogue's operands to its result, images in blocks.

    Operands are images in blocks, whose axes of one element are broadcast, rows of channels, or numbers.
    """
    batch, lanes = tirx.Var("batch", "int64"), machine.lanes
    names = [*(f"operand{index}" for index in range(len(operands))), "y"]
    dtypes = [*(operand.dtype for operand in epilogue.operands), epilogue.dtype]
    shapes = [tuple(batch if size is None else size for size in sizes) for sizes in (*operands, shape)]
    arguments = [T.arg(*each) for each in zip(names, map(T.buffer, shapes, dtypes), strict=True)]
    *buffers, y = map(viewed, arguments, shapes)
    with each_pixel(shapes[-1], machine, imports=_rounds(epilogue)) as place:
        vector = epilogue.applied(None, lambda index: _vector(buffers[index], shapes[index], place, lanes))
        T.buffer_store(y, vector, [*place, ramp(0, lanes)])


def _rounds(epilogue: Epilogue) -> bool:
    return epilogue.is_coarse or epilogue.dtype == BFLOAT16


def _vector(buffer: tirx.Buffer, shape: Sequence[Scalar], place: Place, lanes: int) -> tirx.Expr:
    """Return an operand's vector for a place of the result."""
    if len(shape) < len(place):
        return buffer[ramp(place[1] * lanes, lanes)] if shape else spread(buffer[()], lanes)
    at = [0 if isinstance(size, int) and size == 1 else index for size, index in zip(shape[:-1], place, strict=True)]
    return buffer[(*at, ramp(0, lanes))] if shape[-1] == lanes else spread(buffer[(*at, 0)], lanes)
