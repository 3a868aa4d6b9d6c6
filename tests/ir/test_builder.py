"""The builder turns operands into values, infers types, and speaks of the user's layer when it can't."""

from typing import Any

import numpy as np
import pytest

from planish.ir.builder import Builder, Operand
from planish.ir.errors import ModelError
from planish.ir.graph import Constant, Graph, Location, Value
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify

LAYER = Location("encoder.0", "model.py:3")


@pytest.fixture
def graph() -> Graph:
    graph = Graph()
    graph.add_input("x", TensorType(DType.float32, ("batch", 4)))
    return graph


@pytest.fixture
def x(graph: Graph) -> Value:
    return graph.inputs[0]


def test_nodes_have_inferred_types_a_location_and_the_wished_name(graph: Graph, x: Value) -> None:
    op = Builder(graph, location=LAYER)
    y = op.Relu(op.MatMul(x, np.ones((4, 8), np.float32)), name="hidden")
    graph.outputs["y"] = y
    assert y.type == TensorType(DType.float32, ("batch", 8))
    assert [(node.operator, node.location) for node in graph.nodes] == [("MatMul", LAYER), ("Relu", LAYER)]
    assert y.name == "hidden"
    verify(graph)


def test_nodes_stand_before_the_one_that_was_given(graph: Graph, x: Value) -> None:
    last = Builder(graph).Relu(x).producer
    op = Builder(graph, before=last)
    op.Neg(op.Abs(x))
    assert [node.operator for node in graph.nodes] == ["Abs", "Neg", "Relu"]


@pytest.mark.parametrize(
    ("operand", "array"),
    [
        (2, np.float32(2)),
        (2.5, np.float32(2.5)),
        (True, np.float32(1)),
        (np.ones((1, 4), np.float32), np.ones((1, 4), np.float32)),
        (np.float32(3), np.float32(3)),
    ],
)
def test_what_is_no_value_becomes_a_constant_of_its_neighbours_type(
    graph: Graph, x: Value, operand: Operand, array: Any
) -> None:
    constant = Builder(graph).Add(x, operand).producer.inputs[1]
    assert isinstance(constant, Constant)
    assert constant.type == TensorType.of(np.asarray(array))
    np.testing.assert_array_equal(constant.data, array)


def test_a_row_of_ints_is_an_int64_constant(graph: Graph, x: Value) -> None:
    op = Builder(graph)
    assert op.Reshape(x, [0, 2, 2]).producer.constant(1).dtype == np.int64
    assert op.Reshape(x, (0, 1, 4)).type.shape == ("batch", 1, 4)
    assert op.Reshape(x, [0, 2, 2]).type.shape == ("batch", 2, 2)


def test_numbers_without_a_neighbour_are_int64_and_float32(graph: Graph) -> None:
    op = Builder(graph)
    assert op.Neg(3).dtype is DType.int64
    assert op.Neg(3.0).dtype is DType.float32
    assert op.constant([1, 2], "axes").type == TensorType(DType.int64, (2,))
    assert op.constant(0.5).dtype is DType.float32
    assert op.constant(np.float16(1)).dtype is DType.float16


def test_an_array_is_shared(graph: Graph) -> None:
    weight = np.ones((4, 4), np.float32)
    assert Builder(graph).constant(weight, "w").data is weight
    assert graph.constants["w"].data is weight


def test_absent_inputs_are_kept_between_others_and_dropped_at_the_end(graph: Graph, x: Value) -> None:
    op = Builder(graph)
    assert op.Clip(x, None, 1.0).producer.inputs[1] is None
    assert len(op.Clip(x, None, None).producer.inputs) == 1


def test_attributes_take_the_graphs_form(graph: Graph, x: Value) -> None:
    op = Builder(graph)
    assert op.Transpose(x, perm=[1, 0]).producer.attributes == {"perm": (1, 0)}
    assert op.Cast(x, to=DType.float16).producer.attributes == {"to": 10}
    assert op.ReduceMax(x, [1], keepdims=False).producer.attributes == {"keepdims": 0}
    assert type(op.ReduceMax(x, [1], keepdims=True).producer.attributes["keepdims"]) is int
    assert op.Gelu(x, approximate=None).producer.attributes == {}
    verify(graph)


def test_several_outputs_come_as_a_tuple(graph: Graph, x: Value) -> None:
    values, indices = Builder(graph).TopK(x, [2], outputs=2, axis=-1)
    assert (values.type, indices.dtype) == (TensorType(DType.float32, ("batch", 2)), DType.int64)
    assert values.producer is indices.producer


def test_other_domains_are_called_by_their_full_name(graph: Graph, x: Value) -> None:
    y = Builder(graph)("com.microsoft::FusedMatMul", x, np.ones((5, 4), np.float32), transB=1, alpha=0.5)
    assert y.type.shape == ("batch", 5)
    assert y.producer.operator == "com.microsoft::FusedMatMul"


def test_an_unknown_operator_is_refused_with_the_layer_and_the_nearest_name(graph: Graph, x: Value) -> None:
    with pytest.raises(ModelError, match=r"^encoder.0 at model.py:3: unknown operator Rellu; did you mean Relu\?$"):
        Builder(graph, location=LAYER).Rellu(x)
    assert len(graph) == 0


def test_inputs_that_do_not_fit_are_refused_with_the_layer_and_the_types(graph: Graph, x: Value) -> None:
    with pytest.raises(ModelError, match=r"encoder.0 .*: MatMul\(float32\[batch, 4\], float32\[5, 4\]\) can't be"):
        Builder(graph, location=LAYER).MatMul(x, np.ones((5, 4), np.float32))
    assert len(graph) == 0


def test_a_builder_has_no_private_operators(graph: Graph) -> None:
    with pytest.raises(AttributeError):
        _ = Builder(graph)._repr_html_
