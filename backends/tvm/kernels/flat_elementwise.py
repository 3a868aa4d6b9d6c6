"""Elementwise operators that stand alone, on tensors of one shape, element after element as they lie in memory."""

from collections.abc import Callable
from functools import lru_cache
from math import prod

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .epilogue import Epilogue, operand_buffers
from .machine import Machine
from .tiles import OPAQUE, ceil_div
from .vectors import Scalar, ramp

_CHUNK = 1 << 12
"""Elements of a task: waking a thread for fewer costs more than it saves."""


@lru_cache
def elementwise_kernel(shape: tuple[int | None, ...], epilogue: Epilogue, machine: Machine) -> tirx.PrimFunc:
    """Build a kernel of an epilogue's operands, all of one shape, to its result."""
    sizes = [tirx.Var(f"size{axis}", "int64") if size is None else size for axis, size in enumerate(shape)]
    count: Scalar = prod(sizes)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            given = operand_buffers(epilogue, sizes)
            y = T.arg("y", T.buffer(sizes, epilogue.dtype))
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            *beside, y = (T.decl_buffer((count,), buffer.dtype, data=buffer.data) for buffer in (*given, y))

            def step(at: Scalar) -> None:
                T.buffer_store(y, epilogue.applied(None, lambda index: beside[index][at]), [at])

            with T.sblock("root"):
                if isinstance(count, int) and count <= _CHUNK:
                    _walk(0, count, machine.lanes, step)
                else:
                    tasks = (
                        ceil_div(count, _CHUNK) if isinstance(count, int) else tirx.floordiv(count + _CHUNK - 1, _CHUNK)
                    )
                    with T.parallel(0, tasks) as task:
                        begin = task * _CHUNK
                        _walk(begin, tirx.min(count - begin, _CHUNK), machine.lanes, step)
        return builder.get()


def _walk(begin: Scalar, count: Scalar, lanes: int, step: Callable[[Scalar], None]) -> None:
    """Emit steps over contiguous elements: whole vectors, and the rest one by one."""
    whole = tirx.floordiv(count, lanes) if not isinstance(count, int) else count // lanes
    with T.serial(0, whole) as vector:
        step(ramp(begin + vector * lanes, lanes))
    with T.serial(0, count - whole * lanes) as rest:
        step(begin + whole * lanes + rest)
