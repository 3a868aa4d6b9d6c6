import numpy as np
import onnx_ir
import onnxruntime
import pytest

from planish.backends.onnx_model import to_onnx
from planish.ir.builder import Builder
from planish.ir.errors import ModelError, TargetError
from planish.ir.graph import Graph, Location
from planish.ir.types import DType, TensorType

VECTOR = TensorType(DType.float32, ("n",))


def run(graph: Graph, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    model = onnx_ir.to_proto(to_onnx(graph)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_outputs_come_under_their_promised_names() -> None:
    graph = Graph()
    x = graph.add_input("x", VECTOR)
    op = Builder(graph)
    y = op.Neg(x, name="inner")
    table = op.constant(np.array([7], np.float32), "table")
    graph.outputs = {"y": y, "again": y, "same": x, "x": x, "table": table, "copy": table, "z": op.Abs(y, name="y_1")}
    one = np.ones(2, np.float32)
    expected = {"y": -one, "again": -one, "same": one, "x": one, "table": [7], "copy": [7], "z": one}
    results = run(graph, x=one)
    assert list(results) == list(expected)
    for name, array in expected.items():
        assert np.array_equal(results[name], array), name


def test_codes_of_four_bits_may_be_two_outputs() -> None:
    graph = Graph()
    graph.outputs["x"] = graph.add_input("x", VECTOR)
    codes = graph.add_constant(np.array([3, 15], DType.uint4.numpy), "codes")
    graph.outputs |= {"codes": codes, "again": codes}
    model = to_onnx(graph)  # ONNX Runtime has no Identity of such codes
    onnxruntime.InferenceSession(onnx_ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    for name in ("codes", "again"):
        held = model.graph.initializers[name].const_value
        assert held is not None
        assert held.numpy().tolist() == [3, 15]


def test_a_value_gives_way_to_an_output_of_its_name() -> None:
    graph = Graph()
    op = Builder(graph)
    inner = op.Neg(graph.add_input("x", VECTOR), name="y")
    graph.outputs["y"] = op.Sub(inner, 1.0, name="other")
    assert np.array_equal(run(graph, x=np.ones(2, np.float32))["y"], [-2, -2])


def test_an_output_named_like_an_input_must_be_it() -> None:
    graph = Graph()
    graph.outputs["x"] = Builder(graph).Neg(graph.add_input("x", VECTOR))
    with pytest.raises(ModelError, match="output 'x' has the name of an input but is another value"):
        to_onnx(graph)


def test_attributes_have_the_types_of_the_schema() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, (2, 2)))
    op = Builder(graph)
    y = op.Gemm(x, np.eye(2, dtype=np.float32), alpha=2)  # an int for a float
    graph.outputs["y"] = op.Split(y, num_outputs=1, axis=0)
    attributes = {attribute.name: attribute for node in to_onnx(graph).graph for attribute in node.attributes.values()}
    assert attributes["alpha"].type is onnx_ir.AttributeType.FLOAT
    assert attributes["num_outputs"].type is onnx_ir.AttributeType.INT
    assert np.array_equal(run(graph, x=np.ones((2, 2), np.float32))["y"], np.full((2, 2), 2))


def test_an_operator_of_aten_is_refused_with_its_layer() -> None:
    graph = Graph()
    x = graph.add_input("x", VECTOR)
    graph.outputs["y"] = graph.add_node("aten::erfinv", [x], [VECTOR], location=Location("head.act")).output
    with pytest.raises(TargetError, match=r"head\.act: aten::erfinv has no counterpart in ONNX"):
        to_onnx(graph)


def test_tensors_share_the_graph_s_memory() -> None:
    graph = Graph()
    weight = np.ones((100, 100), np.float32)
    graph.outputs["y"] = Builder(graph).MatMul(graph.add_input("x", TensorType(DType.float32, ("n", 100))), weight)
    (tensor,) = (value.const_value for value in to_onnx(graph).graph.initializers.values())
    assert np.shares_memory(tensor.numpy(), weight)
