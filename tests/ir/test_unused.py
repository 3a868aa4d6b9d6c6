"""Constants, and what is made of them, go once nobody reads them, and not before."""

from planish.ir.graph import Graph
from planish.ir.text import parse_graph
from planish.ir.unused import drop_unused

SOURCE = """graph "main"(%x: float32[2, 2]) {
  const %w: float32[2, 2] = [1.0, 2.0, 3.0, 4.0]
  const %held: float32[2] = [5.0, 6.0]
  const %returned: float32[2] = [7.0, 8.0]
  const %spare: float32[2] = [9.0, 10.0]
  %turned: float32[2, 2] = Transpose(%w) {perm = [1, 0]}
  %y: float32[2, 2] = Add(%x, %held)
  return y = %y, z = %returned
}"""


def graph() -> Graph:
    return parse_graph(SOURCE, {})


def test_constants_that_nobody_reads_or_returns_go() -> None:
    found = graph()
    drop_unused(found, found.constants.values())
    assert list(found.constants) == ["w", "held", "returned"]


def test_a_transpose_goes_before_the_constant_that_it_reads() -> None:
    found = graph()
    turned = next(iter(found.nodes)).output
    drop_unused(found, [turned, found.constants["w"]])
    assert [node.operator for node in found.nodes] == ["Add"]
    assert "w" not in found.constants


def test_a_value_may_be_listed_twice() -> None:
    found = graph()
    spare = found.constants["spare"]
    drop_unused(found, [spare, spare])
    assert "spare" not in found.constants
