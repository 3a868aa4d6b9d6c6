"""A part of a graph takes what it read of the rest, and returns what only the rest read."""

import pytest

from planish.ir.extract import extract
from planish.ir.graph import Graph
from planish.ir.text import parse_graph, print_graph
from planish.ir.verify import verify

TEXT = """graph "main"(%x: float32[n, 2], %y: float32[2]) {
  const %w: float32[2] = [1.0, 2.0]
  %a: float32[n, 2] = Add(%x, %w)
  %b: float32[n, 2] = Relu(%a)
  %c: float32[n, 2] = Mul(%a, %y)
  %d: float32[n, 2] = Sub(%b, %c)
  return d = %d, a = %a
}"""


@pytest.fixture
def graph() -> Graph:
    return parse_graph(TEXT, {})


@pytest.mark.parametrize(
    ("kept", "inputs", "outputs", "constants"),
    [
        ({0, 1, 2, 3}, "x y", "a d", "w"),
        ({0}, "x", "a", "w"),
        ({1, 2}, "y a", "b c", ""),
        ({3}, "b c", "d", ""),
        ({0, 3}, "x b c", "a d", "w"),
        (set(), "", "", ""),
    ],
)
def test_a_part(graph: Graph, kept: set[int], inputs: str, outputs: str, constants: str) -> None:
    part = extract(graph, kept)
    verify(part)
    assert [value.name for value in part.inputs] == inputs.split()
    assert list(part.outputs) == outputs.split()
    assert list(part.constants) == constants.split()
    assert len(part) == len(kept)
    assert print_graph(graph) == print_graph(parse_graph(TEXT, {})), "it is left as it was"


def test_what_nobody_reads_is_returned_only_where_nothing_else_is() -> None:
    graph = parse_graph(
        """graph "main"(%x: float32[4]) {
          const %w: float32[2] = [1.0, 2.0]
          %a: float32[2], %b: float32[2] = Split(%x) {num_outputs = 2}
          %c: float32[2] = Neg(%a)
          return c = %c, w = %w, x = %x
        }""",
        {},
    )
    assert [list(extract(graph, kept).outputs) for kept in ({0, 1}, {0}, {1})] == [["c"], ["a"], ["c"]]
    graph.outputs = {}
    assert list(extract(graph, {0, 1}).outputs) == ["b", "c"]


def test_inputs_and_constants_are_returned_where_they_are_named(graph: Graph) -> None:
    graph.outputs |= {"w": graph.constants["w"], "y": graph.inputs[1]}
    part = extract(graph, {1}, ["w", "y"])
    verify(part)
    assert [value.name for value in part.inputs] == ["y", "a"]
    assert list(part.outputs) == ["b", "w", "y"]
    assert list(part.constants) == ["w"]


def test_what_a_branch_reads_of_the_rest_becomes_an_input() -> None:
    inner = 'graph "{}"() {{ %{}: float32[2] = {}(%a) return y = %{} }}'
    graph = parse_graph(
        f"""graph "main"(%x: float32[2], %p: bool[]) {{
          %a: float32[2] = Relu(%x)
          %y: float32[2] = If(%p) {{
            else_branch = {inner.format("no", "s", "Neg", "s")}, then_branch = {inner.format("yes", "t", "Exp", "t")}}}
          return y = %y
        }}""",
        {},
    )
    part = extract(graph, {1})
    verify(part)
    assert [(value.name, str(value.type)) for value in part.inputs] == [("p", "bool[]"), ("a", "float32[2]")]
