"""A graph prints to text that a person can read, and the text parses back to an equal graph."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject, SearchStrategy

from planish.ir.equal import differences
from planish.ir.graph import Attribute, Graph
from planish.ir.text import parse_graph, print_graph, weights
from planish.ir.tokens import ParseError
from planish.ir.verify import verify

TEXT = """\
graph "main"(%x: float32[batch, 3, 32, 32], %mask: int64[batch, (height - 1)//2 + 1]) {
  const %conv1.weight: float32[16, 3, 3, 3]
  const %shape: int64[2] = [0, -1]
  const %half: bfloat16[] = 0.5
  const %"odd name": string[1] = ["\\u00e9\\n"]
  %conv: float32[batch, 16] = Conv(%x, %conv1.weight, none) {auto_pad = "VALID", group = 1} @ "features.0" "a.py:12"
  %/0/a: float32[2], %b: float32[3] = Split(%conv, %shape) {axis = 0} @ "split"
  %if: float32[2] = If(%b) {then_branch = graph "then"() {
    const %w: float32[5, 5]
    %y: float32[2] = test::F(%w) {alpha = 1.0, axes = [], value = int8[2] [1, 2]}
    return y = %y
  }}
  return logits = %conv, "odd name" = %b
}
"""


def _plain(attribute: Attribute) -> object:
    """An attribute as something that `==` compares to the bit; graphs are compared by `differences`."""
    match attribute:
        case np.ndarray():
            return attribute.tolist() if attribute.dtype == object else (attribute.dtype, attribute.tobytes())
        case tuple():
            return [(type(item), repr(item)) for item in attribute]
        case Graph():
            return "graph"
        case _:
            return type(attribute), repr(attribute)


@settings(max_examples=50)
@given(st.data())
def test_any_graph_reads_back_equal(graphs: SearchStrategy[Graph], data: DataObject) -> None:
    graph = data.draw(graphs)
    text = print_graph(graph)
    again = parse_graph(text, weights(graph))
    verify(again)
    assert print_graph(again) == text
    assert differences(graph, again) == []
    for name, constant in graph.constants.items():
        assert _plain(again.constants[name].data) == _plain(constant.data)
    for node, twin in zip(graph.nodes, again.nodes, strict=True):
        assert {key: _plain(value) for key, value in twin.attributes.items()} == {
            key: _plain(value) for key, value in node.attributes.items()
        }


def test_the_text_is_what_it_says() -> None:
    data = {"conv1.weight": np.ones((16, 3, 3, 3), np.float32), "if>then_branch>w": np.ones((5, 5), np.float32)}
    graph = parse_graph(TEXT, data)
    assert print_graph(graph) == TEXT
    assert weights(graph).keys() == data.keys()
    conv, split, branch = graph.nodes
    assert (conv.location.module, conv.location.source) == ("features.0", "a.py:12")
    assert conv.inputs == (graph.inputs[0], graph.constants["conv1.weight"], None)
    assert conv.attributes == {"auto_pad": "VALID", "group": 1}
    assert [use.node for use in conv.output.uses] == [split]
    assert graph.outputs == {"logits": conv.output, "odd name": split.outputs[1]}
    assert graph.constants["odd name"].data.tolist() == ["é\n"]
    inner = branch.attributes["then_branch"]
    assert isinstance(inner, Graph)
    assert inner.outputs["y"].producer is not None
    assert inner.outputs["y"].producer.attributes.keys() == {"alpha", "axes", "value"}
    assert inner.outputs["y"].producer.attributes["axes"] == ()


def test_seventeen_elements_are_too_many_for_a_line() -> None:
    graph = Graph()
    graph.add_constant(np.arange(16), "short")
    graph.add_constant(np.arange(17), "long")
    assert weights(graph).keys() == {"long"}


def test_comments_and_layout_mean_nothing() -> None:
    text = 'graph "g"(%x: float32[2]){//a comment\n%y:float32[2]=Relu(%x)//another\n\n return y=%y}'
    assert print_graph(parse_graph(text)) == (
        'graph "g"(%x: float32[2]) {\n  %y: float32[2] = Relu(%x)\n  return y = %y\n}\n'
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%y: float32[2] = Relu(%xx)", r"line 2, column 25: no value %xx is defined before this; did you mean %x\?"),
        ("%y: float32[2] = Relu(%y)", r"column 25: no value %y"),
        ("%x: float32[2] = Relu(%x)", r"column 3: %x is defined twice"),
        ("%y: float32[2], %y: float32[2] = Relu(%x)", r"%y is defined twice"),
        ("%y: float23[2] = Relu(%x)", r"column 7: float23 is no element type; did you mean float32\?"),
        ("%y: float32[a b] = Relu(%x)", r"a b is no dimension"),
        ("%y: float32[-1] = Relu(%x)", r"-1 is no dimension"),
        ("%y: float32[2,] = Relu(%x)", r"nothing is no dimension"),
        ("%y: float32 = Relu(%x)", r"expected a type, found float32"),
        ("%y: float32[2] = Relu(%x", r"line 3, column 3: expected ,, found return"),
        ("%y: float32[2] = Relu(%x) {axis = }", r"expected a number, found \}"),
        ("%y: float32[2] = Relu(%x) {axis = [1, 2.0]}", r"column 38: a list holds"),
        ("%y: float32[2] = Relu(%x) ?", r"column 29: unexpected '\?'"),
        (r'%y: float32[2] = Relu(%x) @ "\q"', r"column 31: Invalid \\escape"),
        ("const %c: float32[20]", r"column 9: there is no data for %c"),
        ("const %w: float32[20]", r"column 9: the data for %w is float32\[30\], not float32\[20\]"),
        ("const %c: int8[2] = [1, 300]", r"column 23: 300 is no int8"),
        ("const %c: int8[3] = [1, 2]", r"column 23: 2 elements don't make a int8\[3\]"),
    ],
)
def test_an_error_says_where_and_what(line: str, message: str) -> None:
    text = f'graph "g"(%x: float32[2]) {{\n  {line}\n  return x = %x\n}}\n'
    with pytest.raises(ParseError, match=message):
        parse_graph(text, {"w": np.zeros(30, np.float32)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: expected graph, found the end"),
        ('graph "g"() {', "expected a name, found the end"),
        ('graph "g"() { return } more', "column 24: expected a end, found more"),
        ('graph "g"(%x: int8[1]) { return a = %x, a = %x }', "a is returned twice"),
    ],
)
def test_an_unfinished_graph_is_refused(text: str, message: str) -> None:
    with pytest.raises(ParseError, match=message):
        parse_graph(text)
