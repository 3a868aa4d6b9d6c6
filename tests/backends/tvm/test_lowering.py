import numpy as np
import pytest

pytest.importorskip("tvm")

from tvm import relax

from planish.backends.tvm.relax.converters import table
from planish.backends.tvm.relax.lowering import to_relax
from planish.backends.tvm.support import SUPPORT, always
from planish.ir.errors import TargetError
from planish.passes.legalization.origins import Origins


def test_a_result_whose_shape_tvm_can_t_tell_is_refused_with_the_layer(make_graph, target, monkeypatch) -> None:
    """Or its compiler would stumble over it later, when nobody knows the layer any more."""

    def negate(lowering, node):
        x = lowering.tensor(node.inputs[0])
        return relax.op.add(x, relax.const(np.zeros(3, np.float32)))  # for all that TVM knows, n may be 3 or 1

    monkeypatch.setitem(table.CONVERTERS, "Neg", negate)
    graph = make_graph(lambda op, x: op.Abs(op.Neg(op.Relu(x))), "n")
    with pytest.raises(TargetError, match=r"layer: TVM can't run Neg: it can't tell the shape that relax\.add gives"):
        to_relax(graph, Origins.of(graph), target)


@pytest.mark.parametrize("operator", sorted(table.CONVERTERS.keys() | table.FUSED_KERNELS.keys()))
def test_legalization_leaves_something_to_every_converter(operator: str) -> None:
    """An operator that is always spelled out never gets to its converter, and nobody would notice."""
    assert SUPPORT.expanded.get(operator) is not always


@pytest.mark.parametrize("operator", ["Slice", "TopK"])
def test_a_matrix_in_place_of_a_row_is_guarded_as_the_row(make_graph, target, operator: str) -> None:
    """The standard wants rows, but the interpreter takes this too."""
    rows, attributes = {"Slice": ([1, 5], {}), "TopK": ([5], {"axis": 0, "outputs": 2})}[operator]

    def guards(*shape: int):
        def build(op, x):
            found = op(operator, op.Relu(x), *(np.full(shape, number) for number in rows), **attributes)
            return found[0] if isinstance(found, tuple | list) else found

        graph = make_graph(build, "n")
        return to_relax(graph, Origins.of(graph), target).guards

    assert guards(1) == guards(1, 1)
    assert guards(1).early
