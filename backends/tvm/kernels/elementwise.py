"""Elementwise operators that stand alone: on tensors of one shape, and on images in blocks."""

from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .epilogue import Epilogue, Result, each_pixel
from .machine import Machine
from .prim_func import argument, kernel, symbols
from .vectors import Scalar, each_vector

Shape = tuple[int | None, ...]
"""The sizes of a tensor: None for those that aren't known; scalars have no sizes."""


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
    """Emit a kernel of an epilogue's operands to its result, images in blocks.

    Operands are images in blocks, whose axes of one element are broadcast, rows of channels, or numbers.
    """
    batch = tirx.Var("batch", "int64")
    *beside, y = ([batch if size is None else size for size in sizes] for sizes in (*operands, shape))
    pairs = enumerate(zip(beside, epilogue.operands, strict=True))
    buffers = [argument(f"operand{index}", sizes, operand.dtype) for index, (sizes, operand) in pairs]
    result = Result(epilogue, buffers, argument("y", y, epilogue.dtype))
    with each_pixel(y, machine) as place:
        result.store(None, place)
