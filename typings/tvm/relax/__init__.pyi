"""Relax: functions of tensors, which call kernels."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np

from .. import tirx
from ..ir import BaseFunc as _BaseFunc
from ..ir import Call as Call
from ..ir import Expr as Expr
from ..ir import GenericConst, GlobalVar, IRModule, PrimType, Type
from ..ir import Tuple as Tuple
from ..ir import TupleGetItem as TupleGetItem
from ..ir import TupleType as TupleType
from ..ir.transform import Pass
from ..runtime import Executable
from ..target import Target
from ..te import Tensor as _Tensor
from . import backend as backend
from . import expr_functor as expr_functor
from . import op as op
from . import transform as transform
from . import utils as utils
from .expr_functor import PyExprMutator as PyExprMutator

class ShapeExpr(Expr):
    values: Sequence[tirx.Expr]
    def __init__(self, values: Sequence[tirx.Expr | int]) -> None: ...
    def __getitem__(self, index: int) -> tirx.Expr: ...
    def __len__(self) -> int: ...

class TensorType(Type):
    dtype: PrimType
    shape: Expr | None
    def __init__(self, shape: ShapeExpr | Sequence[tirx.Expr | int] | None, dtype: str) -> None: ...

class ShapeType(Type):
    def __init__(self, values: Sequence[tirx.Expr | int]) -> None: ...

class Var(Expr):
    """A variable for a tensor or a tuple; `tirx.Var` says what stands for numbers."""

    name: str
    def __init__(self, name: str, ty: Type) -> None: ...

class VarBinding:
    var: Var
    value: Expr

class MatchCast:
    """A variable for a value whose type is checked at run time."""

    var: Var
    value: Expr

class BindingBlock:
    bindings: Sequence[VarBinding | MatchCast]

class SeqExpr(Expr):
    blocks: Sequence[BindingBlock]
    body: Expr

class Function(_BaseFunc):
    params: Sequence[Var]
    body: SeqExpr
    ret_ty: Type
    def __init__(
        self, params: Sequence[Var], body: Expr, ret_ty: Type, *, attrs: Mapping[str, object] | None = None
    ) -> None: ...

class ExternFunc(_BaseFunc):
    def __init__(self, global_symbol: str) -> None: ...

class BlockBuilder:
    def function(self, name: str, params: Sequence[Var]) -> AbstractContextManager[object]: ...
    def dataflow(self) -> AbstractContextManager[object]: ...
    def add_func(self, func: _BaseFunc, func_name: str) -> GlobalVar: ...
    def call_te(
        self, func: Callable[..., _Tensor | Sequence[_Tensor]], *args: Expr, primfunc_name_hint: str, **kwargs: object
    ) -> Call: ...
    def emit(self, expr: Expr) -> Var: ...
    def emit_output(self, output: Expr) -> Var: ...
    def emit_func_output(self, output: Expr) -> GlobalVar: ...
    def match_cast(self, value: Expr, ty: Type) -> Var: ...
    def normalize(self, expr: Expr) -> Expr: ...
    def get(self) -> IRModule: ...

def const(value: np.ndarray | np.generic | float, dtype: str | None = None) -> GenericConst: ...
def prim_value(value: tirx.Expr | float) -> tirx.Expr: ...
def call_tir(gvar: GlobalVar, args: Sequence[Expr], out_ty: TensorType | Sequence[TensorType]) -> Call: ...
def get_pipeline(name: str) -> Pass: ...
def build(mod: IRModule, target: Target, *, relax_pipeline: str | None) -> Executable: ...
