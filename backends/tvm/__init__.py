"""Apache TVM: the graph is lowered to Relax and compiled to a shared library."""

from .backend import Tvm

BACKEND = Tvm()
