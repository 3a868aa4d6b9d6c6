"""What is left of a graph fails as the whole did."""

import pytest

from planish.ir.graph import Constant, Graph
from planish.ir.text import parse_graph
from planish.passes.reduce import reduce

TEXT = """graph "main"(%x: float32[4]) {
  const %w: float32[4] = [1.0, 2.0, 3.0, 4.0]
  %a: float32[4] = Relu(%x)
  %high: float32[2], %low: float32[2] = Split(%a) {num_outputs = 2}
  %b: float32[2] = Neg(%high)
  return b = %b, w = %w, x = %x
}"""


def returns_constant(graph: Graph) -> bool:
    return any(isinstance(value, Constant) for value in graph.outputs.values())


def returns_input(graph: Graph) -> bool:
    return any(value in graph.inputs for value in graph.outputs.values())


def has_dead_output(graph: Graph) -> bool:
    made = [value for node in graph.nodes for value in node.outputs]
    return not all(value.use_count or graph.is_output(value) for value in made)


@pytest.mark.parametrize(
    ("fails", "nodes", "outputs"),
    [
        (returns_constant, [], ["w"]),
        (returns_input, [], ["x"]),
        (has_dead_output, ["Split"], ["high"]),
        (lambda graph: len(graph.outputs) == 3, ["Relu"], ["a", "w", "x"]),
    ],
)
def test_what_it_takes_to_fail_is_kept(fails, nodes: list[str], outputs: list[str]) -> None:
    part = reduce(parse_graph(TEXT, {}), fails)
    assert fails(part)
    assert [node.operator for node in part.nodes] == nodes
    assert list(part.outputs) == outputs


def test_a_graph_of_which_no_part_fails_is_left_whole() -> None:
    graph = parse_graph(TEXT.replace("return b = ", "return result = "), {})
    part = reduce(graph, lambda part: "result" in part.outputs)
    assert len(part) == len(graph)
    assert list(part.outputs) == ["result", "w", "x"]
