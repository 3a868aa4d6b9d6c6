"""What all kernels have in common: a function of TIR that TVM fuses with nothing, arguments, and loops over tasks."""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from inspect import signature
from typing import ParamSpec, TypeAlias, cast

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .machine import Machine
from .vectors import BFLOAT16, Scalar

_OPAQUE = 8
"""TVM's number for kernels that it fuses with nothing."""
_KEPT = 32
"""The kernels of each kind that are kept: a model asks for a few of them over and over again."""
P = ParamSpec("P")
Loop: TypeAlias = Callable[[Scalar, Scalar], AbstractContextManager[tirx.Expr]]
"""A loop from a begin to an end, whose variable its context gives."""


@dataclass(frozen=True, slots=True)
class _Kernel:
    """What has been declared of the kernel that is being emitted: arguments and functions in LLVM IR, by name."""

    machine: Machine
    parameters: dict[str, tirx.Buffer] = field(default_factory=dict[str, tirx.Buffer])
    functions: dict[str, str] = field(default_factory=dict[str, str])


_current: ContextVar[_Kernel] = ContextVar("kernel")


def kernel(emit: Callable[P, None]) -> Callable[P, tirx.PrimFunc]:
    """Turn a function that emits a kernel's arguments and code into one that returns it; the last ones are kept.

    Its parameter `machine` is what the kernel is for. The kernel's arguments share no memory.
    """
    form = signature(emit)

    @wraps(emit)
    def build(*args: P.args, **kwargs: P.kwargs) -> tirx.PrimFunc:
        found = _Kernel(form.bind(*args, **kwargs).arguments["machine"])
        token = _current.set(found)
        try:
            with IRBuilder() as code, T.prim_func(s_tir=True), _root():
                emit(*args, **kwargs)
        finally:
            _current.reset(token)
        functions = "\n".join(found.functions.values())
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_attr({"tirx.noalias": True, "op_pattern": _OPAQUE})
            for name, buffer in found.parameters.items():
                T.arg(name, buffer)
            with _root(), T.attr(0, "pragma_import_llvm", functions) if functions else nullcontext():
                T.add_to_parent(code.get().body.block.body)
        return builder.get()

    return cast("Callable[P, tirx.PrimFunc]", lru_cache(_KEPT)(build))


@contextmanager
def _root() -> Generator[None]:
    """Return a context for a kernel's block, without which TVM takes some kernels of one tensor for reshapes.

    TVM is told nothing of what it reads and writes, since to find that out would take it seconds.
    """
    with T.sblock("root"):
        T.reads()
        T.writes()
        yield


def argument(
    name: str,
    shape: Sequence[Scalar],
    dtype: str = "float32",
    view: Sequence[Scalar] | None = None,
    seen_as: str | None = None,
    strides: Sequence[Scalar] | None = None,
) -> tirx.Buffer:
    """Declare the next argument; return it as code sees it, in another shape or type: bfloat16 as bits."""
    _current.get().parameters[name] = buffer = T.buffer(shape, dtype)
    kind = seen_as or ("uint16" if dtype == BFLOAT16 else dtype)
    if view is None and kind == dtype:
        return buffer
    return T.decl_buffer(shape if view is None else view, kind, data=buffer.data, strides=strides)


def current_machine() -> Machine:
    """Return the machine that a kernel is being emitted for."""
    return _current.get().machine


def call_llvm(name: str, definition: str, dtype: str, *operands: tirx.Expr) -> tirx.Expr:
    """Call a function in LLVM IR, which is compiled into the kernel."""
    _current.get().functions[name] = definition
    return T.call_extern(dtype, name, *operands)


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
        return
    with T.If(condition):
        with T.Then():
            then()
        with T.Else():
            otherwise()
