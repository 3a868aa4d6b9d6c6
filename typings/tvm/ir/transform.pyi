"""Passes over modules."""

from collections.abc import Callable, Sequence

from . import IRModule

class PassContext: ...

class Pass:
    def __call__(self, mod: IRModule) -> IRModule: ...

class Sequential(Pass):
    def __init__(self, passes: Sequence[Pass]) -> None: ...

def module_pass(pass_func: Callable[[IRModule, PassContext], IRModule], opt_level: int) -> Pass: ...
