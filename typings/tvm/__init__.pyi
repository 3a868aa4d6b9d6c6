"""Types of the part of TVM 0.27 that planish uses: TVM's own annotations are missing or wrong in places.

TVM has one class for expressions of any type, and one for variables of any type: what an expression is, its `ty` says
at run time. Here numbers that kernels compute with (`tirx.Expr`), buffers (`tirx.Buffer`) and Relax's expressions
(`relax.Expr`) are told apart, since functions take one of them and not the others. A number is also an expression of
Relax.
"""

from . import ir as ir
from . import relax as relax
from . import runtime as runtime
from . import target as target
from . import te as te
from . import tirx as tirx
from .ir import IRModule as IRModule
from .ir import transform as transform
from .runtime import Executable
from .target import Target
from .tirx import PrimFunc

__version__: str

def compile(mod: PrimFunc | IRModule, target: Target | None = None) -> Executable: ...
