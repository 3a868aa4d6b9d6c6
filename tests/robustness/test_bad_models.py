"""Broken ONNX files: each is refused by a message that names the file and the place, and none ends the process."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from planish.frontends.onnx import read_onnx
from planish.frontends.onnx_convert import normalized
from planish.ir.errors import ModelError

Edit = Callable[[onnx.ModelProto], object]

NET = "net (float[2, 3] x) => (float[2, 3] y) { h = Relu(x)  c = Constant <value = float {2}> ()  y = Mul(h, c) }"
CHOICE = """net (bool c, float[2] x) => (float[2] y) {
    y = If (c) <then_branch = a () => (float[2] t) { t = Neg(x) },
                else_branch = b () => (float[2] u) { u = Abs(x) }> }"""
LOOP = """net (int64 n, float[2] x) => (float[2] y) {
    c = Constant <value = bool {1}> ()
    y = Loop (n, c, x) <body = g (int64 i, bool k, float[2] s) => (bool l, float[2] t) {
      l = Identity(k)  t = Neg(s) }> }"""


def parsed(body: str, opset: int = 24) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {body}')


def refused(model: onnx.ModelProto, tmp_path: Path, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=message) as caught:
        read_onnx(path)
    assert str(caught.value).startswith(f"{path}")
    assert str(caught.value).isprintable()


def relu(model: onnx.ModelProto) -> onnx.NodeProto:
    return model.graph.node[0]


def inputs_twice(model: onnx.ModelProto) -> None:
    model.graph.input.append(model.graph.input[0])


def weights_twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.extend([numpy_helper.from_array(np.ones(2, np.float32), "w")] * 2)


def a_weight_of_a_wrong_size(model: onnx.ModelProto) -> None:
    weight = numpy_helper.from_array(np.ones(2, np.float32), "w")
    weight.dims[0] = 3
    model.graph.initializer.append(weight)


def a_weight_of_a_negative_size(model: onnx.ModelProto) -> None:
    a_weight_of_a_wrong_size(model)
    model.graph.initializer[0].dims[0] = -2


def a_weight_in_a_field_of_another_type(model: onnx.ModelProto) -> None:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], uint64_data=[1, 2])
    model.graph.initializer.append(weight)


def a_sparse_weight(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.name = "w"


def a_reference(model: onnx.ModelProto) -> None:
    relu(model).attribute.add(name="alpha", ref_attr_name="beta", type=AttributeProto.FLOAT)


def an_attribute_without_a_type(model: onnx.ModelProto) -> None:
    relu(model).attribute.add(name="alpha", f=1.0)


def an_attribute_of_two_kinds(model: onnx.ModelProto) -> None:
    relu(model).attribute.add(name="alpha", f=1.0, i=1, type=AttributeProto.FLOAT)


def an_attribute_twice(model: onnx.ModelProto) -> None:
    relu(model).attribute.extend([helper.make_attribute("alpha", 1.0)] * 2)


def an_attribute_of_another_type(model: onnx.ModelProto) -> None:
    relu(model).op_type = "Softmax"
    relu(model).attribute.append(helper.make_attribute("axis", "last"))


def a_text_that_is_none(model: onnx.ModelProto) -> None:
    relu(model).attribute.append(helper.make_attribute("alpha", b"\xff"))


def no_operator(model: onnx.ModelProto) -> None:
    relu(model).op_type = ""


def no_outputs(model: onnx.ModelProto) -> None:
    del relu(model).output[:]


def too_many_inputs(model: onnx.ModelProto) -> None:
    relu(model).input.extend(["x", "x"])


def too_few_inputs(model: onnx.ModelProto) -> None:
    relu(model).op_type = "Add"


def a_left_out_input(model: onnx.ModelProto) -> None:
    relu(model).input[:] = ["", "x"]
    relu(model).op_type = "Add"


def an_output_twice(model: onnx.ModelProto) -> None:
    model.graph.node[2].output[0] = "h"


def a_value_that_is_an_input_as_well(model: onnx.ModelProto) -> None:
    relu(model).output[0] = "x"


def a_result_twice(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.output[0])


def a_constant_without_a_value(model: onnx.ModelProto) -> None:
    del model.graph.node[1].attribute[:]


def an_input_without_a_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].ClearField("type")


def an_input_without_a_name(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = ""


def elements_of_no_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 0


def elements_of_an_unknown_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 999


def a_map(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.map_type.key_type = TensorProto.INT64


def a_sequence_of_nothing(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.sequence_type.SetInParent()


def operators_of_two_versions(model: onnx.ModelProto) -> None:
    model.opset_import.add(domain="ai.onnx", version=21)


def operators_of_no_version(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 0


def a_name_with_controls(model: onnx.ModelProto) -> None:
    relu(model).name = "\x1b]0;owned\x07"


def a_long_name(model: onnx.ModelProto) -> None:
    relu(model).name = "n" * 10_000_000


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (inputs_twice, "the graph has the input 'x' twice"),
        (weights_twice, "the graph has the weight 'w' twice"),
        (a_weight_of_a_wrong_size, "weight 'w' is damaged"),
        (a_weight_of_a_negative_size, "weight 'w' has 1 axes or a negative size"),
        (a_weight_in_a_field_of_another_type, "weight 'w' is damaged"),
        (a_sparse_weight, "the graph has the sparse weight 'w'"),
        (a_reference, r"node 'h' \(Relu\): attribute 'alpha' is that of a function, but the node is in none"),
        (an_attribute_without_a_type, r"node 'h' \(Relu\): attribute 'alpha' has no type"),
        (an_attribute_of_two_kinds, r"node 'h' \(Relu\): attribute 'alpha' holds something other than a float"),
        (an_attribute_twice, r"node 'h' \(Relu\): it has the attribute 'alpha' twice"),
        (an_attribute_of_another_type, r"node 'h' \(Softmax\): attribute 'axis' must be a int, not a string"),
        (a_text_that_is_none, r"node 'h' \(Relu\): attribute 'alpha' holds b'\\xff', which is not UTF-8"),
        (no_operator, r"node 'h' \(\): it has no operator"),
        (no_outputs, r"a node without a name \(Relu\): it has no outputs"),
        (too_many_inputs, r"node 'h' \(Relu\): it has 3 inputs, and should have 1"),
        (too_few_inputs, r"node 'h' \(Add\): it has 1 inputs, and should have 2"),
        (a_left_out_input, r"node 'h' \(Add\): its input 'A' is missing"),
        (an_output_twice, r"node 'h' \(Mul\): the graph defines 'h' twice"),
        (a_value_that_is_an_input_as_well, r"node 'x' \(Relu\): the graph defines 'x' twice"),
        (a_result_twice, "the graph returns 'y' twice"),
        (a_constant_without_a_value, r"node 'c' \(Constant\): it has 0 values"),
        (an_input_without_a_type, "input 'x' has no type"),
        (an_input_without_a_name, "the graph has an input, an output or a weight without a name"),
        (elements_of_no_type, "input 'x' has element type UNDEFINED"),
        (elements_of_an_unknown_type, "input 'x' has element type 999, which planish doesn't know"),
        (a_map, "input 'x' is a map, and planish knows tensors, sequences and optionals"),
        (a_sequence_of_nothing, "input 'x' has no type"),
        (operators_of_two_versions, "it names the operators of the standard in two versions, "),
        (operators_of_no_version, "in version 0"),
        (a_name_with_controls, "with characters that can't be printed"),
        (a_long_name, "a name of 10,000,000 characters, 'nnn"),
    ],
    ids=lambda it: getattr(it, "__name__", ""),
)
def test_a_broken_model_is_refused_where_it_is_broken(edit: Edit, message: str, tmp_path: Path) -> None:
    model = parsed(NET)
    edit(model)
    refused(model, tmp_path, message)


@pytest.mark.parametrize(("body", "name"), [(CHOICE, "then_branch"), (CHOICE, "else_branch"), (LOOP, "body")])
def test_missing_graphs(body: str, name: str, tmp_path: Path) -> None:
    model = parsed(body)
    node = model.graph.node[-1]
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    refused(model, tmp_path, rf"node 'y' \({node.op_type}\): attribute '{name}', a graph, is missing")
    node.attribute.add(name=name, type=AttributeProto.GRAPH)
    refused(model, tmp_path, rf"node 'y' \({node.op_type}\): attribute '{name}' holds nothing")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    content = parsed(NET).SerializeToString().replace(b"\x01h", b"\x01\xff")
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"node .* \(Relu\): it has the name b'\\xff', which is not UTF-8"):
        read_onnx(tmp_path / "model.onnx")


CRASHES = [("Upsample", "scales", 7), ("Split", "split", 12), ("Unsqueeze", "axes", 11), ("Pad", "pads", 10)]
"""Operators and attributes of which onnx's converter reads a text as numbers, and crashes."""


def crashing(operator: str, attribute: str, opset: int) -> onnx.ModelProto:
    model = parsed("n (float[2] x) => (float[2] y) { y = Relu(x) }", opset)
    relu(model).op_type = operator
    relu(model).attribute.append(helper.make_attribute(attribute, "abc"))
    return model


@pytest.mark.parametrize(("operator", "attribute", "opset"), CRASHES)
def test_what_crashes_the_converter_doesn_t_reach_it(operator: str, attribute: str, opset: int, tmp_path: Path) -> None:
    message = rf"node 'y' \({operator}\): attribute '{attribute}' must be a \w+, not a string"
    refused(crashing(operator, attribute, opset), tmp_path, message)


@pytest.mark.parametrize(("operator", "attribute", "opset"), CRASHES[:1])
def test_a_crash_of_the_converter_is_a_refusal(operator: str, attribute: str, opset: int) -> None:
    with pytest.raises(
        ModelError, match=r"m.onnx: it can't be converted .* onnx's converter crashes on it \(SIGSEGV\)"
    ):
        normalized(crashing(operator, attribute, opset), Path("m.onnx"))
