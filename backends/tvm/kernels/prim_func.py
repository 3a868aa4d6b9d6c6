"""What all kernels have in common: a function of TIR that TVM fuses with nothing, and loops over tasks."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache, wraps
from typing import ParamSpec, TypeAlias, cast

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .vectors import Scalar

_OPAQUE = 8
"""TVM's number for kernels that it fuses with nothing."""
_KEPT = 32
"""The kernels of each kind that are kept: a model asks for a few of them over and over again."""
P = ParamSpec("P")
Loop: TypeAlias = Callable[[Scalar, Scalar], AbstractContextManager[tirx.Expr]]
"""A loop from a begin to an end, whose variable its context gives."""


def kernel(emit: Callable[P, None]) -> Callable[P, tirx.PrimFunc]:
    """Turn a function that emits a kernel's arguments and code into one that returns it; the last ones are kept.

    The arguments share no memory.
    """

    @wraps(emit)
    def build(*args: P.args, **kwargs: P.kwargs) -> tirx.PrimFunc:
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_attr({"tirx.noalias": True, "op_pattern": _OPAQUE})
            emit(*args, **kwargs)
        return builder.get()

    return cast("Callable[P, tirx.PrimFunc]", lru_cache(_KEPT)(build))


def symbol(name: str, size: int | None) -> Scalar:
    """Return a size, or a variable for one that isn't known."""
    return tirx.Var(name, "int64") if size is None else size


def symbols(sizes: Sequence[int | None]) -> list[Scalar]:
    """Return the sizes of axes, with variables for those that aren't known."""
    return [symbol(f"size{axis}", size) for axis, size in enumerate(sizes)]


def maybe_parallel(operations: Scalar, least: int) -> Loop:
    """Return the loop over a kernel's tasks: parallel unless their operations are known to be fewer than some."""
    return T.serial if isinstance(operations, int) and operations < least else T.parallel


def either(condition: bool | tirx.Expr, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
    """Emit one of two codes, or both around a condition that isn't known until the kernel runs."""
    if isinstance(condition, bool):
        (then if condition else otherwise)()
    else:
        with T.If(condition):
            with T.Then():
                then()
            with T.Else():
                otherwise()
