"""Rewriting of expressions; `mutator` makes a class of one whose methods TVM calls."""

from typing import TypeVar

from ..ir import Expr, GenericConst, IRModule

_Class = TypeVar("_Class", bound=type)

def mutator(cls: _Class) -> _Class: ...

class PyExprMutator:
    def __init__(self, mod: IRModule) -> None: ...
    def visit_expr(self, expr: Expr) -> Expr: ...
    def visit_generic_const_(self, op: GenericConst) -> Expr: ...
