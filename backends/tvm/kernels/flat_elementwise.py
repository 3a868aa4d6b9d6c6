"""Elementwise operators that stand alone, on tensors of one shape, element after element as they lie in memory."""

from collections.abc import Callable
from functools import lru_cache
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .epilogue import Epilogue, Result, viewed
from .machine import Machine
from .prim_func import kernel, symbols
from .vectors import Scalar, ramp


@lru_cache
@kernel
def elementwise_kernel(shape: tuple[int | None, ...], epilogue: Epilogue, machine: Machine) -> None:
    """Emit a kernel of an epilogue's operands, all of one shape, to its result."""
    sizes = symbols(shape)
    count: Scalar = prod(sizes)
    chunk = machine.costs.chunk
    given = Result.declare(epilogue, sizes)
    *beside, y = (viewed(buffer, (count,)) for buffer in (*given.buffers, given.y))
    result = Result(epilogue, 1, beside, y)

    def step(at: Scalar) -> None:
        result.put(None, (at,), at)

    with T.sblock("root"):
        if isinstance(count, int) and count <= chunk:
            _walk(0, count, machine.lanes, step)
            return
        with T.parallel(0, (count + chunk - 1) // chunk) as task:
            begin = task * chunk
            _walk(begin, tirx.min(count - begin, chunk), machine.lanes, step)


def _walk(begin: Scalar, count: Scalar, lanes: int, step: Callable[[Scalar], None]) -> None:
    """Emit steps over contiguous elements: whole vectors, and the rest one by one."""
    whole = count // lanes
    with T.serial(0, whole) as vector:
        step(ramp(begin + vector * lanes, lanes))
    with T.serial(0, count - whole * lanes) as rest:
        step(begin + whole * lanes + rest)
