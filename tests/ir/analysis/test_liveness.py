"""A value dies once, after its last reader."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject, SearchStrategy

from planish.ir.analysis.liveness import last_uses, peak_activation_bytes
from planish.ir.graph import Constant, Graph
from planish.ir.text import parse_graph

TEXT = """\
graph "g"(%x: float32[batch, 8]) {
  const %s: float32[] = 2.0
  %a: float32[batch, 8] = Mul(%x, %s)
  %b: float32[batch, 16], %unread: float32[batch, 1] = test::Widen(%a, %a)
  %c: float32[batch, 8] = test::Narrow(%b, %x)
  %d: float32[batch, 8] = Add(%c, %a)
  return d = %d, a = %a
}
"""


def test_each_value_dies_after_its_last_reader() -> None:
    dying = last_uses(parse_graph(TEXT))
    assert [[value.name for value in values] for values in dying.values()][::-1] == [[], ["unread"], ["b", "x"], ["c"]]


@given(st.data())
def test_nothing_is_read_after_its_death(graphs: SearchStrategy[Graph], data: DataObject) -> None:
    graph = data.draw(graphs)
    dying = last_uses(graph)
    dead = set()
    for node in graph.nodes:
        assert dead.isdisjoint((*node.inputs, *node.captured))
        assert dead.isdisjoint(dying[node])
        dead.update(dying[node])
    read = {value for node in graph.nodes for value in (*node.inputs, *node.captured, *node.outputs)} - {None}
    assert dead == {value for value in read if not isinstance(value, Constant)} - set(graph.outputs.values())


def test_the_peak_is_where_most_is_alive() -> None:
    graph = parse_graph(TEXT)
    assert peak_activation_bytes(graph, {"batch": 1}) == 4 * (8 + 8 + 16 + 8)  # x, a, b and c, in Narrow
    assert peak_activation_bytes(graph, {"batch": 10}) == 10 * peak_activation_bytes(graph)
