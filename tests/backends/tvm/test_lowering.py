import numpy as np
import pytest

pytest.importorskip("tvm")

from tvm import relax

from planish.backends.tvm import converters
from planish.backends.tvm.lowering import to_relax
from planish.ir.errors import TargetError
from planish.passes.legalization.origins import Origins


def test_a_result_whose_shape_tvm_can_t_tell_is_refused_with_the_layer(make_graph, target, monkeypatch) -> None:
    """Or its compiler would stumble over it later, when nobody knows the layer any more."""

    def negate(lowering, node):
        x = lowering.tensor(node.inputs[0])
        return relax.op.add(x, relax.const(np.zeros(3, np.float32)))  # for all that TVM knows, n may be 3 or 1

    monkeypatch.setitem(converters.CONVERTERS, "Neg", negate)
    graph = make_graph(lambda op, x: op.Abs(op.Neg(op.Relu(x))), "n")
    with pytest.raises(TargetError, match=r"layer: TVM can't run Neg: it can't tell the shape that relax\.add gives"):
        to_relax(graph, Origins.of(graph), target)


def test_a_slice_whose_bounds_are_a_matrix_is_guarded_as_by_a_row(make_graph, target) -> None:
    """The standard wants rows, but the interpreter takes this too."""
    bounds = np.array([1], np.int64), np.array([5], np.int64)
    row, matrix = (
        make_graph(lambda op, x, shape=shape: op.Slice(op.Relu(x), *(one.reshape(shape) for one in bounds)), "n")
        for shape in [(1,), (1, 1)]
    )
    guards = [to_relax(graph, Origins.of(graph), target).guards for graph in (row, matrix)]
    assert guards[0] == guards[1]
    assert guards[0].early
