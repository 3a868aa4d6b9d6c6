"""The verifier accepts well-formed graphs and names each planted fault."""

import re
from typing import Any

import numpy as np
import pytest

from planish.ir.errors import CheckError
from planish.ir.graph import Graph, Node, Value
from planish.ir.text import parse_graph
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify

TEXT = """\
graph "g"(%x: float32[batch, 3, 8, 8], %i: int64[4], %h: float16[4], %c: bool[]) {
  const %w: float32[4, 3, 1, 1] = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
  const %f: float32[4] = [1.0, 2.0, 3.0, 4.0]
  %conv: float32[batch, 4, 8, 8] = Conv(%x, %w) {strides = [1, 1]} @ "stem.conv" "model.py:7"
  %relu: float32[batch, 4, 8, 8] = Relu(%conv) @ "stem.act"
  return y = %relu
}
"""


@pytest.fixture
def graph() -> Graph:
    return parse_graph(TEXT)


def _insert(line: str) -> Graph:
    return parse_graph(TEXT.replace("  return", f'  {line} @ "head" "model.py:9"\n  return'))


@pytest.mark.parametrize(
    "line",
    [
        "%y: float32[2], %z: float32[2] = Split(%f) {axis = 0, num_outputs = 2}",
        "%y: float32[12] = Concat(%f, %f, %f) {axis = 0}",
        "%y: float32[4] = Clip(%f, none, none)",
        "%y: float32[4] = Cast(%i) {to = 1}",
        "%y: int64[unknown, 4] = NonZero(%f)",
        "%y: float32[4] = DequantizeLinear(%q, %f)".replace("%q", "%i8"),
        "%y: float32[] = ReduceSum(%f) {keepdims = 0}",
        "%y: float32[4], %m: float32[2], %v: float32[2] = LayerNormalization(%f, %f) {axis = -1}",
        """%y: float32[1, 4], %k: int64[4] = If(%c) {
            else_branch = graph "b"() { const %a: int8[1] = [1] return a = %a },
            then_branch = graph "b"() { %b: float32[4] = Relu(%f) return b = %b }}""",
        "%y: float32[4] = com.microsoft::Anything(%f, none, %h) {whatever = [1]}",
        "%y: float32[4] = Conv(%x, %w) {pads = []}",
    ],
)
def test_well_formed_nodes_pass(line: str) -> None:
    with_int8 = line.replace("%i8", "%q")
    before = "%q: int8[4] = Cast(%i) {to = 3}\n  " if "%q" in with_int8 else ""
    verify(_insert(before + with_int8))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("%y: float32[4] = Rellu(%f)", "ONNX's opset 28 has no operator Rellu; did you mean Relu?"),
        ("%y: float32[4] = Upsample(%f)", "ONNX's opset 28 has no operator Upsample"),
        ("%y: float32[4] = Relu()", "it has 0 inputs, and should have 1"),
        ("%y: float32[4] = Relu(%f, %f)", "it has 2 inputs, and should have 1"),
        ("%y: float32[4] = Concat() {axis = 0}", "it has 0 inputs, and should have at least 1"),
        ("%y: float32[4] = Clip(%f, %f, %f, %f)", "it has 4 inputs, and should have 1 to 3"),
        ("%y: float32[4], %z: float32[4] = Relu(%f)", "it has 2 outputs, and should have 1"),
        ("%y: float32[4] = Relu(none)", "its input 0 (X) is missing"),
        ("%y: float32[4] = Conv(%x, none, %f)", "its input 1 (W) is missing"),
        ("%y: float32[4] = Concat(%f, none) {axis = 0}", "its input 1 (inputs) is missing"),
        ("%y: float32[4] = Concat(%f)", "its attribute axis is missing"),
        ("%y: float32[4] = Concat(%f) {axes = 0, axis = 0}", "Concat has no attribute axes; did you mean axis?"),
        ("%y: float32[4] = Elu(%f) {alpha = 1}", "its attribute alpha is INT, and should be FLOAT"),
        ("%y: float32[4] = Conv(%x, %w) {pads = 1}", "its attribute pads is INT, and should be INTS"),
        ("%y: float32[4] = Conv(%x, %w) {pads = [1.0]}", "its attribute pads is FLOATS, and should be INTS"),
        ("%y: float32[4] = Concat(%f) {axis = []}", "its attribute axis is an empty list, and should be INT"),
        ("%y: float32[4] = Concat(%f) {axis = int64[] 0}", "its attribute axis is TENSOR, and should be INT"),
        ("%y: int64[4] = Erf(%c)", "its input 0 (input) is bool, and may be bfloat16, float16"),
        ("%y: float32[4] = Add(%f, %h)", "its input 1 (B) is float16, and should be float32 as A is"),
        ("%y: float16[4] = Add(%f, %f)", "its output 0 (C) is float16, and should be float32 as A is"),
        ("%y: float32[4] = Concat(%f, %f, %h) {axis = 0}", "its input 2 (inputs) is float16, and should be float32"),
        ("%y: float32[4] = Gather(%f, %f)", "its input 1 (indices) is float32, and may be int32, int64"),
        ("%y: int32[4] = Shape(%f)", "its output 0 (shape) is int32, and may be int64"),
        (
            '%y: float32[4] = If(%c) {else_branch = graph "e"() { %r: int8[1] = Rellu() return r = %r }}',
            "its attribute then_branch is missing",
        ),
    ],
)
def test_a_node_against_its_schema_is_named_with_its_layer(line: str, fault: str) -> None:
    with pytest.raises(CheckError, match=re.escape(f"of head at model.py:9: {fault}")):
        verify(_insert(line))


def test_a_fault_inside_a_branch_is_found() -> None:
    one, other = (f'graph "b"() {{ %{name}: int8[1] = Rellu() @ "inner" return r = %{name} }}' for name in "rs")
    with pytest.raises(CheckError, match=r"Rellu\(\) of inner"):
        verify(_insert(f"%y: float32[4] = If(%c) {{else_branch = {one}, then_branch = {other}}}"))


def _nodes(graph: Graph) -> tuple[Node, Node]:
    conv, relu = graph.nodes
    return conv, relu


def test_a_value_read_before_it_is_defined(graph: Graph) -> None:
    conv, relu = _nodes(graph)
    graph.add_node("Relu", [relu.output], [relu.output.type], before=conv)
    with pytest.raises(CheckError, match="it reads %relu, which nothing before it in the graph defines"):
        verify(graph)


def test_a_value_of_another_graph(graph: Graph) -> None:
    graph.set_input(_nodes(graph)[1], 0, parse_graph(TEXT).inputs[0])
    with pytest.raises(CheckError, match=r"Relu\(%x\) of stem.act: it reads %x"):
        verify(graph)


def test_an_output_that_nothing_defines(graph: Graph) -> None:
    graph.outputs["z"] = Value("ghost", TensorType(DType.float32, ()))
    with pytest.raises(CheckError, match="returns %ghost as z"):
        verify(graph)


def test_uses_that_lag_behind_the_edges(graph: Graph) -> None:
    conv, relu = _nodes(graph)
    relu._inputs = (graph.inputs[0],)
    with pytest.raises(CheckError, match=r"Relu\(%x\) of stem.act: its input 0 and the uses of %(x|conv) contradict"):
        verify(graph)
    relu._inputs = (conv.output,)
    verify(graph)


def test_two_values_of_one_name(graph: Graph) -> None:
    _nodes(graph)[1].output.name = "conv"
    with pytest.raises(CheckError, match="two values are named %conv"):
        verify(graph)


def test_an_output_with_another_producer(graph: Graph) -> None:
    conv, relu = _nodes(graph)
    relu.output.producer = conv
    with pytest.raises(CheckError, match="its output %relu names another producer"):
        verify(graph)


def test_a_node_without_outputs(graph: Graph) -> None:
    graph.add_node("test::Print", [graph.inputs[0]], [])
    with pytest.raises(CheckError, match="it has no outputs"):
        verify(graph)


@pytest.mark.parametrize("attribute", [np.int64(1), (1, 2.0), ((1,), (2,)), None, [1]])
def test_an_attribute_that_is_none_in_any_domain(graph: Graph, attribute: Any) -> None:
    graph.add_node("test::F", [graph.inputs[0]], [graph.inputs[0].type], {"a": attribute})
    with pytest.raises(CheckError, match=re.escape(f"its attribute a is {attribute!r}: no int")):
        verify(graph)


@pytest.mark.parametrize("dim", [-1, "?", "N x M", "3", "f(x)", ""])
def test_a_dimension_that_is_none(graph: Graph, dim: int | str) -> None:
    graph.inputs[0].type = TensorType(DType.float32, (dim, 3, 8, 8))
    with pytest.raises(CheckError, match=re.escape(f"has {dim!r} as a dimension")):
        verify(graph)


def test_a_constant_that_is_not_what_its_type_says(graph: Graph) -> None:
    graph.constants["f"].data = np.ones(5, np.float32)
    with pytest.raises(CheckError, match=re.escape("the data of %f: float32[4] is float32[5]")):
        verify(graph)


def test_a_constant_held_under_another_name(graph: Graph) -> None:
    graph.constants["g"] = graph.constants.pop("f")
    with pytest.raises(CheckError, match="the constant %f is held under the name g"):
        verify(graph)


class Asked(Node):
    """A node that counts how often any such node is hashed or compared."""

    __slots__ = ()
    count = 0

    def __hash__(self) -> int:
        Asked.count += 1
        return object.__hash__(self)

    def __eq__(self, other: object) -> bool:
        Asked.count += 1
        return self is other


def test_each_use_of_a_busy_value_is_looked_up_a_few_times(graph: Graph) -> None:
    for index in range(1000):
        node = graph.add_node("Relu", [graph.inputs[0]], [graph.inputs[0].type], names=[f"relu_{index}"])
        node.__class__ = Asked
    Asked.count = 0
    verify(graph)
    assert 1000 <= Asked.count < 10 * 1000
