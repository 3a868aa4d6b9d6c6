"""Tensors that are computed element by element."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, overload

from tvm_ffi import dtype

from . import ir
from .ir import ExprOperand, PrimType
from .tirx import Buffer, Expr, IterVar, Stmt

_Operand: TypeAlias = ExprOperand | float
_Axes: TypeAlias = IterVar | Sequence[IterVar]

class TensorSlice(ExprOperand):
    """An element of a tensor."""

class Tensor(ir.Expr):
    dtype: PrimType
    shape: Sequence[Expr]
    def __call__(self, *indices: _Operand) -> Expr: ...
    def __getitem__(self, indices: _Operand | tuple[_Operand, ...]) -> TensorSlice: ...

class _Reducer(Protocol):
    def __call__(self, expr: _Operand, axis: _Axes) -> Expr: ...

class _PairReducer(Protocol):
    def __call__(self, expr: tuple[_Operand, _Operand], axis: _Axes) -> tuple[Expr, Expr]: ...

@overload
def comm_reducer(fcombine: Callable[[Expr, Expr], Expr], fidentity: Callable[[dtype], Expr]) -> _Reducer: ...
@overload
def comm_reducer(
    fcombine: Callable[[Sequence[Expr], Sequence[Expr]], tuple[Expr, Expr]],
    fidentity: Callable[[dtype, dtype], tuple[Expr, Expr]],
) -> _PairReducer: ...
@overload
def compute(shape: Sequence[_Operand], fcompute: Callable[..., _Operand], name: str = "compute") -> Tensor: ...
@overload
def compute(
    shape: Sequence[_Operand], fcompute: Callable[..., tuple[Expr, Expr]], name: str = "compute"
) -> tuple[Tensor, Tensor]: ...
@overload
def extern(
    shape: Sequence[Sequence[_Operand]],
    inputs: Sequence[Tensor],
    fcompute: Callable[[Sequence[Buffer], Sequence[Buffer]], Stmt],
    name: str = "extern",
    *,
    dtype: PrimType,
    out_buffers: Sequence[Buffer],
) -> Tensor: ...
@overload
def extern(
    shape: Sequence[Sequence[_Operand]],
    inputs: Sequence[Tensor],
    fcompute: Callable[[Sequence[Buffer], Sequence[Buffer]], Stmt],
    name: str = "extern",
    *,
    dtype: list[str],
    out_buffers: Sequence[Buffer],
) -> Sequence[Tensor]: ...
def reduce_axis(dom: tuple[_Operand, _Operand], name: str = "rv") -> IterVar: ...
def sum(expr: _Operand, axis: _Axes) -> Expr: ...
