"""Hoisting of a module's large constants to parameters of `main`, so that they can be kept beside its library."""

from tvm import IRModule, relax
from tvm.ir import GenericConst
from tvm.runtime import Tensor

from ..runtime.weights import octets_of

_LEAST = 1 << 12
"""Bytes from which a constant becomes a parameter: smaller ones stay, since arguments take time as well."""


def hoisted(module: IRModule) -> tuple[IRModule, list[Tensor]]:
    """Return a module whose `main` takes its large constants as further parameters, and these constants as tensors.

    What kernels have taken in is removed first, such as a weight in the form that it was packed from: nothing reads it
    any more, and it would be stored beside the packed one.
    """
    module = relax.transform.DeadCodeElimination()(module)
    main, hoisting = module["main"], _Hoisting(module)
    assert isinstance(main, relax.Function)
    body = hoisting.visit_expr(main.body)
    found = hoisting.found
    changed = module.clone()
    changed["main"] = relax.Function([*main.params, *found.values()], body, main.ret_ty, attrs=main.attrs)
    return changed, [constant.value for constant in found]


@relax.expr_functor.mutator
class _Hoisting(relax.PyExprMutator):
    """A mutator that turns large constants into variables.

    TVM keeps such classes for good: a class that is made per call would keep its constants.
    """

    def __init__(self, module: IRModule) -> None:
        super().__init__(module)
        self.found: dict[GenericConst, relax.Var] = {}

    def visit_generic_const_(self, op: GenericConst) -> relax.Expr:
        if octets_of(op.value).shape[0] < _LEAST:
            return op
        return self.found.setdefault(op, relax.Var(f"weight_{len(self.found)}", op.ty))
